"""Drawings: what they show, odd names, determinism, and graphs of any size."""

from __future__ import annotations

import importlib.util
import random
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flowstage import Flow, Graph, Input, Retry, Threads, gather, merge, source, zip_latest
from flowstage._draw import Drawing, printable
from flowstage._draw_layers import Layers
from flowstage._draw_layout import lay_out
from flowstage._draw_svg import LABEL_SIZE, text_width, wrapped
from flowstage._figures import rate

from .random_junctions import Weaver

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


# -- geometry: read from the picture itself ---------------------------------------------------------

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]
"""Left, upper, right and lower side."""


def rectangles(svg: str) -> list[Rectangle]:
    """Where the boxes of a picture are."""
    found = []
    for box in boxes(svg):
        x, y, width, height = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


def labels(svg: str) -> list[Rectangle]:
    """What the texts beside lines cover, ascenders and descenders included."""
    found = []
    for text in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        if text.get("class") == "label":
            x, y = float(text.get("x") or 0), float(text.get("y") or 0)
            width = text_width(text.text or "", LABEL_SIZE)
            found.append((x, y - 0.8 * LABEL_SIZE, x + width, y + 0.25 * LABEL_SIZE))
    return found


def paths(svg: str, kind: str = "line") -> list[str]:
    found = ElementTree.fromstring(svg).iter(f"{SVG}path")
    return [path.get("d") or "" for path in found if path.get("class") == kind]


def points(path: str) -> Iterator[Point]:
    """Follow a line in steps so small that nothing fits between them."""
    x, y = 0.0, 0.0
    for command, text in re.findall(r"([MVC])([^MVC]*)", path):
        numbers = [float(number) for number in text.split()]
        if command == "M":
            x, y = numbers
            continue
        x1, y1, x2, y2, to_x, to_y = numbers if command == "C" else (x, y, x, y, x, numbers[0])
        steps = 2 + int(abs(to_x - x) + abs(to_y - y)) // 2
        for t in (step / steps for step in range(steps + 1)):
            u = 1 - t
            a, b, c, d = u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t
            yield a * x + b * x1 + c * x2 + d * to_x, a * y + b * y1 + c * y2 + d * to_y
        x, y = to_x, to_y


