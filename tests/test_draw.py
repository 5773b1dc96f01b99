"""Drawings: what they show, odd names, determinism, and graphs of any size."""

from __future__ import annotations

import re
import time
from typing import Any
from xml.etree import ElementTree

import pytest

from flowstage import Flow, Graph, Input, Retry, Threads, gather, merge, source
from flowstage._draw import printable
from flowstage._draw_layout import lay_out

SVG = "{http://www.w3.org/2000/svg}"
ODD_NAMES = [
    'say "hi"',
    "<b>&amp;</b>",
    "two\nlines",
    "back\\slash",
    "]] --> end; click me",
    "日本語 ✓",
    "`#35;` %% {x} |y|",
    "\x00\x1b[31m",
    "\ud800",
    "\u202egnirts",
    " ",
    "x" * 1000,
    "]]>",
]


def same(item: Any) -> Any:
    return item


async def fetch(item: Any) -> Any:
    return item


def example() -> Graph:
    pages = Input[str]("url").map(fetch, concurrency=8, timeout=10, retry=Retry(3), on_error="skip")
    docs = pages.map(same, name="parse", on=Threads(2))
    found = merge(docs.flat_map(list, name="links"), docs.map(str, name="index"))
    return Graph(found=found.batch(10, within=0.5), dead=pages.failures())


def line(length: int) -> Graph:
    flow: Flow[Any, Any] = Input("x")
    for number in range(length):
        flow = flow.map(same, name=f"stage {number}")
    return flow.graph


def diamonds(levels: int) -> Graph:
    flow: Flow[Any, Any] = Input("x")
    for _ in range(levels):
        flow = gather(flow.map(same), flow.map(same))
    return flow.graph


def drawings(graph: Any) -> list[str]:
    return [str(graph), graph.to_mermaid(), graph.to_dot(), graph.to_svg()]


def titles(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def test_a_tree_shows_stages_options_branches_and_joins() -> None:
    """Each stage once; a join begins a paragraph of its own and is referred to elsewhere."""
    assert str(example()) == (
        "url (input)\n"
        "↓ fetch (map, concurrency 8, timeout 10 s, 3 attempts, on error skip)\n"
        "├─ parse (map, threads 2)\n"
        "│  ├─ links (flat_map)\n"
        "│  │  → merge\n"
        "│  └─ index (map)\n"
        "│     → merge\n"
        "└─ [failures] failures\n"
        "   ⇒ dead\n"
        "\n"
        "merge ← links, index\n"
        "↓ batch (size 10, within 0.5 s)\n"
        "⇒ found"
    )


def test_a_trunk_is_not_indented_by_what_leaves_it() -> None:
    """A stage with ends beside the way on keeps the column, so a long trunk stays narrow."""
    flow: Flow[Any, Any] = Input("x")
    ends = {}
    for number in range(50):
        flow = flow.map(same, name=f"stage {number}")
        ends[f"end {number}"] = flow
    text = str(Graph(**ends))
    assert max(map(len, text.splitlines())) < 40
    assert "├─ ⇒ end 3\n↓ stage 4 (map)\n" in text


def test_splits_show_their_keys() -> None:
    """Which branch an edge is stands on the edge, in every drawing."""
    branches = Input[int]("x").route(same, ["even", 1])
    graph = Graph(a=branches["even"].map(same), b=branches[1].map(same))
    assert "├─ [even] same (map)" in str(graph)
    for text in drawings(graph):
        assert "even" in text
        assert re.search(r"\b1\b", text)


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_odd_names_break_no_drawing(name: str) -> None:
    """Names are data: none is markup, none breaks a line, all can be written as UTF-8."""
    flow = Input[int](name).map(same, name=f"{name}2").buffer(1, name=f"{name}3")
    graph = Graph(**{name: flow, "other": flow.map(same)})
    tree, mermaid, dot, svg = drawings(graph)
    assert len(tree.splitlines()) == 6
    assert printable(name) in tree
    assert f"{printable(name)} (input)" in titles(svg)
    for text in (tree, mermaid, dot, svg):
        text.encode()
        assert all(char.isprintable() or char == "\n" for char in text)
    for drawn in mermaid.splitlines()[1:]:
        assert re.fullmatch(
            r'    \w+(?:\W{1,2}"[^"`<>\\]*(?:<br/>[^"`<>\\]*)*"\W{1,2}| --> \w+)', drawn
        )
    for drawn in dot.splitlines()[3:-1]:
        assert re.fullmatch(
            r'    n\d -> \w+;|    \w+ \[label="(?:[^"\\]|\\.)*"(?:, shape=\w+)?\];', drawn
        )


def test_a_long_name_is_cut_where_it_is_drawn() -> None:
    """A drawing stays readable; names are told apart by their beginning."""
    svg = Input[int]("y" * 5000).map(same).graph.to_svg()
    assert "y" * 81 not in svg
    assert max(float(box.get("width", 0)) for box in boxes(svg)) < 500


def test_drawings_are_deterministic() -> None:
    """The same program draws the same, and drawing changes nothing."""
    graph = example()
    assert drawings(graph) == drawings(graph) == drawings(example())


def test_a_notebook_gets_text_and_picture() -> None:
    """Both come from one call."""
    graph = example()
    bundle = graph._repr_mimebundle_(include=None, exclude=None)
    assert bundle == {"text/plain": str(graph), "image/svg+xml": graph.to_svg()}


def test_a_picture_suits_light_and_dark() -> None:
    """Every colour of a text or a box has a twin for the dark; nothing is styled but the picture."""
    svg = example().to_svg()
    style = next(ElementTree.fromstring(svg).iter(f"{SVG}style")).text or ""
    light, dark = style.split("@media (prefers-color-scheme:dark){")
    opaque = r"\.(\w+ rect)\{fill:#\w+;stroke|\.(name|fact|figure)\{.*fill"
    for found in re.finditer(opaque, light):
        assert f".flowstage .{found[1] or found[2]}{{fill:" in dark
    rules = (light + dark).splitlines()
    assert all(rule.startswith(".flowstage") for rule in rules if rule.strip(" }"))


def boxes(svg: str) -> list[Any]:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}rect"))


