"""Where in its layer each item of a picture stands, as U. Brandes and B. Köpf described it.

Items are aligned with the median of their neighbours, in blocks that stand straight; a column (see
`_draw_layers`) goes before any line that crosses it, so all columns are straight. This is done four
times, with the neighbours above or below and from the left or the right, each time as narrow as the
blocks allow, and each item gets the mean of the two middle places. All four keep the order and the
gaps, hence so does the mean. What the mean leaves aslant for no reason is mended last: a column
that is not between the medians at its two ends goes there, as far as there is room.

Sources: U. Brandes, B. Köpf, "Fast and simple horizontal coordinate assignment" (2001). Blocks are
placed by their longest paths in two passes, as dagre does it, which is not subject to the mistake
that U. Brandes, J. Walter and J. Zink found in the original (2020).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise

from ._draw_layers import Layers

Gap = Callable[[int, int], float]
SWEEPS = 6
"""Rounds in which columns follow each other; in pictures that fit a screen two are enough."""


def place(layers: Layers, gap: Gap) -> list[float]:
    """Give the middle of each item, at least a gap from that of the one on its left."""
    crossed = _crossed(layers)
    candidates = []
    for down in (True, False):
        for sign in (1, -1):
            root = _align(layers, crossed, down, sign)
            candidates.append(_pack(layers, root, gap, sign))
    x = _balance(candidates)
    _shorten(layers, gap, x)
    return x


def _crossed(layers: Layers) -> set[tuple[int, int]]:
    """Find the lines between two layers that cross a column: they may not be aligned."""
    at = layers.places()
    crossed = set()
    for upper, lower in pairwise(layers.rows):
        columns = [item for item in lower if layers.over(item) is not None]
        tops, bottoms = [at[layers.above[item][0]] for item in columns], [at[i] for i in columns]
        crossed |= {
            (item, below)
            for item in upper
            for below in layers.below[item]
            if layers.over(below) is None
            and bisect_left(tops, at[item]) != bisect_left(bottoms, at[below])
        }
    return crossed


def _align(layers: Layers, crossed: set[tuple[int, int]], down: bool, sign: int) -> list[int]:
    """Give for each item the first one of its block."""
    at = [sign * place for place in layers.places()]
    neighbours = layers.above if down else layers.below
    root = list(range(len(at)))
    for row in layers.rows if down else reversed(layers.rows):
        reached = float("-inf")
        for item in row[::sign]:
            near = sorted(neighbours[item], key=at.__getitem__)
            for other in near[(len(near) - 1) // 2 : len(near) // 2 + 1]:
                line = (other, item) if down else (item, other)
                if at[other] > reached and line not in crossed:
                    root[item] = root[other]
                    reached = at[other]
                    break
    return root


def _pack(layers: Layers, root: list[int], gap: Gap, sign: int) -> list[float]:
    """Place the blocks as far to the left (or right) as they go, then close the gaps."""
    after: dict[int, list[tuple[int, float]]] = {block: [] for block in root}
    waits = dict.fromkeys(after, 0)
    for row in layers.rows:
        for left, right in pairwise(row):
            one, other = (root[left], root[right])[::sign]
            after[one].append((other, gap(left, right)))
            waits[other] += 1
    x = dict.fromkeys(after, 0.0)
    order = [block for block, count in waits.items() if not count]
    for block in order:  # it grows as blocks become ready
        for other, distance in after[block]:
            x[other] = max(x[other], x[block] + distance)
            waits[other] -= 1
            if not waits[other]:
                order.append(other)
    for block in reversed(order):
        if after[block]:
            x[block] = min(x[other] - distance for other, distance in after[block])
    return [sign * x[block] for block in root]


def _balance(candidates: list[list[float]]) -> list[float]:
    """Align all with the narrowest; take the mean of the two middle ones."""
    if not candidates[0]:
        return []
    narrowest = min(candidates, key=lambda xs: max(xs) - min(xs))
    for number, xs in enumerate(candidates):
        end = max if number % 2 else min
        shift = end(narrowest) - end(xs)
        candidates[number] = [x + shift for x in xs]
    return [sum(_middles(places)) / 2 for places in zip(*candidates, strict=True)]


def _middles(values: Sequence[float]) -> tuple[float, float]:
    """Give the two middle ones of some values; of an odd number the median twice."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]


def _shorten(layers: Layers, gap: Gap, x: list[float]) -> None:
    """Move columns to between the medians at their ends; nothing leaves its order."""
    columns = _columns(layers)
    at = layers.places()
    for sweep in range(SWEEPS):
        moved = False
        for column in columns if sweep % 2 == 0 else reversed(columns):
            ends = [
                middle
                for near in (layers.above[column[0]], layers.below[column[-1]])
                if near
                for middle in _middles([x[n] for n in near])
            ]
            if not ends:
                continue
            wish = min(max(x[column[0]], min(ends)), max(ends))
            for item in column:
                row, place = layers.rows[layers.row[item]], at[item]
                if place:
                    wish = max(wish, x[row[place - 1]] + gap(row[place - 1], item))
                if place + 1 < len(row):
                    wish = min(wish, x[row[place + 1]] - gap(item, row[place + 1]))
            if abs(wish - x[column[0]]) > 0.01:
                moved = True
                for item in column:
                    x[item] = wish
        if not moved:
            return


def _columns(layers: Layers) -> list[list[int]]:
    """Give the items of each column from the top down, upper columns first."""
    columns: dict[int, list[int]] = {}
    for row in layers.rows:
        for item in row:
            over = layers.over(item)
            column = [] if over is None else columns.pop(over)
            column.append(item)
            columns[item] = column
    return list(columns.values())
