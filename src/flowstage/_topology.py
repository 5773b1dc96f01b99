"""Nodes and edges, found by walking back from the ends of flows, checked and named.

A `Node` is one stage with the ports it reads from; a `Port` is one way out of a node. Nodes are made
by the verbs and never changed, so a flow used twice is the same node met twice. `survey` gives the
`Topology`: every node once, upstream before downstream; every edge; every name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from attrs import Factory, field, frozen

from ._errors import GraphError, safe_repr
from ._stages import (
    FAILED,
    MAIN,
    BalanceStage,
    BatchStage,
    BufferStage,
    CallStage,
    ConcatStage,
    FailuresStage,
    FilterStage,
    FlatMapStage,
    GatherStage,
    InputStage,
    MapStage,
    MergeStage,
    RouteStage,
    SourceStage,
    Stage,
    TapStage,
    TransformStage,
    ZipLatestStage,
    ZipStage,
    is_one_shot,
    one_shot_kind,
)


@frozen(eq=False)
class Node:
    """A stage and where it reads from.

    Attributes:
        fork: for a `gather`, the port at which its branches part.
    """

    stage: Stage
    upstream: tuple[Port, ...] = ()
    fork: Port | None = None

    def port(self, key: Hashable = MAIN) -> Port:
        return Port(self, key)


@frozen
class Port:
    """One way out of a node: its results, the branch of a fan-out, or its failures."""

    node: Node
    key: Hashable = MAIN


@frozen
class Edge:
    """One way from a port into a place (`slot`) of a node, or into an end of the graph.

    Attributes:
        index: its number in the graph.
        source: the port it comes from.
        target: the node that reads it; `None` when an end of the graph does.
        slot: which of the target's inputs it is, or the number of the end.
        aligned: whether rows that lost their item leave a hole here, for a `gather` further down.
    """

    index: int
    source: Port
    target: Node | None
    slot: int
    aligned: bool = False


@frozen(eq=False)
class Topology:
    """A whole graph: frozen, named, checked.

    Attributes:
        nodes: every node, upstream before downstream.
        edges: every edge, in the order of the nodes they come from.
        ends: the ports that leave the graph, by name.
        names: each node's name, unique in the graph.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    ends: Mapping[str, Port]
    names: Mapping[Node, str]
    _into: Mapping[Node, tuple[Edge, ...]] = field(repr=False, default=Factory(dict))
    _out_of: Mapping[Port, tuple[Edge, ...]] = field(repr=False, default=Factory(dict))

    def into(self, node: Node) -> tuple[Edge, ...]:
        """Give the edges that a node reads, in the order of its inputs."""
        return self._into.get(node, ())

    def out_of(self, port: Port) -> tuple[Edge, ...]:
        """Give the edges that leave a port."""
        return self._out_of.get(port, ())

    def ports(self, node: Node) -> tuple[Port, ...]:
        """Give the ports of a node that somebody reads, the main one first."""
        stage = node.stage
        keys: tuple[Hashable, ...]
        if isinstance(stage, RouteStage):
            keys = stage.branches
        elif isinstance(stage, BalanceStage):
            keys = tuple(range(stage.branches))
        else:
            keys = (MAIN,)
        ports = [node.port(key) for key in keys]
        if self.out_of(node.port(FAILED)):
            ports.append(node.port(FAILED))
        return tuple(ports)

    def inputs(self) -> tuple[Node, ...]:
        """Give the nodes where pushed items may enter."""
        return tuple(node for node in self.nodes if isinstance(node.stage, InputStage))

    def no_input(self, given: object, where: str) -> GraphError:
        """Make the error for what was given, somewhere, in the place of an `Input` of this graph."""
        inputs = ", ".join(repr(self.names[node]) for node in self.inputs())
        if not inputs:
            return GraphError(f"{safe_repr(given)} is no Input of this graph; it has none")
        port = getattr(given, "_port", None)
        if isinstance(port, Port):
            is_input = isinstance(port.node.stage, InputStage)
            hint = "; an Input that is made a second time is another one" if is_input else ""
            return GraphError(
                f"{safe_repr(given)} is no Input of this graph; they are {inputs}{hint}"
            )
        hint = "; give the flow, not its name" if isinstance(given, str) else ""
        return GraphError(
            f"{where} takes one of this graph's Input flows ({inputs}), not {safe_repr(given)}{hint}"
        )

    def entries(self) -> tuple[Node, ...]:
        """Give the nodes where items enter."""
        return tuple(n for n in self.nodes if isinstance(n.stage, (InputStage, SourceStage)))


