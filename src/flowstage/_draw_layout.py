"""Where the boxes of a picture stand, and how the lines and their labels get round them.

A layered layout: `_draw_layers` puts everything into layers and into an order, `_draw_place` moves it
sideways, and here it gets its height. In a layer a line stands upright, at a distance from all that is
there; it turns only between layers, where there is nothing but lines. So no line and no label ever
touches a box, and no label a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from attrs import frozen

from ._draw_layers import Layers
from ._draw_place import place

LABEL_HEIGHT = 13.0
LABEL_SHIFT = 5.0
"""From a line to its label."""
TO_LABEL = 4.0
"""From a row to the labels below it."""
LEAD = 9.0
"""How far a line is upright before a box, so that an arrow head has room."""


@frozen
class Layout:
    """Where everything stands.

    Attributes:
        places: the middle of the upper side of each box.
        routes: the corners of each line, from the lower side of one box to the upper side of another.
            Between two of them it is upright or a curve that is upright at both.
        labels: the middle of the left side of each line's label, if it has one.
        width, height: of the whole picture.
    """

    places: tuple[tuple[float, float], ...]
    routes: tuple[tuple[tuple[float, float], ...], ...]
    labels: tuple[tuple[float, float] | None, ...]
    width: float
    height: float


def lay_out(
    sizes: Sequence[tuple[float, float]],
    lines: Sequence[tuple[int, int]],
    labels: Sequence[float] = (),
    *,
    gap: float = 26.0,
    row_gap: float = 36.0,
) -> Layout:
    """Find a place for boxes of the given sizes, joined by lines that all lead downwards.

    Args:
        sizes: width and height of each box, in an order in which every line leads forwards.
        lines: from which box to which.
        labels: how wide the label of each line is; 0 for none.
        gap: between boxes of a row; lines need half of it.
        row_gap: between rows joined by upright lines; wide curves get more.
    """
    reach = [width + LABEL_SHIFT if width else 0.0 for width in labels or [0.0] * len(lines)]
    layers = Layers(sizes, lines, reach)
    layers.order()

    def distance(left: int, right: int) -> float:
        free = gap if max(left, right) < layers.count else gap / 2
        return layers.wide[left][1] + free + layers.wide[right][0]

    x = place(layers, distance)
    start = min((at - left for at, (left, _) in zip(x, layers.wide, strict=True)), default=0.0)
    x = [at - start for at in x]
    width = max((at + right for at, (_, right) in zip(x, layers.wide, strict=True)), default=0.0)
    tops, bottoms = _bands(layers, sizes, x, row_gap)

    def side(box: int, sign: int) -> tuple[float, float]:
        layer = layers.row[box]
        return x[box], (tops[layer] + bottoms[layer] + sign * sizes[box][1]) / 2

    routes = []
    for chain in layers.chains:
        route = [side(chain[0], 1)]
        for item in chain:
            layer = layers.row[item]
            if item != chain[0]:
                route.append((x[item], tops[layer] - (LEAD if item == chain[-1] else 0)))
            if item != chain[-1]:
                route.append((x[item], bottoms[layer]))
        routes.append(_corners([*route, side(chain[-1], -1)]))
    return Layout(
        places=tuple(side(box, -1) for box in range(layers.count)),
        routes=tuple(routes),
        labels=tuple(
            None
            if bend is None
            else (x[bend] + LABEL_SHIFT, tops[layers.row[bend]] + LABEL_HEIGHT / 2)
            for bend in layers.label
        ),
        width=width,
        height=bottoms[-1],
    )


def _bands(
    layers: Layers, sizes: Sequence[tuple[float, float]], x: list[float], row_gap: float
) -> tuple[list[float], list[float]]:
    """Give the upper and the lower side of each layer."""
    tops, bottoms = [0.0], []
    for layer, items in enumerate(layers.rows):
        heights = [sizes[item][1] if item < layers.count else LABEL_HEIGHT for item in items]
        bottoms.append(tops[-1] + max(heights, default=0.0))
        upright = row_gap / 2 if layers.for_labels[layer] else row_gap
        if layers.for_labels[layer + 1 : layer + 2] == [True]:
            upright = TO_LABEL
        turn = max((abs(x[i] - x[n]) for i in items for n in layers.below[i]), default=0.0)
        curved = LEAD + row_gap * min(0.6 + turn / 300, 1.5)
        tops.append(bottoms[-1] + (max(upright, curved) if turn > 0.5 else upright))
    return tops[:-1], bottoms


def _corners(route: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Leave out the points between two others of one upright."""
    kept = route[:1]
    for (x, y), (next_x, _) in pairwise(route[1:]):
        if abs(kept[-1][0] - x) > 0.05 or abs(next_x - x) > 0.05:
            kept.append((x, y))
    return (*kept, route[-1])
