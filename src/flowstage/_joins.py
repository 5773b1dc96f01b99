"""The joins: functions that make one flow of several.

Their overloads say the type of up to five flows exactly, first those of one input type, which is kept,
then any others. From six on, and for `merge(*flows)`, all flows have one type (mypy and pyright take
the overload with `*flows` for such a call). There is no way to say this once.
"""

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
    given: tuple[Any, ...] = flows
    for thing in given:
        if not isinstance(thing, Flow):
            hint = f"; write {verb}(*flows)" if isinstance(thing, (list, tuple)) else ""
            raise TypeError(f"{verb}() takes flows, not {safe_repr(thing)}{hint}")
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


@overload
def merge(a: Flow[In, A], /) -> Flow[In, A]: ...
@overload
def merge(a: Flow[In, A], b: Flow[In, B], /) -> Flow[In, A | B]: ...
@overload
def merge(a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], /) -> Flow[In, A | B | C]: ...
@overload
def merge(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], /
) -> Flow[In, A | B | C | D]: ...
@overload
def merge(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], e: Flow[In, E], /
) -> Flow[In, A | B | C | D | E]: ...
@overload
def merge(a: Flow[Any, A], b: Flow[Any, B], /) -> Flow[Any, A | B]: ...
@overload
def merge(a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], /) -> Flow[Any, A | B | C]: ...
@overload
def merge(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], d: Flow[Any, D], /
) -> Flow[Any, A | B | C | D]: ...
@overload
def merge(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], d: Flow[Any, D], e: Flow[Any, E], /
) -> Flow[Any, A | B | C | D | E]: ...
@overload
def merge(
    a: Flow[In, A],
    b: Flow[In, A],
    c: Flow[In, A],
    d: Flow[In, A],
    e: Flow[In, A],
    f: Flow[In, A],
    /,
    *flows: Flow[In, A],
) -> Flow[In, A]: ...
@overload
def merge(
    a: Flow[Any, A],
    b: Flow[Any, A],
    c: Flow[Any, A],
    d: Flow[Any, A],
    e: Flow[Any, A],
    f: Flow[Any, A],
    /,
    *flows: Flow[Any, A],
) -> Flow[Any, A]: ...
def merge(*flows: Flow[Any, Any]) -> Flow[Any, Any]:
    """Give the items of several flows as they come, fairly; end when all have ended.

    A sentinel goes on once, when every flow that has not ended has brought it.

    Raises:
        ValueError: no flows, or the same flow twice.

    Example:
        >>> import anyio
        >>> from flowstage import merge, source
        >>> both = merge(source([1, 2]), source(["a"]))
        >>> sorted(map(str, anyio.run(both.collect)))
        ['1', '2', 'a']
    """
    return _join(MergeStage("merge"), _ports("merge", flows))


@overload
def gather(a: Flow[In, A], /) -> Flow[In, tuple[A]]: ...
@overload
def gather(a: Flow[In, A], b: Flow[In, B], /) -> Flow[In, tuple[A, B]]: ...
@overload
def gather(a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], /) -> Flow[In, tuple[A, B, C]]: ...
@overload
def gather(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], /
) -> Flow[In, tuple[A, B, C, D]]: ...
@overload
def gather(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], e: Flow[In, E], /
) -> Flow[In, tuple[A, B, C, D, E]]: ...
@overload
def gather(
    a: Flow[In, A],
    b: Flow[In, A],
    c: Flow[In, A],
    d: Flow[In, A],
    e: Flow[In, A],
    f: Flow[In, A],
    /,
    *flows: Flow[In, A],
) -> Flow[In, tuple[A, ...]]: ...
def gather(*flows: Flow[Any, Any]) -> Flow[Any, Any]:
    """Give one tuple for each item of the flow from which all the branches grow.

    The parts of a tuple belong to one item, whatever the branches do: a row that a branch filtered
    or skipped is dropped and counted, and a `Failure` in any branch takes the place of its row.

    Raises:
        GraphError: the branches have no flow in common, or one of them can shift its items.
        ValueError: no flows, or the same flow twice.

    Example:
        >>> import anyio
        >>> from flowstage import gather, source
        >>> words = source(["to", "be"])
        >>> anyio.run(gather(words, words.map(len), words.map(str.upper)).collect)
        [('to', 2, 'TO'), ('be', 2, 'BE')]
    """
    ports = _ports("gather", flows)
    return Flow(Node(GatherStage("gather"), ports, check_rows(ports)).port())


