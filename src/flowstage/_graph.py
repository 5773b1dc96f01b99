"""Graphs: what is found walking back from the ends of flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Never

from attrs import frozen

from ._draw import Drawing, kind_of
from ._errors import GraphError, safe_repr
from ._opening import Opening, check_observers, check_open_options
from ._plan import DEFAULT_BUFFER, Plan, plan
from ._policies import OnError, check_count, check_number, check_on_error
from ._report import Report
from ._sources import check_source
from ._topology import Node, Port, survey

if TYPE_CHECKING:
    from ._flow import Flow


@frozen
class StageInfo:
    """One stage of a graph.

    Attributes:
        name: its name, unique in the graph.
        kind: what kind of stage it is, as its verb is called.
        upstream: the names of the stages it reads from, in the order of its inputs.
    """

    name: str
    kind: str
    upstream: tuple[str, ...]


@frozen
class EdgeInfo:
    """One edge of a graph: from a stage to a stage, or to an end.

    Attributes:
        source, target: the names at its two sides.
        capacity: items it holds with the default `buffer`; 0 between stages that share a task.
    """

    source: str
    target: str
    capacity: int


class Graph:
    """A whole graph, frozen and checked.

    Args:
        flows: the flows that end the graph; their ends are named after their last stages, as
            these are called in the graph.
        named: flows by the names of their ends.

    Raises:
        GraphError: the graph cannot work; the message says why and what to do.
        TypeError: something else than a flow was given.
    """

    def __init__(self, *flows: Flow[Any, Any], **named: Flow[Any, Any]) -> None:
        if not flows and not named:
            raise GraphError("a graph needs at least one flow to end it")
        given: tuple[Any, ...] = (*flows, *named.values())
        for thing in given:
            if not isinstance(getattr(thing, "_port", None), Port):
                hint = "; write Graph(**flows)" if isinstance(thing, Mapping) else ""
                hint = "; write Graph(*flows)" if isinstance(thing, (list, tuple)) else hint
                raise TypeError(f"a graph is made of flows, not {safe_repr(thing)}{hint}")
        unnamed = [flow._port for flow in flows]
        if len({*unnamed, *(flow._port for flow in named.values())}) < len(given):
            raise GraphError("the same flow ends the graph twice; each end needs a flow of its own")
        self._topology = survey(unnamed, {name: flow._port for name, flow in named.items()})
        self._plans: dict[int, Plan] = {}

    def __repr__(self) -> str:
        return f"<Graph of {len(self._topology.nodes)} stages>"

    # -- looking at it --------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The stages, upstream before downstream."""
        names = self._topology.names
        return tuple(
            StageInfo(
                names[node],
                kind_of(node.stage),
                tuple(names[port.node] for port in node.upstream),
            )
            for node in self._topology.nodes
        )

    @property
    def edges(self) -> tuple[EdgeInfo, ...]:
        """The edges, in the order of the stages they come from."""
        capacities = {(p.edge.index): p.capacity for p in self._plan().edges}
        names, ends = self._topology.names, list(self._topology.ends)
        return tuple(
            EdgeInfo(
                names[edge.source.node],
                ends[edge.slot] if edge.target is None else names[edge.target],
                capacities.get(edge.index, 0),
            )
            for edge in self._topology.edges
        )

    @property
    def bound(self) -> int:
        """The most items that a run can hold at once, with the default `buffer`.

        Of a run that was opened with another one, `run.graph.bound` tells.
        """
        return self._plan().bound

    def bound_with(self, buffer: int) -> int:
        """Give the most items that a run can hold at once that is opened with a `buffer`.

        Raises:
            ValueError: `buffer` is negative.
            TypeError: `buffer` is not a whole number.
        """
        check_count("buffer", buffer, minimum=0)
        return self._plan(buffer).bound

    def _plan(self, buffer: int = DEFAULT_BUFFER) -> Plan:
        """Give the plan of a run whose plain edges hold `buffer` items."""
        if buffer not in self._plans:
            self._plans[buffer] = plan(self._topology, buffer)
        return self._plans[buffer]

    def __str__(self) -> str:
        return Drawing(self._topology).tree()

    def to_mermaid(self) -> str:
        """Draw the graph as Mermaid source."""
        return Drawing(self._topology).mermaid()

    def to_dot(self) -> str:
        """Draw the graph as Graphviz source."""
        return Drawing(self._topology).dot()

    def to_svg(self) -> str:
        """Draw the graph as an SVG picture that suits light and dark pages."""
        return Drawing(self._topology).svg()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": str(self), "image/svg+xml": self.to_svg()}

    # -- bringing it to life --------------------------------------------------------------------

    def open(
        self,
        source: Any = None,
        *,
        buffer: int = DEFAULT_BUFFER,
        on_error: OnError = "raise",
        timing: bool = False,
        observers: Sequence[Any] = (),
        context: Mapping[str, Any] | None = None,
        close_timeout: float = 10.0,
        **unknown: Never,
    ) -> Opening[Any, Any]:
        """Make an async context manager that runs the graph; see `Flow.open`."""
        check_open_options("open", unknown)
        check_count("buffer", buffer, minimum=0)
        check_on_error(on_error)
        check_number("close_timeout", close_timeout, minimum=0)
        if context is not None and not isinstance(context, Mapping):
            raise TypeError(f"context must be a mapping, not {safe_repr(context)}")
        if not isinstance(timing, bool):
            raise TypeError(f"timing must be True or False, not {safe_repr(timing)}")
        options = {
            "on_error": on_error,
            "timing": timing,
            "observers": check_observers(observers),
            "context": context,
            "close_timeout": close_timeout,
        }
        return Opening(self._topology, self._plan(buffer), self._sources(source), options)

    def _sources(self, source: Any) -> dict[Node, Any]:
        """Find out which inputs have a source, and which."""
        inputs = self._topology.inputs()
        if source is None:
            return {}
        if not inputs:
            raise GraphError(
                "this graph has no Input to be given a source; its flows have their own"
            )
        if len(inputs) == 1 and not _is_by_flow(source):
            check_source(f"input {self._topology.names[inputs[0]]!r}", source)
            return {inputs[0]: source}
        names = ", ".join(repr(self._topology.names[node]) for node in inputs)
        if not isinstance(source, Mapping):
            raise GraphError(
                f"this graph has several inputs ({names}); give their sources as "
                "a mapping {flow: source, ...}"
            )
        found: dict[Node, Any] = {}
        for flow, items in source.items():
            port = getattr(flow, "_port", None)
            node = port.node if isinstance(port, Port) else None
            if node not in inputs or node is None:
                raise self._topology.no_input(flow, "a mapping of sources")
            check_source(f"input {self._topology.names[node]!r}", items)
            found[node] = items
        return found

    async def collect(self, source: Any = None, **options: Any) -> dict[str, list[Any]]:
        """Run to the end and give the results of every end, by name.

        Raises:
            GraphError: an `Input` was given no source.
        """
        check_open_options("collect", options)
        results: dict[str, list[Any]] = {name: [] for name in self._topology.ends}
        await self.open(source, **options).pour("collect", list(results.values()))
        return results

    async def drain(self, source: Any = None, **options: Any) -> Report:
        """Run to the end for its effects.

        Raises:
            GraphError: an `Input` was given no source.
        """
        check_open_options("drain", options)
        return await self.open(source, **options).drain()


def _is_by_flow(source: Any) -> bool:
    """Tell whether a source is a mapping of flows to sources: no flow is ever meant as an item."""
    if not isinstance(source, Mapping) or not source:
        return False
    return all(isinstance(getattr(key, "_port", None), Port) for key in source)


def single_end(port: Port) -> Graph:
    """Make the graph of one flow."""
    graph = Graph.__new__(Graph)
    graph._topology = survey([port])
    graph._plans = {}
    return graph