def overlaps(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def covers(rectangle: Rectangle, x: float, y: float) -> bool:
    """Whether a point is inside; a line may end on a border."""
    left, top, right, bottom = rectangle
    return left < x < right and top + 0.2 < y < bottom - 0.2


def faults(svg: str) -> list[str]:
    """Tell everything in a picture that lies on something else."""
    box, label, drawn = rectangles(svg), labels(svg), paths(svg)
    picture = ElementTree.fromstring(svg)
    width, height = (float(picture.get(key) or 0) - 24 for key in ("width", "height"))
    page = (-0.6, -0.6, width + 0.6, height + 0.6)  # the size of the page is a whole number
    found = [
        f"outside: {one}"
        for one in box + label
        if not (page[0] <= one[0] and page[1] <= one[1] and one[2] <= page[2] and one[3] <= page[3])
    ]
    found += [f"{a} on {b}" for a, b in combinations(box + label, 2) if overlaps(a, b)]
    found += [
        f"line {number} through {one}"
        for number, path in enumerate(drawn)
        for one in box + label
        if any(covers(one, x, y) for x, y in points(path))
    ]
    for head in paths(svg, "head"):
        x, y = map(float, re.findall(r"[-.\d]+", head)[:2])
        found += [f"arrow at {x}" for one in label if overlaps(one, (x, y, x + 7.5, y + 6))]
    return found


def with_figures(graph: Graph) -> Drawing:
    """What a run of the graph might show: full edges, and failures."""
    topology = graph._topology
    figures: dict[str | int, str] = {edge.index: "16/16" for edge in topology.edges}
    for number, name in enumerate(topology.names.values()):
        figures[name] = "2.1k/s, 3 failed, 12 skipped" if number % 3 == 1 else "85/s"
    return Drawing(topology, figures)


def random_graph(seed: int) -> Graph:
    rng = random.Random(seed)
    weaver = Weaver(rng)
    weaver.concats = True
    return weaver.make(rng.randrange(2, 25))


def drawn_as(graph: Graph) -> list[str]:
    return [graph.to_svg(), with_figures(graph).svg()]


@pytest.mark.parametrize("graph", [example(), diamonds(10), line(30)], ids=["ex", "dia", "line"])
def test_nothing_lies_on_anything(graph: Graph) -> None:
    """Boxes, lines and labels keep apart, within the picture."""
    for svg in drawn_as(graph):
        assert faults(svg) == []


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_nothing_lies_on_anything_in_random_graphs(block: int) -> None:
    """All junctions, up to 25 stages: no label on a line, its own included, and none on a box."""
    for seed in range(block * 25, block * 25 + 25):
        for svg in drawn_as(random_graph(seed)):
            assert faults(svg) == [], f"seed {seed}"


@pytest.mark.slow
def test_a_line_turns_twice_at_most() -> None:
    """Once where it leaves a box and once where it meets the other, however long it is."""
    for seed in range(100):
        for svg in drawn_as(random_graph(seed)):
            assert all(path.count("C") <= 2 for path in paths(svg)), f"seed {seed}"


def test_faults_are_seen() -> None:
    """The eye of these tests: a label moved onto its line, a box onto another."""
    svg = with_figures(example()).svg()
    moved = re.sub(r'(class="label" x=")([\d.]+)', lambda m: f"{m[1]}{float(m[2]) - 9:.1f}", svg)
    assert len(faults(moved)) >= len(labels(svg))
    assert any(
        " on " in fault for fault in faults(re.sub(r'(<rect x="[\d.]+" y=)"\d+', r'\1"7', svg))
    )


def test_a_long_line_is_straight() -> None:
    """From a buffer near the top to a join far below: upright, with one turn into the join."""
    ticks: Flow[Any, Any] = Input("ticks")
    late = ticks
    for number in range(6):
        late = late.map(same, name=f"step {number}")
    graph = zip_latest(late, ticks.buffer(4, name="early")).graph
    for svg in drawn_as(graph):
        names = [title for title in titles(svg) if " → " in title]
        path = paths(svg)[names.index("early → zip_latest")]
        assert re.fullmatch(r"M[-.\d ]+V[.\d]+C[-.\d ]+V[.\d]+", path)
        _, y, to_y = map(float, re.findall(r"[.\d]+", path)[:3])
        assert to_y - y > 200


# -- texts in boxes ---------------------------------------------------------------------------------


def texts(svg: str, kind: str) -> list[str]:
    found = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return [text.text or "" for text in found if text.get("class") == kind]


def test_no_fact_is_cut() -> None:
    """Facts that do not fit in one line have several, and the lines fit in their box."""
    flow = Input[str]("url").map(
        fetch, concurrency=8, ordered=False, timeout=10, retry=Retry(3), on_error="skip"
    )
    svg = flow.graph.to_svg()
    facts = texts(svg, "fact")[1:]
    assert " ".join(facts) == (
        "map, concurrency 8, unordered, timeout 10 s, 3 attempts, on error skip"
    )
    assert len(facts) == 3
    left, top, right, bottom = rectangles(svg)[1]
    assert all(text_width(fact, 11) < right - left for fact in facts)
    assert bottom - top > 16 * (1 + len(facts))


def test_lists_are_parted_at_commas() -> None:
    """As few lines as it takes, of about one length; what cannot be parted is cut."""
    assert wrapped([]) == []
    assert wrapped(["map"]) == ["map"]
    assert wrapped(["map", "threads 2"]) == ["map, threads 2"]
    assert wrapped(["x" * 20, "y", "z" * 20]) == ["x" * 20 + ", y,", "z" * 20]
    assert wrapped(["batch", "k" * 80]) == ["batch,", "k" * 41 + "…"]


async def test_a_gather_gives_rows() -> None:
    """The rate beside a stage is that of its results: rows, not their parts; batches, not items."""
    numbers = Input[int]("numbers")
    rows = gather(numbers, *(numbers.map(same, name=f"same {n}") for n in range(3))).batch(5)
    async with rows.open() as run:
        await run.feed(range(20))
        run.finish()
        assert len([batch async for batch in run]) == 4
    elapsed = run.report().elapsed
    tree = str(run.graph)
    assert f"same 2 (map)  {rate(20 / elapsed)}/s\n" in tree
    assert f"gather  {rate(20 / elapsed)}/s ← " in tree
    assert f"batch (size 5)  {rate(4 / elapsed)}/s\n" in tree


def test_the_picture_of_the_first_graph_is_current() -> None:
    """It is drawn by a program, and the program has been run."""
    place = Path(__file__).parents[1] / "docs" / "make_picture.py"
    spec = importlib.util.spec_from_file_location("make_picture", place)
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    drawn = maker.TARGET.read_text(encoding="utf-8")
    assert drawn == maker.picture(), "run: python docs/make_picture.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "graph",
    [line(1000), diamonds(10), diamonds(300), Graph(merge(*(source([1]) for _ in range(200))))],
    ids=["line", "diamond", "diamonds", "wide"],
)
def test_large_graphs_are_drawn(graph: Graph) -> None:
    """No recursion, and no drawing that grows with the number of paths: it would never end."""
    tree, mermaid, dot, svg = drawings(graph)
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


@pytest.mark.parametrize(
    "lines",
    [
        [(0, 5), (1, 2), (3, 4), (3, 5)],
        [(0, 2), (0, 5), (1, 2), (1, 4), (3, 5)],
        [(0, 5), (1, 6), (2, 3), (2, 4), (2, 5)],
    ],
)
def test_lines_that_need_not_cross_do_not(lines: list[tuple[int, int]]) -> None:
    """Sorting by means alone leaves a crossing in each of these."""
    layers = Layers([(50, 20)] * 7, lines, [0] * len(lines))
    layers.order()
    place = layers.places()
    for upper, row in enumerate(layers.rows):
        between = [(a, b) for a in row for b in layers.below[a] if layers.row[b] == upper + 1]
        for (a, b), (c, d) in combinations(between, 2):
            assert (place[a] - place[c]) * (place[b] - place[d]) >= 0


def test_columns_never_cross() -> None:
    """What an exchange has crossed is put right again, or a long line would have to turn midway."""
    layers = Layers([(50, 20)] * 7, [(0, 2), (2, 4), (1, 3), (3, 5), (1, 6)], [0] * 5)
    layers.rows = [[0, 1], [3, 2], [6, 5, 4]]
    layers._uncross_columns()
    assert layers.rows == [[0, 1], [3, 2], [6, 5, 4]]  # 1 has two below it: no column begins there
    layers = Layers([(50, 20)] * 6, [(0, 2), (2, 4), (1, 3), (3, 5)], [0] * 4)
    layers.rows = [[0, 1], [3, 2], [5, 4]]
    layers._uncross_columns()
    assert layers.rows == [[0, 1], [2, 3], [4, 5]]


def test_a_line_is_straight() -> None:
    """A chain of stages stands in one column."""
    layout = lay_out([(50 + n, 20) for n in range(20)], [(n, n + 1) for n in range(19)])
    assert len({round(x, 6) for x, _ in layout.places}) == 1


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