@overload
def zip(a: Flow[In, A], /, *, strict: bool = False) -> Flow[In, tuple[A]]: ...
@overload
def zip(a: Flow[In, A], b: Flow[In, B], /, *, strict: bool = False) -> Flow[In, tuple[A, B]]: ...
@overload
def zip(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], /, *, strict: bool = False
) -> Flow[In, tuple[A, B, C]]: ...
@overload
def zip(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], /, *, strict: bool = False
) -> Flow[In, tuple[A, B, C, D]]: ...
@overload
def zip(
    a: Flow[In, A],
    b: Flow[In, B],
    c: Flow[In, C],
    d: Flow[In, D],
    e: Flow[In, E],
    /,
    *,
    strict: bool = False,
) -> Flow[In, tuple[A, B, C, D, E]]: ...
@overload
def zip(a: Flow[Any, A], b: Flow[Any, B], /, *, strict: bool = False) -> Flow[Any, tuple[A, B]]: ...
@overload
def zip(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], /, *, strict: bool = False
) -> Flow[Any, tuple[A, B, C]]: ...
@overload
def zip(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], d: Flow[Any, D], /, *, strict: bool = False
) -> Flow[Any, tuple[A, B, C, D]]: ...
@overload
def zip(
    a: Flow[Any, A],
    b: Flow[Any, B],
    c: Flow[Any, C],
    d: Flow[Any, D],
    e: Flow[Any, E],
    /,
    *,
    strict: bool = False,
) -> Flow[Any, tuple[A, B, C, D, E]]: ...
@overload
def zip(
    a: Flow[In, A],
    b: Flow[In, A],
    c: Flow[In, A],
    d: Flow[In, A],
    e: Flow[In, A],
    f: Flow[In, A],
    /,
    *flows: Flow[In, A],
    strict: bool = False,
) -> Flow[In, tuple[A, ...]]: ...
@overload
def zip(
    a: Flow[Any, A],
    b: Flow[Any, A],
    c: Flow[Any, A],
    d: Flow[Any, A],
    e: Flow[Any, A],
    f: Flow[Any, A],
    /,
    *flows: Flow[Any, A],
    strict: bool = False,
) -> Flow[Any, tuple[A, ...]]: ...
def zip(*flows: Flow[Any, Any], strict: bool = False) -> Flow[Any, Any]:
    """Give tuples by position, of independent flows; end when the first of them ends.

    Args:
        flows: flows that grow from different inputs and sources.
        strict: raise `ValueError` in the run when they are of different lengths.

    Raises:
        GraphError: two of the flows have a stage in common.
        TypeError: `strict` is neither true nor false.
        ValueError: no flows, or the same flow twice.

    Example:
        >>> import anyio
        >>> from flowstage import source, zip
        >>> anyio.run(zip(source([1, 2, 3]), source("a b".split())).collect)
        [(1, 'a'), (2, 'b')]
    """
    if not isinstance(strict, bool):
        raise TypeError(f"strict must be True or False, not {safe_repr(strict)}")
    ports = _ports("zip", flows)
    check_independent("zip", ports)
    return _join(ZipStage("zip", strict), ports)