def above(*ports: Port) -> tuple[Node, ...]:
    """Give every node that the ports grow from, upstream before downstream, without recursion."""
    order: list[Node] = []
    seen: set[Node] = set()
    for start in ports:
        stack: list[tuple[Node, int]] = [(start.node, 0)]
        while stack:
            node, next_up = stack.pop()
            if next_up == 0:
                if node in seen:
                    continue
                seen.add(node)
            if next_up < len(node.upstream):
                stack.append((node, next_up + 1))
                upper = node.upstream[next_up].node
                if upper not in seen:
                    stack.append((upper, 0))
            else:
                order.append(node)
    return tuple(order)


def survey(unnamed: Sequence[Port], named: Mapping[str, Port] | None = None) -> Topology:
    """Find and check the graph that leads to the ends: those to be named here, and the others.

    Raises:
        GraphError: two stages were given the same name, a branch of a fan-out is read by nobody, two
            sources read one iterator, or the graph has no place where items enter.
    """
    nodes = above(*unnamed, *(named or {}).values())
    names = _names(nodes)
    ends = _named_ends(unnamed, named or {}, names)
    _check_branches(nodes, ends, names)
    if not any(isinstance(node.stage, (InputStage, SourceStage)) for node in nodes):
        raise GraphError("the graph has neither an Input nor a source")
    _check_sources(nodes, names)
    aligned = _aligned(nodes)
    edges: list[Edge] = []
    into: dict[Node, list[Edge]] = {}
    out_of: dict[Port, list[Edge]] = {}

    def connect(port: Port, target: Node | None, slot: int) -> None:
        edge = Edge(len(edges), port, target, slot, (target, slot) in aligned)
        edges.append(edge)
        out_of.setdefault(port, []).append(edge)
        if target is not None:
            into.setdefault(target, []).append(edge)

    for node in nodes:
        for slot, port in enumerate(node.upstream):
            connect(port, node, slot)
    for number, port in enumerate(ends.values()):
        connect(port, None, number)
    return Topology(
        nodes,
        tuple(edges),
        ends,
        names,
        {node: tuple(found) for node, found in into.items()},
        {port: tuple(found) for port, found in out_of.items()},
    )


def _names(nodes: Iterable[Node]) -> dict[Node, str]:
    nodes = tuple(nodes)
    explicit = Counter(node.stage.name for node in nodes if node.stage.explicit)
    twice = [name for name, count in explicit.items() if count > 1]
    if twice:
        raise GraphError(
            f"two stages are named {twice[0]!r}; names identify stages in reports, "
            "so give each its own"
        )
    taken = set(explicit)
    names: dict[Node, str] = {}
    numbers: Counter[str] = Counter()
    for node in nodes:
        name = node.stage.name
        if not node.stage.explicit:
            while name in taken:
                numbers[node.stage.name] += 1
                name = f"{node.stage.name}-{numbers[node.stage.name] + 1}"
        taken.add(name)
        names[node] = name
    return names


def _named_ends(
    unnamed: Iterable[Port], named: Mapping[str, Port], names: Mapping[Node, str]
) -> dict[str, Port]:
    """Name the ends that have no name after their stages; no end is called as another stage is."""
    ends: dict[str, Port] = {}
    taken = {*named, *names.values()}
    for port in unnamed:
        name = label = names[port.node]
        number = 1
        while name in ends or name in (named if name == label else taken):
            number += 1
            name = f"{label}-{number}"
        ends[name] = port
    return ends | dict(named)


def _check_branches(
    nodes: tuple[Node, ...], ends: Mapping[str, Port], names: Mapping[Node, str]
) -> None:
    read = {port for node in nodes for port in node.upstream} | set(ends.values())
    for node in nodes:
        stage = node.stage
        if isinstance(stage, RouteStage):
            keys: tuple[Hashable, ...] = stage.branches
        elif isinstance(stage, BalanceStage):
            keys = tuple(range(stage.branches))
        else:
            continue
        for key in keys:
            if node.port(key) not in read:
                raise GraphError(
                    f"nobody reads branch {safe_repr(key)} of {names[node]!r}; use every branch, "
                    "or make the graph with Graph(...) so that the unused one is an end of it"
                )


def _check_sources(nodes: Iterable[Node], names: Mapping[Node, str]) -> None:
    """Refuse sources that would take each other's items: each would get part of one iterator."""
    readers: dict[int, Node] = {}
    for node in nodes:
        if isinstance(node.stage, SourceStage) and is_one_shot(node.stage.items):
            other = readers.setdefault(id(node.stage.items), node)
            if other is not node:
                raise GraphError(
                    f"sources {names[other]!r} and {names[node]!r} read the same "
                    f"{one_shot_kind(node.stage.items).partition(' ')[2]}, and each would get part "
                    "of it; make one flow of it and use that twice"
                )


# -- rules of the joins ----------------------------------------------------------------------------

_ONE_FOR_ONE = (MapStage, FilterStage, TapStage)


