"""The layers of a picture: what stands in each of them, and in which order.

Every box gets a row below all boxes that it depends on. Between two rows lies a layer for the labels
of the lines that begin there, so that a label has a place of its own, as dot gives it one. A line gets
a bend in every layer that it crosses, a label being one; so it is led round what stands there.

Where an item is the only one below another, and that the only one above it, the two are one column:
a chain of stages, or the middle of a long line. Columns do not cross, so they can be drawn straight.
Sweeps over the layers put each item near the mean of its neighbours (the barycentre), items that stand
side by side are exchanged where that helps, and columns are put into the order in which they began;
the order with the fewest crossings is kept.

Sources: K. Sugiyama, S. Tagawa, M. Toda, "Methods for visual understanding of hierarchical system
structures" (1981); E. Gansner, E. Koutsofios, S. North, K.-P. Vo, "A technique for drawing directed
graphs" (1993), for labels and exchanges; G. Sander, "A fast heuristic for hierarchical Manhattan
layout" (1996), for the columns, there called linear segments; W. Barth, M. Jünger, P. Mutzel, "Simple
and efficient bilayer cross counting" (2002). Nothing here is recursive or random.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

SWEEPS = 24
"""Sweeps over the layers; in random graphs of 25 stages twice as many save one crossing in a hundred."""
MOST_BENDS = 20_000
"""Beyond this the lines that are left go straight across: such a picture is not read line by line."""
BEND = 5.0
"""How far a line wants others to keep from it, on either side."""


class Layers:
    """Boxes, bends and labels in layers. A number below `count` is a box, any other a bend.

    Attributes:
        rows: the items of each layer, from left to right.
        row: the layer of each item.
        for_labels: whether a layer is one between two rows of boxes.
        above, below: the neighbours of each item in the layers next to its own.
        chains: for each line, its items from box to box.
        label: for each line, the bend that carries its label, if it has one.
        wide: how far an item reaches to the left and to the right of its middle.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[float, float]],
        lines: Sequence[tuple[int, int]],
        labels: Sequence[float],
    ) -> None:
        self.count = len(sizes)
        rows = _rows(self.count, lines)
        labelled = {rows[upper] for (upper, _), width in zip(lines, labels, strict=True) if width}
        layer_of = []
        self.for_labels: list[bool] = []
        for row in range(max(rows, default=0) + 1):
            layer_of.append(len(self.for_labels))
            self.for_labels += [False, True] if row in labelled else [False]
        self.row = [layer_of[row] for row in rows]
        self.wide = [(width / 2, width / 2) for width, _ in sizes]
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.label: list[int | None] = []
        self.chains = [self._chain(*line, label) for line, label in zip(lines, labels, strict=True)]
        self.rows: list[list[int]] = [[] for _ in self.for_labels]
        for item, layer in enumerate(self.row):
            self.rows[layer].append(item)

    def _chain(self, upper: int, lower: int, label: float) -> list[int]:
        """Lead one line through the layers between its boxes; the first one is for its label."""
        chain = [upper]
        between = range(self.row[upper] + 1, self.row[lower])
        if len(self.row) + len(between) >= self.count + MOST_BENDS:
            between = between[: 1 if label else 0]
        for layer in between:
            chain.append(len(self.row))
            self.row.append(layer)
            self.wide.append((BEND, BEND))
            self.above.append([])
            self.below.append([])
        if label:
            self.wide[chain[1]] = (BEND, label)
        self.label.append(chain[1] if label else None)
        chain.append(lower)
        for one, other in pairwise(chain):
            if self.row[other] == self.row[one] + 1:
                self.below[one].append(other)
                self.above[other].append(one)
        return chain

    def over(self, item: int) -> int | None:
        """Give the item above this one in its column, if there is one."""
        above = self.above[item]
        return above[0] if len(above) == 1 and len(self.below[above[0]]) == 1 else None

    def places(self) -> list[int]:
        """Give the place of each item in its layer."""
        place = [0] * len(self.row)
        for row in self.rows:
            for number, item in enumerate(row):
                place[item] = number
        return place

    # -- the order ------------------------------------------------------------------------------

    def order(self) -> None:
        """Sweep down and up; keep the order with the fewest crossings."""
        self._begin_deep()
        self._uncross_columns()
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(SWEEPS):
            if not fewest:
                break
            self._sweep(down=sweep % 2 == 0, turn=sweep % 4 > 1)
            self._exchange()
            self._uncross_columns()
            found = self._crossings()
            if found < fewest:
                best, fewest = [list(row) for row in self.rows], found
        self.rows = best

    def _begin_deep(self) -> None:
        """Begin with the order of a walk in depth, so that what belongs together stands together."""
        seen: dict[int, int] = {}
        for start in range(len(self.row)):
            stack = [start] if not self.above[start] else []
            while stack:
                item = stack.pop()
                if item not in seen:
                    seen[item] = len(seen)
                    stack.extend(reversed(self.below[item]))
        for row in self.rows:
            row.sort(key=lambda item: seen[item])

    def _sweep(self, *, down: bool, turn: bool) -> None:
        """Sort each layer by the mean place of the neighbours in the one before.

        Where that is the same for several, they keep their order, or are turned round to try that too.
        """
        neighbours = self.above if down else self.below
        place = self.places()
        for row in self.rows if down else reversed(self.rows):
            means = {
                item: sum(place[n] for n in near) / len(near) if near else float(place[item])
                for item in row
                for near in [neighbours[item]]
            }
            if turn:
                row.reverse()
            row.sort(key=means.__getitem__)
            for number, item in enumerate(row):
                place[item] = number

    def _exchange(self) -> None:
        """Exchange items that stand side by side where that makes for fewer crossings."""
        place = self.places()
        for row in self.rows:
            for number in range(len(row) - 1):
                one, other = row[number : number + 2]
                saved = 0
                for near in (self.above, self.below):
                    others = sorted(place[n] for n in near[other])
                    for end in (place[n] for n in near[one]):
                        saved += bisect_left(others, end) + bisect_right(others, end) - len(others)
                if saved > 0:
                    row[number], row[number + 1] = other, one
                    place[one], place[other] = number + 1, number

    def _uncross_columns(self) -> None:
        """Let items that go on a column stand in the order of what they stand below."""
        place = self.places()
        for row in self.rows:
            slots = [number for number, item in enumerate(row) if self.over(item) is not None]
            items = sorted(
                (row[slot] for slot in slots), key=lambda item: place[self.above[item][0]]
            )
            for slot, item in zip(slots, items, strict=True):
                row[slot] = item
                place[item] = slot

    def _crossings(self) -> int:
        """Count the crossings between neighbouring layers, with a tree of sums."""
        place = self.places()
        total = 0
        for upper, lower in pairwise(self.rows):
            ends = [end for item in upper for end in sorted(place[n] for n in self.below[item])]
            sums = [0] * (len(lower) + 1)
            for count, end in enumerate(ends):
                total += count - _sum_to(sums, end + 1)
                _add(sums, end + 1)
        return total


def _rows(count: int, lines: Sequence[tuple[int, int]]) -> list[int]:
    """Give each box its row: the longest way down to it, entries just above what they feed."""
    row = [0] * count
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for upper, lower in lines:
        above[lower].append(upper)
        below[upper].append(lower)
    for box in range(count):
        row[box] = max((row[upper] + 1 for upper in above[box]), default=0)
    for box in reversed(range(count)):
        if not above[box] and below[box]:
            row[box] = min(row[lower] for lower in below[box]) - 1
    return row


def _sum_to(sums: list[int], index: int) -> int:
    total = 0
    while index > 0:
        total += sums[index]
        index -= index & -index
    return total


def _add(sums: list[int], index: int) -> None:
    while index < len(sums):
        sums[index] += 1
        index += index & -index
