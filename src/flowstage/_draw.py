"""Drawings of a graph: a tree, Mermaid, Graphviz, SVG.

Names come from users, so none is trusted: what cannot be printed is written as an escape, and each
kind of drawing escapes in its own way what means something there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from attrs import Factory, field, frozen

from ._draw_svg import Box, Line, picture
from ._errors import safe_repr
from ._stages import (
    MAIN,
    BalanceStage,
    BatchStage,
    BufferStage,
    CallStage,
    InputStage,
    RouteStage,
    SourceStage,
    Stage,
    TransformStage,
    ZipStage,
)
from ._topology import Edge, Node, Topology

LONGEST = 80
"""Characters of a name or a key that a drawing shows."""


def kind_of(stage: Stage) -> str:
    """Name a kind of stage as its verb does."""
    name = type(stage).__name__.removesuffix("Stage")
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


@frozen
class Drawing:
    """One graph to be drawn.

    Attributes:
        topology: the graph.
        figures: what to write beside a stage (by its name) or an edge (by its number), if anything.
    """

    topology: Topology
    figures: Mapping[str | int, str] = field(default=Factory(dict))

    # -- in words -------------------------------------------------------------------------------

    def tree(self) -> str:
        """Draw with lines of text.

        Each entry begins a paragraph, and so does each join, since it is the continuation of all its
        inputs; elsewhere a join is only referred to. `↓` leads to the next stage, `→` to a join drawn
        further down, `⇒` out of the graph.
        """
        roots = [node for node in self.topology.nodes if len(node.upstream) != 1]
        return "\n\n".join("\n".join(self._paragraph(root)) for root in roots)

    def _paragraph(self, root: Node) -> Iterator[str]:
        heading = self._stage(root)
        if root.upstream:
            edges = self.topology.into(root)
            heading += " ← " + ", ".join(self._edge(e) + self._name(e.source.node) for e in edges)
        yield heading
        pending: list[tuple[str, str, Edge]] = []
        self._branch(root, "", pending)
        while pending:
            first, rest, edge = pending.pop()
            target = edge.target
            if target is None:
                yield f"{first}⇒ {self._edge(edge)}{self._end(edge)}"
            elif len(target.upstream) != 1:
                yield f"{first}→ {self._edge(edge)}{self._name(target)}"
            else:
                yield first + self._edge(edge) + self._stage(target)
                self._branch(target, rest, pending)

    def _branch(self, node: Node, rest: str, pending: list[tuple[str, str, Edge]]) -> None:
        """Put the ways on from a node on the stack; what merely leads elsewhere goes first."""
        edges = self._edges_below(node)
        stages = [edge for edge in edges if self._goes_on(edge)]
        asides = [edge for edge in edges if not self._goes_on(edge)]
        if len(edges) == 1:
            arrow = "↓ " if stages else ""
            pending.append((rest + arrow, rest, edges[0]))
        elif len(stages) == 1:
            pending.append((rest + "↓ ", rest, stages[0]))
            pending.extend((rest + "├─ ", rest, edge) for edge in reversed(asides))
        else:
            ordered = asides + stages
            for number, edge in reversed(list(enumerate(ordered, 1))):
                last = number == len(ordered)
                corner, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
                pending.append((rest + corner, rest + below, edge))

    def _goes_on(self, edge: Edge) -> bool:
        return edge.target is not None and len(edge.target.upstream) == 1

    def _edges_below(self, node: Node) -> list[Edge]:
        topology = self.topology
        return [edge for port in topology.ports(node) for edge in topology.out_of(port)]

    # -- texts ----------------------------------------------------------------------------------

    def _name(self, node: Node) -> str:
        return printable(self.topology.names[node])

    def _end(self, edge: Edge) -> str:
        return printable(list(self.topology.ends)[edge.slot])

    def _stage(self, node: Node) -> str:
        """Give a stage in one line: name, kind, options, figures."""
        figure = self.figures.get(self.topology.names[node], "")
        facts = self._facts(node)
        text = f"{self._name(node)} ({', '.join(facts)})" if facts else self._name(node)
        return f"{text}  {figure}" if figure else text

    def _facts(self, node: Node) -> list[str]:
        """Give kind and options; a kind that is the stage's name need not be said twice."""
        facts = facts_of(node.stage)
        return facts[1:] if facts[0] == self.topology.names[node] else facts

    def _edge(self, edge: Edge) -> str:
        """Give what is worth saying of an edge, in brackets."""
        text = self._label(edge)
        return f"[{text}] " if text else ""

    def _label(self, edge: Edge) -> str:
        parts = (port_name(edge.source.key), self.figures.get(edge.index, ""))
        return ", ".join(part for part in parts if part)

    # -- for other programs ---------------------------------------------------------------------

    def mermaid(self) -> str:
        """Draw as Mermaid source."""
        numbers = {node: number for number, node in enumerate(self.topology.nodes)}
        lines = ["flowchart TB"]
        for node, number in numbers.items():
            left, right = _MERMAID[family_of(node.stage)]
            text = "<br/>".join(_mermaid(part) for part in self._lines(node))
            lines.append(f'    n{number}{left}"{text}"{right}')
        for number, name in enumerate(self.topology.ends):
            lines.append(f'    e{number}(["{_mermaid(printable(name))}"])')
        for edge in self.topology.edges:
            target = f"e{edge.slot}" if edge.target is None else f"n{numbers[edge.target]}"
            label = self._label(edge)
            way = f'-->|"{_mermaid(label)}"|' if label else "-->"
            lines.append(f"    n{numbers[edge.source.node]} {way} {target}")
        return "\n".join(lines) + "\n"

    def dot(self) -> str:
        """Draw as Graphviz source."""
        numbers = {node: number for number, node in enumerate(self.topology.nodes)}
        lines = [
            "digraph flow {",
            '    node [shape=box, style=rounded, fontname="sans-serif", fontsize=11];',
            '    edge [fontname="sans-serif", fontsize=9];',
        ]
        for node, number in numbers.items():
            text = "\\n".join(_dot(part) for part in self._lines(node))
            shape = _DOT[family_of(node.stage)]
            lines.append(f'    n{number} [label="{text}"{shape}];')
        for number, name in enumerate(self.topology.ends):
            text = _dot(printable(name))
            lines.append(f'    e{number} [label="{text}", shape=plaintext];')
        for edge in self.topology.edges:
            target = f"e{edge.slot}" if edge.target is None else f"n{numbers[edge.target]}"
            label = self._label(edge)
            tail = f' [label="{_dot(label)}"]' if label else ""
            lines.append(f"    n{numbers[edge.source.node]} -> {target}{tail};")
        return "\n".join([*lines, "}"]) + "\n"

    def svg(self) -> str:
        """Draw as an SVG picture that suits light and dark pages."""
        topology = self.topology
        boxes = [self._box(node) for node in topology.nodes]
        numbers = {node: number for number, node in enumerate(topology.nodes)}
        ends = [printable(name) for name in topology.ends]
        boxes += [Box(f"end {name}", "end", name) for name in ends]
        lines = []
        for edge in topology.edges:
            upper, target = numbers[edge.source.node], len(numbers) + edge.slot
            if edge.target is not None:
                target = numbers[edge.target]
            title = f"{self._name(edge.source.node)} → {boxes[target].name}"
            lines.append(Line(upper, target, self._label(edge), title))
        return picture(boxes, lines)

    def _box(self, node: Node) -> Box:
        figures = self.figures.get(self.topology.names[node], "")
        return Box(
            self._stage(node),
            family_of(node.stage),
            self._name(node),
            self._facts(node),
            figures.split(", ") if figures else (),
        )

    def _lines(self, node: Node) -> list[str]:
        """Give a stage in lines: its name, what it is, its figures."""
        return [text for _, text in self._box(node).lines]


