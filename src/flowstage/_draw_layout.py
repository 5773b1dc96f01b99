"""Where the boxes of a picture stand: a layered layout, as Sugiyama, Tagawa and Toda described it.

Every box gets a row below all boxes it depends on. A line that crosses rows gets a bend in each of
them, so that it is led round the boxes there. Sweeps over the rows put each box near the mean of its
neighbours (the barycentre), first in the order within a row, where the order with the fewest
crossings is kept, then in the place, where the least squares that keep the order are solved exactly
(pooling of adjacent violators). Nothing here is recursive or random.

Sources: K. Sugiyama, S. Tagawa, M. Toda, "Methods for visual understanding of hierarchical system
structures" (1981); W. Barth, M. Jünger, P. Mutzel, "Simple and efficient bilayer cross counting"
(2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from attrs import frozen

SWEEPS = 12
"""Sweeps over the rows; more change nothing in pictures that fit a screen."""
MOST_BENDS = 20_000
"""Beyond this the lines that are left go straight across: such a picture is not read line by line."""
BEND_WIDTH = 10.0
LINE_WEIGHT = 8.0
"""How much more a bend insists on standing straight below the bend above it than a box does."""


@frozen
class Layout:
    """Where everything stands.

    Attributes:
        places: the middle of the upper side of each box.
        routes: the points of each line, from the lower side of one box to the upper side of another.
        width, height: of the whole picture.
    """

    places: tuple[tuple[float, float], ...]
    routes: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


def lay_out(
    sizes: Sequence[tuple[float, float]],
    lines: Sequence[tuple[int, int]],
    *,
    gap: float = 26.0,
    row_gap: float = 46.0,
) -> Layout:
    """Find a place for boxes of the given sizes, joined by lines that all lead downwards.

    Args:
        sizes: width and height of each box, in an order in which every line leads forwards.
        lines: from which box to which.
        gap: between boxes of a row.
        row_gap: between rows.
    """
    rows_of = _rows(len(sizes), lines)
    graph = _Layers(sizes, lines, rows_of, gap)
    graph.order()
    graph.place()
    return graph.layout(row_gap)


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


class _Layers:
    """Boxes and bends in rows. A number below `count` is a box, one above it a bend."""

    def __init__(
        self,
        sizes: Sequence[tuple[float, float]],
        lines: Sequence[tuple[int, int]],
        row: list[int],
        gap: float,
    ) -> None:
        self.sizes, self.gap = sizes, gap
        self.count = len(sizes)
        self.row = row
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.chains = [self._chain(upper, lower) for upper, lower in lines]
        self.rows: list[list[int]] = [[] for _ in range(max(row, default=0) + 1)]
        for item in range(len(row)):
            self.rows[row[item]].append(item)
        self.x = [0.0] * len(row)

    def _chain(self, upper: int, lower: int) -> list[int]:
        """Lead one line through the rows between its boxes."""
        chain = [upper]
        between = range(self.row[upper] + 1, self.row[lower])
        if len(self.row) + len(between) < self.count + MOST_BENDS:
            for row in between:
                chain.append(len(self.row))
                self.row.append(row)
                self.above.append([])
                self.below.append([])
        chain.append(lower)
        for one, other in pairwise(chain):
            self.below[one].append(other)
            self.above[other].append(one)
        return chain

    def width(self, item: int) -> float:
        return self.sizes[item][0] if item < self.count else BEND_WIDTH

    # -- the order within rows ------------------------------------------------------------------

    def order(self) -> None:
        """Sweep down and up; keep the order with the fewest crossings."""
        self._begin_deep()
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(SWEEPS):
            if not fewest:
                break
            down = sweep % 2 == 0
            neighbours = self.above if down else self.below
            place = self._places()
            for row in self.rows if down else reversed(self.rows):
                row.sort(key=lambda item: _mean([place[n] for n in neighbours[item]], place[item]))
                for number, item in enumerate(row):
                    place[item] = float(number)
            found = self._crossings()
            if found < fewest:
                best, fewest = [list(row) for row in self.rows], found
        self.rows = best

    def _begin_deep(self) -> None:
        """Begin with the order of a walk in depth, so that what belongs together stands together."""
        seen: dict[int, int] = {}
        for start in range(self.count):
            stack = [start] if not self.above[start] else []
            while stack:
                item = stack.pop()
                if item not in seen:
                    seen[item] = len(seen)
                    stack.extend(reversed(self.below[item]))
        for row in self.rows:
            row.sort(key=lambda item: seen[item])

    def _places(self) -> list[float]:
        place = [0.0] * len(self.row)
        for row in self.rows:
            for number, item in enumerate(row):
                place[item] = float(number)
        return place

    def _crossings(self) -> int:
        """Count the crossings between neighbouring rows, with a tree of sums."""
        place = self._places()
        total = 0
        for number, row in enumerate(self.rows[:-1]):
            size = len(self.rows[number + 1])
            ends = [
                int(place[lower])
                for item in row
                for lower in sorted(self.below[item], key=lambda below: place[below])
                if self.row[lower] == number + 1
            ]
            sums = [0] * (size + 1)
            for count, end in enumerate(ends):
                total += count - _sum_to(sums, end + 1)
                _add(sums, end + 1)
        return total

    # -- the place within rows ------------------------------------------------------------------

    def place(self) -> None:
        """Begin packed; then let each row follow its neighbours, downwards and upwards."""
        for row in self.rows:
            at = 0.0
            for item in row:
                self.x[item] = at + self.width(item) / 2
                at += self.width(item) + self.gap
            for item in row:
                self.x[item] -= (at - self.gap) / 2
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            for row in self.rows if down else reversed(self.rows):
                self._settle(row, self.above if down else self.below)
        around = [above + below for above, below in zip(self.above, self.below, strict=True)]
        for _ in range(SWEEPS):
            for row in self.rows:
                self._settle(row, around)
            for row in reversed(self.rows):
                self._settle(row, around)

    def _settle(self, row: list[int], neighbours: Sequence[list[int]]) -> None:
        """Move a row as near to its neighbours as its order and its gaps allow."""
        offset, offsets = 0.0, []
        for number, item in enumerate(row):
            if number:
                before = row[number - 1]
                offset += (self.width(before) + self.width(item)) / 2 + self.gap
            offsets.append(offset)
        wishes = [
            _mean([self.x[n] for n in neighbours[item]], self.x[item]) - offsets[number]
            for number, item in enumerate(row)
        ]
        weights = [1.0 if item < self.count else LINE_WEIGHT for item in row]
        for item, value, offset in zip(row, _in_order(wishes, weights), offsets, strict=True):
            self.x[item] = value + offset

    # -- the result -----------------------------------------------------------------------------

    def layout(self, row_gap: float) -> Layout:
        """Give every place, measured from the upper left corner."""
        left = min((self.x[i] - self.width(i) / 2 for i in range(len(self.row))), default=0.0)
        right = max((self.x[i] + self.width(i) / 2 for i in range(len(self.row))), default=0.0)
        tops, heights, at = [], [], 0.0
        for row in self.rows:
            height = max((self.sizes[i][1] for i in row if i < self.count), default=0.0)
            tops.append(at)
            heights.append(height)
            at += height + row_gap
        middles = [top + height / 2 for top, height in zip(tops, heights, strict=True)]

        def point(item: int, side: float) -> tuple[float, float]:
            half = self.sizes[item][1] / 2
            return self.x[item] - left, middles[self.row[item]] + side * half

        routes = []
        for chain in self.chains:
            bends = [
                (self.x[bend] - left, edge)
                for bend in chain[1:-1]
                for edge in (tops[self.row[bend]], tops[self.row[bend]] + heights[self.row[bend]])
            ]
            routes.append((point(chain[0], 1), *bends, point(chain[-1], -1)))
        places = tuple(point(box, -1) for box in range(self.count))
        return Layout(places, tuple(routes), right - left, max(0.0, at - row_gap))


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


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


def _in_order(wishes: list[float], weights: list[float]) -> list[float]:
    """Give the rising values nearest to the wishes, by pooling what stands in the wrong order."""
    pools: list[list[float]] = []  # value, weight, length
    for wish, weight in zip(wishes, weights, strict=True):
        pools.append([wish, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            value, heavy, length = pools.pop()
            before = pools[-1]
            both = before[1] + heavy
            before[0] = (before[0] * before[1] + value * heavy) / both
            before[1], before[2] = both, before[2] + length
    return [value for value, _, length in pools for _ in range(int(length))]