def check_rows(ports: tuple[Port, ...]) -> Port:
    """Find the port at which all branches of a `gather` fork, or refuse them.

    Between the fork and the join every stage has to give exactly one thing for each item.

    Raises:
        GraphError: the branches have no flow in common, or one of them can shift its items.
    """
    # All branches climb at the same pace, so that joins below one another cost what lies between
    # them and not, each time, the whole way up.
    climbs = [_climb(port) for port in ports]
    ends = [(port, "") for port in ports]
    met: Counter[Port] = Counter()
    climbing = True
    while climbing:
        climbing = False
        for number, climb in enumerate(climbs):
            step = next(climb, None)
            if step is not None:
                climbing = True
                ends[number] = step
                met[step[0]] += 1
                if met[step[0]] == len(ports):
                    return step[0]
    raise _refusal(ports, ends)


def _refusal(ports: tuple[Port, ...], ends: list[tuple[Port, str]]) -> GraphError:
    """Say why branches cannot be paired; `ends` is where each of them could be followed to."""
    if not set.intersection(*(set(above(port)) for port in ports)):
        return GraphError(
            "gather() pairs the branches of one flow, and these have none in common; "
            "use zip() to pair independent flows by position"
        )
    # Every branch ends at the first node that shifts; the one to name is not above all the others.
    last, why = ends[0]
    for last, why in ends:
        if why and not all(last.node in above(port) for port in ports):
            break
    return GraphError(
        f"gather() cannot pair the items of a branch that passes {last.node.stage.name!r}, "
        f"because {why or 'it enters there'}; move it before the fork or after the join"
    )


def _climb(port: Port) -> Iterator[tuple[Port, str]]:
    """Walk up while each node gives one thing for each item; the last step says why it stops."""
    while True:
        node, why = port.node, ""
        if isinstance(node.stage, GatherStage) and node.fork is not None:
            yield port, ""
            port = node.fork
            continue
        if port.key == FAILED:
            why = _WHY[FailuresStage]
        elif isinstance(node.stage, CallStage):
            why = _shifts(node.stage)
        elif isinstance(node.stage, BufferStage):
            why = "a lossy buffer drops items" if node.stage.overflow != "block" else ""
        elif node.upstream:
            why = _WHY.get(type(node.stage), "it does not give one item for each")
        yield port, why
        if why or not node.upstream:
            return
        port = node.upstream[0]


def _shifts(stage: CallStage) -> str:
    if not isinstance(stage, _ONE_FOR_ONE):
        return "it gives any number of items for each"
    return "" if stage.options.ordered else "ordered=False lets items overtake each other"


_WHY: dict[type[Stage], str] = {
    FlatMapStage: "it gives any number of items for each",
    BatchStage: "it makes one item of several",
    TransformStage: "it may give any number of items for each",
    RouteStage: "a branch of it gets only some of the items",
    BalanceStage: "a branch of it gets only some of the items",
    FailuresStage: "failures are a flow of their own",
    ZipStage: "it pairs by position, not by item",
    ZipLatestStage: "it pairs by time, not by item",
    ConcatStage: "it joins flows one after the other",
    MergeStage: "it mixes the items of several flows",
}


def check_independent(verb: str, ports: tuple[Port, ...]) -> None:
    """Refuse flows that grow from the same one: bounded, reading them in turn would deadlock.

    Raises:
        GraphError: two of the flows have an ancestor in common.
    """
    seen: dict[Node, int] = {}
    for number, port in enumerate(ports):
        for node in above(port):
            if seen.setdefault(node, number) != number:
                raise GraphError(
                    f"{verb}() of flows that both grow from {node.stage.name!r} would deadlock, "
                    f"because {verb}() waits for one while the other fills its buffers; "
                    f"use {_instead(verb, ports)}"
                )


def _instead(verb: str, ports: tuple[Port, ...]) -> str:
    """Say which join does take these flows: `gather` refuses branches that shift their items."""
    if verb != "zip":
        return "merge() for branches of one flow"
    try:
        check_rows(ports)
    except GraphError:
        return "merge() or zip_latest(), which take items as they come"
    return "gather() for branches of one flow"


def _aligned(nodes: tuple[Node, ...]) -> set[tuple[Node | None, int]]:
    """Find the inputs on which a row may arrive as a hole: those below a fork, up to its `gather`.

    What leaves the fork itself is whole, unless the fork lies between another fork and its join.
    """
    found: set[tuple[Node | None, int]] = set()
    for node in nodes:
        if not isinstance(node.stage, GatherStage):
            continue
        fork = node.fork
        pending: list[tuple[Node, int]] = [(node, slot) for slot in range(len(node.upstream))]
        seen: set[tuple[Node, int]] = set()
        while pending:
            place = pending.pop()
            upper = place[0].upstream[place[1]]
            if place in seen or upper == fork:
                continue
            seen.add(place)
            pending.extend((upper.node, slot) for slot in range(len(upper.node.upstream)))
        found |= seen
    return found