# -- what is worth saying of a stage ---------------------------------------------------------------


def printable(text: str) -> str:
    """Give a name on one line, cut to a length, with escapes for what cannot be printed."""
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def port_name(key: Hashable) -> str:
    """Name a way out of a stage; the main one needs no name."""
    if key == MAIN:
        return ""
    return printable(key if isinstance(key, str) else safe_repr(key))


def facts_of(stage: Stage) -> list[str]:
    """Give the kind of a stage and those of its options that differ from the usual."""
    facts = [kind_of(stage)]
    if isinstance(stage, CallStage):
        facts += _call_facts(stage)
    elif isinstance(stage, SourceStage):
        facts += _place_facts(stage.on)
    elif isinstance(stage, BatchStage):
        facts.append(f"size {stage.size}")
        facts += [] if stage.within is None else [f"within {stage.within:g} s"]
    elif isinstance(stage, BufferStage):
        facts.append(f"size {stage.size}")
        facts += [] if stage.overflow == "block" else [stage.overflow.replace("_", " ")]
    elif isinstance(stage, RouteStage) and stage.default is not None:
        facts.append(f"default {port_name(stage.default)}")
    elif isinstance(stage, TransformStage) and stage.segments:
        facts.append("segments")
    elif isinstance(stage, ZipStage) and stage.strict:
        facts.append("strict")
    return facts


def _call_facts(stage: CallStage) -> Iterator[str]:
    options = stage.options
    yield from _place_facts(options.on)
    if options.concurrency is not None and options.concurrency > 1:
        yield f"concurrency {options.concurrency}"
    if not options.ordered:
        yield "unordered"
    if options.timeout is not None:
        yield f"timeout {options.timeout:g} s"
    if options.retry is not None:
        yield f"{options.retry.attempts} attempts"
    if options.on_error is not None and options.on_error != "raise":
        yield f"on error {options.on_error}"


def _place_facts(place: Any) -> Iterator[str]:
    if place is not None:
        name, limit = type(place).__name__.lower(), getattr(place, "limit", None)
        yield name if limit is None else f"{name} {limit}"


def family_of(stage: Stage) -> str:
    """Tell which stages look alike: entries, calls, those that hold items, splits, joins."""
    if isinstance(stage, (InputStage, SourceStage)):
        return "entry"
    if isinstance(stage, CallStage):
        return "call"
    if isinstance(stage, (BatchStage, BufferStage, TransformStage)):
        return "hold"
    if isinstance(stage, (RouteStage, BalanceStage)):
        return "split"
    return "join"


# -- escapes ---------------------------------------------------------------------------------------

_MERMAID = {
    "entry": ("([", "])"),
    "call": ("[", "]"),
    "hold": ("[(", ")]"),
    "split": ("{{", "}}"),
    "join": ("{{", "}}"),
}
_DOT = {
    "entry": ", shape=oval",
    "call": "",
    "hold": ", shape=box3d",
    "split": ", shape=hexagon",
    "join": ", shape=hexagon",
}
_HARMLESS = frozenset(" _-.,()/+→…")


def _mermaid(text: str) -> str:
    """Escape for a quoted Mermaid label, where quotes, markup and Markdown mean something."""
    return "".join(
        char if char.isalnum() or char in _HARMLESS else f"#{ord(char)};" for char in text
    )


def _dot(text: str) -> str:
    """Escape for a quoted Graphviz label, where backslashes and character references do."""
    return text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
