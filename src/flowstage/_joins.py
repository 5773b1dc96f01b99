"""The joins: functions that make one flow of several."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from ._errors import GraphError, safe_repr
from ._flow import Flow
from ._stages import ConcatStage, GatherStage, MergeStage, Stage, ZipLatestStage, ZipStage
from ._topology import Node, Port, check_independent, check_rows

In = TypeVar("In")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")


def _ports(verb: str, flows: tuple[Flow[Any, Any], ...]) -> tuple[Port, ...]:
    for flow in flows:
        if not isinstance(flow, Flow):
            raise TypeError(f"{verb}() takes flows, not {safe_repr(flow)}")
    if not flows:
        raise GraphError(f"{verb}() needs at least one flow")
    ports = tuple(flow._port for flow in flows)
    if len(set(ports)) < len(ports):
        raise GraphError(
            f"{verb}() was given the same flow twice; each of its items would come twice, "
            "so make the second one a flow of its own, with map(lambda item: item) if need be"
        )
    return ports


def _join(stage: Stage, ports: tuple[Port, ...]) -> Flow[Any, Any]:
    return Flow(Node(stage, ports).port())


def merge(*flows: Flow[Any, Any]) -> Flow[Any, Any]:
    """Give the items of several flows as they come, fairly; end when all have ended.

    A sentinel goes on once, when every flow that has not ended has brought it.

    Raises:
        ValueError: no flows, or the same flow twice.
    """
    return _join(MergeStage("merge"), _ports("merge", flows))


def gather(*flows: Flow[Any, Any]) -> Flow[Any, Any]:
    """Give one tuple for each item of the flow from which all the branches grow.

    The parts of a tuple belong to one item, whatever the branches do: a row that a branch filtered
    or skipped is dropped and counted, and a `Failure` in any branch takes the place of its row.

    Raises:
        GraphError: the branches have no flow in common, or one of them can shift its items.
        ValueError: no flows, or the same flow twice.
    """
    ports = _ports("gather", flows)
    return Flow(Node(GatherStage("gather"), ports, check_rows(ports)).port())


def zip(*flows: Flow[Any, Any], strict: bool = False) -> Flow[Any, Any]:
    """Give tuples by position, of independent flows; end when the first of them ends.

    Args:
        flows: flows that grow from different inputs and sources.
        strict: raise `ValueError` in the run when they are of different lengths.

    Raises:
        GraphError: two of the flows have a stage in common.
        ValueError: no flows, or the same flow twice.
    """
    ports = _ports("zip", flows)
    check_independent("zip", ports)
    return _join(ZipStage("zip", strict), ports)


def zip_latest(*flows: Flow[Any, Any]) -> Flow[Any, Any]:
    """Give a tuple of the latest item of every flow whenever one of them gives one.

    The first tuple comes when every flow has given an item; ends when all have ended.

    Raises:
        ValueError: no flows, or the same flow twice.
    """
    return _join(ZipLatestStage("zip_latest"), _ports("zip_latest", flows))


def concat(*flows: Flow[Any, Any]) -> Flow[Any, Any]:
    """Give the items of one flow after the other; each is opened when the one before has ended.

    Raises:
        GraphError: two of the flows have a stage in common.
        ValueError: no flows, or the same flow twice.
    """
    ports = _ports("concat", flows)
    check_independent("concat", ports)
    return _join(ConcatStage("concat"), ports)


__all__ = [
    "A",
    "B",
    "C",
    "D",
    "E",
    "In",
    "concat",
    "gather",
    "merge",
    "overload",
    "zip",
    "zip_latest",
]
