"""Which stages share a task, how much each edge holds, and how many items a run can hold.

A pure function of the graph. Two adjacent stages share a task when the lower one runs inline on the
loop, one call at a time, and is not known to wait; the upper one is such a stage too, or an async
stage of one call at a time, or a source. A stage known to be async never joins the task above it, so
that stages which wait overlap. A `buffer` read by exactly one node is no task at all: it is the edge
into that node.
"""

from __future__ import annotations

from attrs import frozen

from ._places import Threads
from ._stages import (
    MAIN,
    BalanceStage,
    BatchStage,
    BufferStage,
    CallStage,
    FlatMapStage,
    GatherStage,
    Overflow,
    SourceStage,
    ZipLatestStage,
    ZipStage,
)
from ._topology import Edge, Node, Port, Topology

DEFAULT_BUFFER = 100
MOST_IN_A_CALL = 256
"""Items that one call to a place may hold (so a burst of tiny items is bounded, see law 4)."""


@frozen(eq=False)
class PlannedEdge:
    """One stream to be made.

    Attributes:
        edge: where it leaves the task above (its source port is what fills it).
        target: the node that reads it, or `None` for an end.
        slot: which of the target's inputs, or the number of the end.
        capacity: items it holds; 0 is a rendezvous.
        buffer: the `buffer` stage that it stands for, if any.
    """

    edge: Edge
    target: Node | None
    slot: int
    capacity: int
    overflow: Overflow = "block"
    buffer: Node | None = None

    @property
    def source(self) -> Port:
        return self.edge.source


@frozen(eq=False)
class Plan:
    """What a run builds.

    Attributes:
        tasks: the nodes of each task, upstream before downstream; the tasks in the same order.
        edges: the streams between them.
        bound: the most items that can be inside a run at once (law 4).
    """

    tasks: tuple[tuple[Node, ...], ...]
    edges: tuple[PlannedEdge, ...]
    bound: int


def plan(topology: Topology, buffer: int = DEFAULT_BUFFER) -> Plan:
    """Lay out a run of a graph whose plain edges hold `buffer` items each."""
    absorbed = {node for node in topology.nodes if _absorbs(topology, node)}
    tasks = _tasks(topology, absorbed)
    task_of = {node: task for task in tasks for node in task}
    edges: list[PlannedEdge] = []
    for edge in topology.edges:
        upper, target, slot = edge.source.node, edge.target, edge.slot
        if target in absorbed and target is not None:
            continue  # the edge out of the buffer stands for both
        if upper in absorbed:
            stage = upper.stage
            assert isinstance(stage, BufferStage)
            into = topology.into(upper)[0]
            # Whether rows leave holes is for the writer to know: below a fork only, not at it.
            through = Edge(into.index, into.source, target, slot, into.aligned)
            edges.append(PlannedEdge(through, target, slot, stage.size, stage.overflow, upper))
        elif target is None or task_of[target] is not task_of[upper]:
            capacity, overflow = _capacity(edge, buffer)
            edges.append(PlannedEdge(edge, target, slot, capacity, overflow))
    held = sum(edge.capacity or _passing(edge) for edge in edges)
    bound = held + sum(1 + sum(_window(node) for node in task) for task in tasks)
    return Plan(tasks, tuple(edges), bound)


def _capacity(edge: Edge, buffer: int) -> tuple[int, Overflow]:
    upper = edge.source.node
    if isinstance(upper.stage, BalanceStage):
        return 1, "block"  # a branch of balance: whoever is free takes the next
    if edge.target is not None and isinstance(edge.target.stage, BufferStage):
        return edge.target.stage.size, edge.target.stage.overflow
    if isinstance(upper.stage, BufferStage) and _is_balanced(upper):
        return upper.stage.size, upper.stage.overflow  # the edge into it is balance's own
    return buffer, "block"


def _is_balanced(node: Node) -> bool:
    return isinstance(node.upstream[0].node.stage, BalanceStage)


def _absorbs(topology: Topology, node: Node) -> bool:
    if not isinstance(node.stage, BufferStage):
        return False
    readers = topology.out_of(node.port())
    if len(readers) != 1:
        return False
    target = readers[0].target
    if _is_balanced(node):
        return False  # balance's own edges hold one
    return target is None or not isinstance(target.stage, BufferStage)


def _passing(edge: PlannedEdge) -> int:
    """Count what a rendezvous holds beside what its reader has in hand.

    Each input of a join may be handing over an item at once, and the reader of an end is no task of
    ours: while it wakes, the item is in the stream.
    """
    return int(edge.target is None or len(edge.target.upstream) > 1)


def _tasks(topology: Topology, absorbed: set[Node]) -> tuple[tuple[Node, ...], ...]:
    tasks: list[list[Node]] = []
    task_of: dict[Node, list[Node]] = {}
    for node in topology.nodes:
        if node in absorbed:
            continue
        if _joins_above(node) and len(node.upstream) == 1:
            port = node.upstream[0]
            above = task_of.get(port.node)
            alone = len(topology.out_of(port)) == 1 and port.key == MAIN
            if above is not None and alone and _takes_below(port.node):
                above.append(node)
                task_of[node] = above
                continue
        task_of[node] = [node]
        tasks.append(task_of[node])
    return tuple(tuple(task) for task in tasks)


def _joins_above(node: Node) -> bool:
    return isinstance(node.stage, CallStage) and node.stage.inline


def _takes_below(node: Node) -> bool:
    stage = node.stage
    if isinstance(stage, SourceStage):
        return stage.on is None
    if isinstance(stage, BufferStage):
        return True
    return is_chained(node)


def is_chained(node: Node) -> bool:
    """Tell whether a node runs in a chain: inline calls, or async ones one at a time."""
    stage = node.stage
    return isinstance(stage, CallStage) and stage.options.on is None and stage.options.width == 1


def _window(node: Node) -> int:
    """Give how many items a stage may hold beside the one in its task's hand."""
    stage = node.stage
    if isinstance(stage, CallStage):
        width = stage.options.width
        if stage.options.on is not None:
            return width * MOST_IN_A_CALL
        if width > 1:
            return width * (2 if isinstance(stage, FlatMapStage) else 1)
        return 1 if isinstance(stage, FlatMapStage) else 0
    if isinstance(stage, BatchStage):
        return stage.size
    if isinstance(stage, (GatherStage, ZipStage, ZipLatestStage)):
        return len(node.upstream)
    if isinstance(stage, SourceStage) and isinstance(stage.on, Threads):
        return MOST_IN_A_CALL
    return 0