@overload
def zip_latest(a: Flow[In, A], /) -> Flow[In, tuple[A]]: ...
@overload
def zip_latest(a: Flow[In, A], b: Flow[In, B], /) -> Flow[In, tuple[A, B]]: ...
@overload
def zip_latest(a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], /) -> Flow[In, tuple[A, B, C]]: ...
@overload
def zip_latest(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], /
) -> Flow[In, tuple[A, B, C, D]]: ...
@overload
def zip_latest(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], e: Flow[In, E], /
) -> Flow[In, tuple[A, B, C, D, E]]: ...
@overload
def zip_latest(a: Flow[Any, A], b: Flow[Any, B], /) -> Flow[Any, tuple[A, B]]: ...
@overload
def zip_latest(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], /
) -> Flow[Any, tuple[A, B, C]]: ...
@overload
def zip_latest(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], d: Flow[Any, D], /
) -> Flow[Any, tuple[A, B, C, D]]: ...
@overload
def zip_latest(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], d: Flow[Any, D], e: Flow[Any, E], /
) -> Flow[Any, tuple[A, B, C, D, E]]: ...
@overload
def zip_latest(
    a: Flow[In, A],
    b: Flow[In, A],
    c: Flow[In, A],
    d: Flow[In, A],
    e: Flow[In, A],
    f: Flow[In, A],
    /,
    *flows: Flow[In, A],
) -> Flow[In, tuple[A, ...]]: ...
@overload
def zip_latest(
    a: Flow[Any, A],
    b: Flow[Any, A],
    c: Flow[Any, A],
    d: Flow[Any, A],
    e: Flow[Any, A],
    f: Flow[Any, A],
    /,
    *flows: Flow[Any, A],
) -> Flow[Any, tuple[A, ...]]: ...
def zip_latest(*flows: Flow[Any, Any]) -> Flow[Any, Any]:
    """Give a tuple of the latest item of every flow whenever one of them gives one.

    The first tuple comes when every flow has given an item; ends when all have ended.

    Raises:
        ValueError: no flows, or the same flow twice.

    Example:
        >>> import anyio
        >>> from flowstage import source, zip_latest
        >>> anyio.run(zip_latest(source([1]), source(["a"])).collect)
        [(1, 'a')]
    """
    return _join(ZipLatestStage("zip_latest"), _ports("zip_latest", flows))


@overload
def concat(a: Flow[In, A], /) -> Flow[In, A]: ...
@overload
def concat(a: Flow[In, A], b: Flow[In, B], /) -> Flow[In, A | B]: ...
@overload
def concat(a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], /) -> Flow[In, A | B | C]: ...
@overload
def concat(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], /
) -> Flow[In, A | B | C | D]: ...
@overload
def concat(
    a: Flow[In, A], b: Flow[In, B], c: Flow[In, C], d: Flow[In, D], e: Flow[In, E], /
) -> Flow[In, A | B | C | D | E]: ...
@overload
def concat(a: Flow[Any, A], b: Flow[Any, B], /) -> Flow[Any, A | B]: ...
@overload
def concat(a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], /) -> Flow[Any, A | B | C]: ...
@overload
def concat(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], d: Flow[Any, D], /
) -> Flow[Any, A | B | C | D]: ...
@overload
def concat(
    a: Flow[Any, A], b: Flow[Any, B], c: Flow[Any, C], d: Flow[Any, D], e: Flow[Any, E], /
) -> Flow[Any, A | B | C | D | E]: ...
@overload
def concat(
    a: Flow[In, A],
    b: Flow[In, A],
    c: Flow[In, A],
    d: Flow[In, A],
    e: Flow[In, A],
    f: Flow[In, A],
    /,
    *flows: Flow[In, A],
) -> Flow[In, A]: ...
@overload
def concat(
    a: Flow[Any, A],
    b: Flow[Any, A],
    c: Flow[Any, A],
    d: Flow[Any, A],
    e: Flow[Any, A],
    f: Flow[Any, A],
    /,
    *flows: Flow[Any, A],
) -> Flow[Any, A]: ...
def concat(*flows: Flow[Any, Any]) -> Flow[Any, Any]:
    """Give the items of one flow after the other; each is opened when the one before has ended.

    Raises:
        GraphError: two of the flows have a stage in common.
        ValueError: no flows, or the same flow twice.

    Example:
        >>> import anyio
        >>> from flowstage import concat, source
        >>> anyio.run(concat(source([1, 2]), source([3])).collect)
        [1, 2, 3]
    """
    ports = _ports("concat", flows)
    check_independent("concat", ports)
    return _join(ConcatStage("concat"), ports)
