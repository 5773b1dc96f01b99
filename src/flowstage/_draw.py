"""Drawings of a graph: a tree, Mermaid, Graphviz, SVG."""

from __future__ import annotations

from attrs import frozen

from ._stages import Stage
from ._topology import Topology


def kind_of(stage: Stage) -> str:
    """Name a kind of stage as its verb does."""
    name = type(stage).__name__.removesuffix("Stage")
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


@frozen
class Drawing:
    """One graph to be drawn."""

    topology: Topology

    def tree(self) -> str:
        names = self.topology.names
        return "\n".join(
            f"{names[n]} ({kind_of(n.stage)}) <- {', '.join(names[p.node] for p in n.upstream)}"
            for n in self.topology.nodes
        )

    def mermaid(self) -> str:
        raise NotImplementedError

    def dot(self) -> str:
        raise NotImplementedError

    def svg(self) -> str:
        raise NotImplementedError