@pytest.mark.parametrize("graph", [example(), diamonds(10), line(30)], ids=["ex", "dia", "line"])
def test_no_two_boxes_overlap(graph: Graph) -> None:
    """Boxes stand apart, within the picture."""
    svg = graph.to_svg()
    found = [[float(box.get(key)) for key in ("x", "y", "width", "height")] for box in boxes(svg)]
    width, height = (float(ElementTree.fromstring(svg).get(key)) for key in ("width", "height"))
    for number, (x, y, w, h) in enumerate(found):
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        for x2, y2, w2, h2 in found[:number]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


@pytest.mark.slow
@pytest.mark.parametrize(
    "graph",
    [line(1000), diamonds(10), diamonds(300), Graph(merge(*(source([1]) for _ in range(200))))],
    ids=["line", "diamond", "diamonds", "wide"],
)
def test_large_graphs_are_drawn(graph: Graph) -> None:
    """No recursion, no drawing that grows with the number of paths, no minute of waiting."""
    began = time.perf_counter()
    tree, mermaid, dot, svg = drawings(graph)
    assert time.perf_counter() - began < 10
    stages = len(graph.stages)
    assert len(titles(svg)) == 1 + stages + len(graph._topology.ends) + len(graph.edges)
    assert mermaid.count(" -->") == dot.count(" -> ") == len(graph.edges)
    assert len(tree.splitlines()) < 4 * stages
    assert len(tree) < 100 * stages


def test_a_layout_uncrosses_lines() -> None:
    """Two lines that cross in the order given do not cross when drawn."""
    layout = lay_out([(50, 20)] * 4, [(0, 3), (1, 2)])
    (a, _), (b, _), (c, _), (d, _) = layout.places
    assert (a < b) == (d < c)


def test_a_line_is_straight() -> None:
    """A chain of stages stands in one column."""
    layout = lay_out([(50 + n, 20) for n in range(20)], [(n, n + 1) for n in range(19)])
    assert len({round(x, 6) for x, _ in layout.places}) == 1


def test_a_long_edge_is_led_round() -> None:
    """An edge over many rows has bends, so that it passes the boxes between, not behind them."""
    chain = [(n, n + 1) for n in range(4)]
    layout = lay_out([(80, 20)] * 5, [*chain, (0, 4)])
    for x, y in layout.routes[-1][1:-1]:
        for box_x, box_y in layout.places:
            assert not (abs(x - box_x) < 40 and box_y < y < box_y + 20)


def test_nothing_to_lay_out() -> None:
    """No boxes, no picture."""
    assert lay_out([], []).places == ()


def test_a_picture_of_too_many_bends_is_drawn() -> None:
    """Where the bends are too many, lines go straight across, and nothing fails."""
    count = 400
    layout = lay_out(
        [(50, 20)] * count,
        [(n, n + 1) for n in range(count - 1)] + [(0, n) for n in range(2, count)],
    )
    assert len(layout.routes) == 2 * count - 3
