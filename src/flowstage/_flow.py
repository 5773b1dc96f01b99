"""The verbs: how a flow is written, one stage after the other."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import suppress
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    Never,
    NoReturn,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from ._envelope import Failure, Sentinel
from ._errors import ClosedError, GraphError, safe_repr
from ._graph import Graph, single_end
from ._opening import Opening, check_open_options
from ._places import Threads
from ._plan import DEFAULT_BUFFER
from ._policies import OnError, Retry, check_context, check_count, check_number, check_on_error
from ._report import Report
from ._run import Run
from ._sources import check_source
from ._stages import (
    FAILED,
    OVERFLOW,
    BalanceStage,
    BatchStage,
    BufferStage,
    CallStage,
    FailuresStage,
    FilterStage,
    FlatMapStage,
    InputStage,
    MapStage,
    Options,
    Overflow,
    RouteStage,
    SourceStage,
    Stage,
    TapStage,
    TransformStage,
    check_arguments,
    check_callable,
    check_function,
    check_name,
    check_options,
    name_of,
    nature_of,
)
from ._topology import Node, Port, above

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import TypeIs

In = TypeVar("In")
Out_co = TypeVar("Out_co", covariant=True)
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
P = ParamSpec("P")
T = TypeVar("T")


R_co = TypeVar("R_co", covariant=True)


Items = Iterable[T] | AsyncIterable[T]
"""What gives items."""
Many = AsyncIterable[R_co] | Coroutine[Any, Any, Iterable[R_co]] | Iterable[R_co]
"""What the function of a `flat_map` may give."""

if TYPE_CHECKING:
    Feed = (
        Items[T | Sentinel[Any]]
        | AbstractAsyncContextManager[Items[T | Sentinel[Any]], Any]
        | Callable[
            [],
            Items[T | Sentinel[Any]]
            | AbstractAsyncContextManager[Items[T | Sentinel[Any]], Any]
            | Coroutine[Any, Any, Items[T | Sentinel[Any]]],
        ]
        | Mapping[Any, Any]
    )

# How the verbs are typed, and what was tried (mypy 2.4, pyright 1.1):
# * An async function's result is a `Coroutine` and not any `Awaitable`: one that mentions `Any`, like
#   `async def fetch(url: str) -> dict[str, Any]`, matches the overload for plain functions as well,
#   and mypy then takes `Any` for the whole, unless the first is a `Coroutine`.
# * `map` needs an overload for each of async and plain: from `Coroutine[Any, Any, R] | R` mypy
#   cannot find `R`. Where the result does not make the type, one serves for both.
# * `pass_context=True` is an overload of its own: with `Concatenate` mypy cannot infer a lambda, and
#   in a union with a protocol it finds `R` or not depending on what it has seen before.


class CallOptions(TypedDict, total=False):
    """The options of a stage that calls a function, but for `pass_context`."""

    on: Threads | None
    concurrency: int | None
    ordered: bool
    timeout: float | None
    retry: Retry | None
    on_error: OnError | None
    name: str | None


class OpenOptions(TypedDict, total=False):
    """The options of `Flow.open` that `collect`, `call` and `drain` pass on."""

    buffer: int
    on_error: OnError
    timing: bool
    observers: Sequence[Any]
    close_timeout: float


_OPERATORS = frozenset(
    {
        "distinct_until_changed",
        "drop",
        "drop_while",
        "enumerate",
        "flatten",
        "reduce",
        "scan",
        "take",
        "take_while",
        "throttle",
        "unique",
    }
)
"""What `flowstage.operators` has, which is written with flows and cannot be asked from here."""

_HOW_TO_READ = (
    "a flow is a description and has no items until it is opened; "
    "use 'async with flow.open(...) as run' and read run, or 'await flow.collect(...)'"
)


class Flow(Generic[In, Out_co]):
    """An immutable expression that says which stages an item passes.

    A verb adds a stage and gives a new flow. Using one flow twice shares it: each of its items is
    computed once and every branch gets it. (It is the same object in every branch; a function that
    changes an item changes it for the others.) Nothing runs until `open`.

    In annotations it is a `Flow[In, Out]`: what is sent in at its `Input`, and what comes out. `In` is
    `Any` for a flow that grows from a `source`.

    A function that is no `async def` may give awaitables as well, as a lambda around one does. It
    does so each time or never: its first result decides.

    Stages that call a function take these options:

    * `on`: a place to run it in, such as `Threads(4)`; without one it runs on the event loop, where
      an `async def` is awaited and a plain function is called inline.
    * `concurrency`: calls at once; 1 on the loop, the place's limit on a place
      (which it cannot exceed there).
    * `ordered`: whether results leave in input order (the default) or as they finish.
    * `timeout`: seconds for each attempt.
    * `retry`: a `Retry`.
    * `on_error`: `"raise"` ends the run; `"skip"` leaves the item out, logged and counted; `"emit"`
      passes a `Failure` on in its place. The default is the run's, which is `"raise"`.
    * `pass_context`: call `fn(item, context=...)`, with the mapping that belongs to the item. (Behind
      `batch`, `transform`, `zip` and `zip_latest` it is a fresh one.)
    * `name`: how the stage is called in reports; the default is the function's name.
    """

    __slots__ = ("__weakref__", "_graph", "_port")

    def __init__(self, port: Port) -> None:
        self._port = port
        self._graph: Graph | None = None

    def __repr__(self) -> str:
        return f"<Flow from stage {self._port.node.stage.name!r}>"

    def __iter__(self) -> NoReturn:
        raise TypeError(_HOW_TO_READ)

    def __aiter__(self) -> NoReturn:
        raise TypeError(_HOW_TO_READ)

    if not TYPE_CHECKING:  # where it is wrong already, and should stay so

        async def __aenter__(self):
            raise TypeError(_HOW_TO_READ)

        async def __aexit__(self, *_):
            raise AssertionError("never entered")

        def __getattr__(self, name):
            if hasattr(type(self), name):
                return object.__getattribute__(self, name)  # a property: what it raised
            told = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in _OPERATORS:
                told += f"; it is an operator: write flow.pipe(operators.{name}, ...)"
            elif name[:1] != "_" and hasattr(Run, name):
                told += f"; runs have it: write 'async with flow.open(...) as run', then run.{name}"
            raise AttributeError(told, name=name, obj=self)

    def _then(self, stage: Stage) -> Flow[In, Any]:
        return Flow(Node(stage, (self._port,)).port())

    # -- stages that call a function ------------------------------------------------------------

    @overload
    def map(
        self, fn: Callable[[Out_co], Coroutine[Any, Any, R]], **options: Unpack[CallOptions]
    ) -> Flow[In, R]: ...

    @overload
    def map(self, fn: Callable[[Out_co], R], **options: Unpack[CallOptions]) -> Flow[In, R]: ...

    @overload
    def map(
        self,
        fn: Callable[Concatenate[Out_co, ...], Coroutine[Any, Any, R]],
        *,
        pass_context: Literal[True],
        **options: Unpack[CallOptions],
    ) -> Flow[In, R]: ...

    @overload
    def map(
        self,
        fn: Callable[Concatenate[Out_co, ...], R],
        *,
        pass_context: Literal[True],
        **options: Unpack[CallOptions],
    ) -> Flow[In, R]: ...

    def map(self, fn: Callable[..., Any], **options: Any) -> Flow[In, Any]:
        """Give one result for each item; `None` is a result like any other.

        Gives as each call ends (in input order unless `ordered=False`), waits while downstream is
        full, ends with its input.

        Args:
            fn: a function of one item, plain or async.
            options: see `Flow`.

        Raises:
            TypeError: `fn` is a generator function (use `flat_map`), takes other arguments than one
                item, or is async and given a place.
            ValueError: an option out of range.

        Example:
            >>> import anyio
            >>> from flowstage import source
            >>> anyio.run(source([1, 2, 3]).map(lambda number: number * 2).collect)
            [2, 4, 6]
        """
        check_callable("map", fn)
        if nature_of(fn) in ("generator", "async generator"):
            raise TypeError(
                f"map({name_of(fn)}): {name_of(fn)!r} is a generator function, which gives many "
                "values for one item; use flat_map"
            )
        return self._call(MapStage, "map", fn, options)

    @overload
    def flat_map(
        self, fn: Callable[[Out_co], Many[R]], **options: Unpack[CallOptions]
    ) -> Flow[In, R]: ...

    @overload
    def flat_map(
        self,
        fn: Callable[Concatenate[Out_co, ...], Many[R]],
        *,
        pass_context: Literal[True],
        **options: Unpack[CallOptions],
    ) -> Flow[In, R]: ...

    def flat_map(self, fn: Callable[..., Any], **options: Any) -> Flow[In, Any]:
        """Give any number of items for each item.

        Values are pulled lazily, no faster than they are given on, in threads too (where up to a
        time slice of them is read ahead, and a generator may be resumed in another thread). With
        `concurrency` above 1 and in order, the oldest item's values are given while the others are
        read up to their first. Values given before a failure stay, also under `"skip"` and `"emit"`.

        Args:
            fn: a function of one item that gives an iterable or async iterable: a list, a generator.
            options: see `Flow`; `timeout` is for each value, and a retry happens only before the
                first value was given.

        Raises:
            TypeError: `fn` is async and given a place.
            ValueError: an option out of range.

        Example:
            >>> import anyio
            >>> from flowstage import source
            >>> anyio.run(source(["to be", "or not"]).flat_map(str.split).collect)
            ['to', 'be', 'or', 'not']
        """
        check_callable("flat_map", fn)
        return self._call(FlatMapStage, "flat_map", fn, options)

    @overload
    def filter(
        self, keep: Callable[[Out_co], TypeIs[R]], **options: Unpack[CallOptions]
    ) -> Flow[In, R]: ...

    @overload
    def filter(
        self, keep: Callable[[Out_co], object], **options: Unpack[CallOptions]
    ) -> Flow[In, Out_co]: ...

    @overload
    def filter(
        self,
        keep: Callable[Concatenate[Out_co, ...], object],
        *,
        pass_context: Literal[True],
        **options: Unpack[CallOptions],
    ) -> Flow[In, Out_co]: ...

    def filter(self, keep: Callable[..., Any], **options: Any) -> Flow[In, Any]:
        """Pass the items for which `keep` gives something true.

        Args:
            keep: a function of one item, plain or async; a `TypeIs` narrows the flow's type.
            options: see `Flow`.

        Raises:
            TypeError: `keep` is a generator function, or async and given a place.
            ValueError: an option out of range.

        Example:
            >>> import anyio
            >>> from flowstage import source
            >>> anyio.run(source([1, 2, 3]).filter(lambda number: number % 2).collect)
            [1, 3]
        """
        return self._plain_call(FilterStage, "filter", keep, options)

    @overload
    def tap(
        self, fn: Callable[[Out_co], object], **options: Unpack[CallOptions]
    ) -> Flow[In, Out_co]: ...

    @overload
    def tap(
        self,
        fn: Callable[Concatenate[Out_co, ...], object],
        *,
        pass_context: Literal[True],
        **options: Unpack[CallOptions],
    ) -> Flow[In, Out_co]: ...

    def tap(self, fn: Callable[..., Any], **options: Any) -> Flow[In, Any]:
        """Call a function for its effect and pass the item on unchanged.

        Args:
            fn: a function of one item, plain or async; what it gives is ignored.
            options: see `Flow`.

        Raises:
            TypeError: `fn` is a generator function, or async and given a place.
            ValueError: an option out of range.

        Example:
            >>> import anyio
            >>> from flowstage import source
            >>> anyio.run(source([1, 2]).tap(print).collect)
            1
            2
            [1, 2]
        """
        return self._plain_call(TapStage, "tap", fn, options)

    def _plain_call(
        self, kind: type[CallStage], verb: str, fn: Callable[..., Any], options: dict[str, Any]
    ) -> Flow[In, Any]:
        check_function(verb, fn)
        return self._call(kind, verb, fn, options)

    def _call(
        self, kind: type[CallStage], verb: str, fn: Callable[..., Any], options: dict[str, Any]
    ) -> Flow[In, Any]:
        name = options.pop("name", None)
        check_name(name)
        unknown = options.keys() - CallOptions.__annotations__.keys() - {"pass_context"}
        if unknown:
            known = ", ".join(sorted(CallOptions.__annotations__.keys() | {"pass_context"}))
            raise TypeError(
                f"{verb}() has no option {safe_repr(min(unknown))}; its options are {known}"
            )
        checked = Options(**options)
        check_options(verb, fn, checked)
        return self._then(kind(name or name_of(fn), fn, checked, explicit=name is not None))

    # -- stages that reshape --------------------------------------------------------------------

    def batch(
        self, size: int, *, within: float | None = None, name: str | None = None
    ) -> Flow[In, list[Out_co]]:
        """Give lists of up to `size` items.

        A full list leaves at once. A partial one leaves `within` seconds after its first item,
        before a sentinel, before a failure, and at the end; an empty one never does. While
        downstream is full, a list that is due goes on filling.

        Args:
            size: items in a full list.
            within: seconds after which a partial list leaves; without it, it waits.
            name: how the stage is called in reports.

        Raises:
            ValueError: `size` is below 1, or `within` is negative or not finite.
            TypeError: an argument of the wrong type.

        Example:
            >>> import anyio
            >>> from flowstage import source
            >>> anyio.run(source([1, 2, 3]).batch(2).collect)
            [[1, 2], [3]]
        """
        check_count("size", size)
        if within is not None:
            check_number("within", within, minimum=0)
        check_name(name)
        return self._then(BatchStage(name or "batch", size, within, explicit=name is not None))

    def transform(
        self,
        fn: Callable[[AsyncIterator[Out_co]], AsyncIterable[R]],
        *,
        segments: bool = False,
        name: str | None = None,
    ) -> Flow[In, R]:
        """Run an async generator over the whole flow: the stage with memory.

        Its function reads the items with `async for` and yields results. It sees the end of its
        input and may end when it likes; the stages above are then released. A sentinel passes when
        it asks for the next item. After an interrupt it is begun afresh. Whatever it raises ends the
        run. It may leave reading to a task that it starts, in a task group around the run: within one
        of its own it must not `yield` (PEP 789). Only one task at a time may wait for the next item;
        another one gets a `BusyResourceError`.

        Args:
            fn: a function from an async iterator of items to an async iterator of results.
            segments: end the iterator at each sentinel, let the function give the rest, pass the
                sentinel on and begin the function afresh.
            name: how the stage is called in reports.

        Raises:
            TypeError: `fn` is a plain generator function or a coroutine function, or takes something
                else than one argument.

        Example:
            >>> import anyio
            >>> from flowstage import source
            >>> async def steps(numbers):
            ...     last = 0
            ...     async for number in numbers:
            ...         yield number - last
            ...         last = number
            >>> anyio.run(source([1, 4, 9]).transform(steps).collect)
            [1, 3, 5]
        """
        check_callable("transform", fn)
        check_name(name)
        if not isinstance(segments, bool):
            raise TypeError(f"segments must be True or False, not {safe_repr(segments)}")
        if nature_of(fn) in ("generator", "async"):
            raise TypeError(
                f"transform({name_of(fn)}) needs an async generator function: 'async def' with 'yield'"
            )
        check_arguments("transform", fn, "items")
        stage = TransformStage(name or name_of(fn), fn, segments, explicit=name is not None)
        return self._then(stage)

    def buffer(
        self, size: int, *, overflow: Overflow = "block", name: str | None = None
    ) -> Flow[In, Out_co]:
        """Say how many items may wait here, and what happens when it is full.

        It replaces the capacity of the edge and is a boundary between tasks. `"block"` makes the
        stage above wait. `"drop_oldest"` and `"drop_newest"` (the arriving one) lose items on
        purpose, for a branch that must not hold up the others; `"error"` ends the run with
        `BufferOverflow`. Sentinels take a place and are never dropped, nor are failures.

        Args:
            size: items that may wait; 0 hands each over when the next stage asks for it.
            overflow: what happens to an item that finds it full.
            name: how the stage is called in reports.

        Raises:
            ValueError: `size` is negative, 0 with a lossy overflow, or the overflow is unknown.
            TypeError: `size` is not a whole number.

        Example:
            >>> import anyio
            >>> from flowstage import source
            >>> anyio.run(source(range(3)).buffer(1000).map(str).collect)
            ['0', '1', '2']
        """
        if overflow not in OVERFLOW:
            known = ", ".join(repr(kind) for kind in OVERFLOW)
            raise ValueError(f"overflow must be one of {known}, not {safe_repr(overflow)}")
        check_count("size", size, minimum=0 if overflow == "block" else 1)
        check_name(name)
        return self._then(BufferStage(name or "buffer", size, overflow, explicit=name is not None))

    # -- fan-out --------------------------------------------------------------------------------

    def route(
        self,
        key: Callable[[Out_co], Any],
        branches: Iterable[K],
        *,
        default: K | None = None,
        on_error: OnError | None = None,
        name: str | None = None,
    ) -> Mapping[K, Flow[In, Out_co]]:
        """Send each item to the branch that a function names.

        Args:
            key: a function of one item that gives the name of a branch.
            branches: the names; every branch has to be used.
            default: the branch for items whose key names none; without it they fail.
            on_error: what to do about an item whose key fails or names no branch.
            name: how the stage is called in reports.

        Returns:
            the branches, by name.

        Raises:
            ValueError: no branches, one named twice, or a default that is none of them.
            TypeError: a branch name that cannot be hashed, or `key` is no function or a generator
                function.

        Example:
            >>> import anyio
            >>> from flowstage import merge, source
            >>> sizes = source([3, 30]).route(
            ...     lambda n: "big" if n > 9 else "small", ["small", "big"]
            ... )
            >>> told = merge(
            ...     sizes["small"].map(lambda n: n + 1), sizes["big"].map(lambda n: n // 10)
            ... )
            >>> sorted(anyio.run(told.collect))
            [3, 4]
        """
        check_function("route", key)
        check_arguments("route", key, "item")
        check_name(name)
        if isinstance(branches, (str, bytes)):
            raise TypeError(f"branches must be several names, not the string {safe_repr(branches)}")
        names = tuple(branches)
        if not names:
            raise GraphError("route() needs at least one branch")
        if len(set(names)) < len(names):
            raise GraphError(f"route() has a branch twice in {safe_repr(names)}")
        if default is not None and default not in names:
            raise GraphError(
                f"default={safe_repr(default)} is none of the branches {safe_repr(names)}"
            )
        if on_error is not None:
            check_on_error(on_error)
        stage = RouteStage(
            name or "route", key, names, default, on_error, explicit=name is not None
        )
        node = Node(stage, (self._port,))
        return {branch: Flow(node.port(branch)) for branch in names}

    def balance(self, n: int, *, name: str | None = None) -> tuple[Flow[In, Out_co], ...]:
        """Send each item to whichever of `n` branches is free first, ties in turn.

        Args:
            n: how many branches; every one has to be used.
            name: how the stage is called in reports.

        Raises:
            ValueError: `n` is below 1.
            TypeError: `n` is not a whole number.

        Example:
            >>> import anyio
            >>> from flowstage import merge, source
            >>> halves = source(range(4)).balance(2)
            >>> sorted(anyio.run(merge(*halves).collect))
            [0, 1, 2, 3]
        """
        check_count("n", n)
        check_name(name)
        node = Node(BalanceStage(name or "balance", n, explicit=name is not None), (self._port,))
        return tuple(Flow(node.port(number)) for number in range(n))

    def failures(self) -> Flow[In, Failure]:
        """Give, as data, every `Failure` that the stages above skipped or emitted.

        This is the branch for dead letters. Under `"skip"` the main branch goes on without the
        items that failed; under `"emit"` it has them too. A stage gives a failure when its turn
        comes: in order, unless it has `ordered=False`.

        Raises:
            GraphError: no stage above can fail.

        Example:
            >>> import anyio
            >>> from flowstage import Graph, source
            >>> numbers = source(["1", "x"]).map(int, on_error="skip")
            >>> graph = Graph(
            ...     good=numbers, bad=numbers.failures().map(lambda failure: failure.item)
            ... )
            >>> anyio.run(graph.collect)
            {'good': [1], 'bad': ['x']}
        """
        ports = tuple(
            node.port(FAILED)
            for node in above(self._port)
            if isinstance(node.stage, (CallStage, RouteStage))
        )
        if not ports:
            raise GraphError("failures() needs a stage above it that calls a function")
        return Flow(Node(FailuresStage("failures"), ports).port())

    # -- composing ------------------------------------------------------------------------------

    def pipe(
        self,
        fn: Callable[Concatenate[Flow[In, Out_co], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Give `fn(self, *args, **kwargs)`, so that building blocks read from left to right.

        Args:
            fn: a function over a flow: one of `flowstage.operators`, or your own.
            args, kwargs: what else it takes.

        Example:
            >>> import anyio
            >>> from flowstage import operators, source
            >>> anyio.run(source("abc" * 3 for _ in range(9)).pipe(operators.take, 1).collect)
            ['abcabcabc']
        """
        check_callable("pipe", fn)
        return fn(self, *args, **kwargs)

    # -- running --------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """The graph that leads to this flow.

        Raises:
            GraphError: the graph cannot work.
        """
        if self._graph is None:
            self._graph = single_end(self._port)
        return self._graph

    def open(
        self,
        source: Feed[In] | None = None,
        *,
        buffer: int = DEFAULT_BUFFER,
        on_error: OnError = "raise",
        timing: bool = False,
        observers: Sequence[Any] = (),
        context: Mapping[str, Any] | None = None,
        close_timeout: float = 10.0,
        **unknown: Never,
    ) -> Opening[In, Out_co]:
        """Make an async context manager that runs the flow and gives its `Run`.

        When a stage fails, everything is cancelled, the body of the block too, and the block raises
        that stage's own exception. Leaving the block early cancels what is still running. Either way
        no task and no stream of the run is left, and no thread runs its code.

        Args:
            source: what feeds the flow's `Input`: an iterable, an async iterable, an async context
                manager giving one, or a function returning any of these. With several inputs, a
                mapping of the `Input` flows to their sources, which serves for one input as well. An
                `Input` without a source is fed with `run.send`.
            buffer: items that each edge holds, unless a `buffer` stage says otherwise; 0 hands
                each item over when the next stage asks for it.
            on_error: what stages do about failures unless they say otherwise.
            timing: keep the times of every item, for the report.
            observers: objects with `before_stage` or `after_stage`, plain or async; `map`,
                `flat_map`, `filter` and `tap` report to them.
            context: what each item's context is a copy of.
            close_timeout: seconds that a source's or generator's own cleanup may take, and after
                which a warning names the stages that the end of the run waits for.

        Raises:
            GraphError: the graph cannot work, the source does not fit its inputs, or it can be read
                once and another run reads it or has used it up.
            TypeError: the source gives no items, or an option has the wrong type.
            ValueError: an option out of range.

        Example:
            >>> import anyio
            >>> from flowstage import Input
            >>> async def main():
            ...     async with Input[int]().map(str).open() as run:
            ...         await run.send(1)
            ...         run.finish()
            ...         async for text in run:
            ...             print(repr(text))
            >>> anyio.run(main)
            '1'
        """
        check_open_options("open", unknown)
        opening: Opening[In, Out_co] = self.graph.open(
            source,
            buffer=buffer,
            on_error=on_error,
            timing=timing,
            observers=observers,
            context=context,
            close_timeout=close_timeout,
        )
        return opening

    async def collect(
        self,
        source: Feed[In] | None = None,
        *,
        context: Mapping[str, Any] | None = None,
        **options: Unpack[OpenOptions],
    ) -> list[Out_co]:
        """Run to the end and give all results in order.

        With `on_error="emit"` the `Failure`s are among them, in their places, which the type of the
        list does not say.

        Args:
            source: as for `open`.
            context: as for `open`.
            options: the options of `open`.

        Raises:
            GraphError: an `Input` was given no source.
            Exception: what a stage raised, as it is.

        Example:
            >>> import anyio
            >>> from flowstage import Input
            >>> anyio.run(Input[int]().map(str).collect, [1, 2])
            ['1', '2']
        """
        check_open_options("collect", options)
        results: list[Any] = []
        await self._open(options, source, context).pour("collect", [results])
        return results

    async def call(
        self,
        item: In,
        *,
        context: MutableMapping[str, Any] | None = None,
        **options: Unpack[OpenOptions],
    ) -> Out_co:
        """Send exactly one item in and give the one result that comes out.

        Args:
            item: what to send.
            context: the mapping that the stages see as the item's context.
            options: the options of `open`.

        Raises:
            LookupError: nothing came out, or more than one result; if the item was skipped, the
                error is its cause.
            GraphError: the flow has no single `Input`.
            TypeError: `context` is no mutable mapping, or an option has the wrong type.
            Exception: what a stage raised, as it is.

        Example:
            >>> import anyio
            >>> from flowstage import Input
            >>> anyio.run(Input[int]().map(str).call, 1)
            '1'
        """
        check_open_options("call", options)
        if context is not None:
            check_context(context)
        opening = self._open(options)
        opening.check_called()
        async with opening as run:
            with suppress(ClosedError):  # nobody wants it, or the run has failed and says so itself
                await run.send(item, context=context)
            run.finish()
            results = [result async for result in run]
        if len(results) == 1:
            return results[0]
        if results:
            raise LookupError(
                f"call() got {len(results)} results for one item; use collect([item])"
            )
        raise LookupError(
            "call() got no result: the item was filtered, skipped, or wanted by nobody"
        ) from run._live.last_skipped

    async def drain(
        self,
        source: Feed[In] | None = None,
        *,
        context: Mapping[str, Any] | None = None,
        **options: Unpack[OpenOptions],
    ) -> Report:
        """Run to the end for its effects and give the report.

        Args:
            source: as for `open`.
            context: as for `open`.
            options: the options of `open`.

        Raises:
            GraphError: an `Input` was given no source.
            Exception: what a stage raised, as it is.

        Example:
            >>> import anyio
            >>> from flowstage import Input
            >>> report = anyio.run(Input[int]().tap(print).drain, [1, 2])
            1
            2
        """
        check_open_options("drain", options)
        return await self._open(options, source, context).drain()

    def _open(
        self, options: Mapping[str, Any], source: Any = None, context: Any = None
    ) -> Opening[In, Out_co]:
        return self.open(source, context=context, **options)


class Input(Flow[T, T]):
    """A flow where items enter: from the source given to `open`, or by `run.send`.

    Args:
        name: how it is called in reports and messages.

    Raises:
        TypeError: `name` is not a string.
        ValueError: `name` is empty.

    Example:
        >>> import anyio
        >>> from flowstage import Input
        >>> names = Input[str]("name")
        >>> anyio.run(names.map(str.title).collect, ["ada", "grace"])
        ['Ada', 'Grace']
    """

    __slots__ = ()

    def __init__(self, name: str = "input") -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"name must be a string, not {safe_repr(name)}; items go to open(), collect() or "
                "source()"
            )
        check_name(name)
        super().__init__(Node(InputStage(name, explicit=name != "input")).port())


@overload
def source(
    items: Items[T | Sentinel[Any]], *, on: Threads | None = None, name: str | None = None
) -> Flow[Any, T]: ...


@overload
def source(
    items: AbstractAsyncContextManager[Items[T | Sentinel[Any]], Any],
    *,
    on: None = None,
    name: str | None = None,
) -> Flow[Any, T]: ...


@overload
def source(
    items: Callable[
        [], Items[T | Sentinel[Any]] | AbstractAsyncContextManager[Items[T | Sentinel[Any]], Any]
    ]
    | Callable[[], Coroutine[Any, Any, Items[T | Sentinel[Any]]]],
    *,
    on: Threads | None = None,
    name: str | None = None,
) -> Flow[Any, T]: ...


def source(items: Any, *, on: Threads | None = None, name: str | None = None) -> Flow[Any, Any]:
    """Make a flow with its items built in.

    What can be read once, such as a generator, serves one run: when that has used it up, another one
    is refused. Give the function that makes it, and every run gets its own.

    On the event loop an item is pulled as soon as there is room for it, so the capacity of the edge
    behind it says how far it is read ahead; before a rendezvous (capacity 0) that is one item.

    What a source raises ends the run. Where one of several may fail without that, let a context
    manager around it keep the error to itself: then only this source has ended.

    Args:
        items: an iterable, an async iterable, an async context manager giving one, or a function
            returning any of these, which is called afresh for each run.
        on: a place to read it in, for an iterable that blocks.
        name: how it is called in reports.

    Raises:
        TypeError: `items` is a string, or nothing that gives items; or it is async and has a place.

    Example:
        >>> import anyio
        >>> from flowstage import source
        >>> async def ticks():
        ...     for number in range(3):
        ...         yield number
        >>> anyio.run(source(ticks).collect)
        [0, 1, 2]
    """
    check_source("source()", items)
    check_name(name)
    if on is not None and not isinstance(on, Threads):
        raise TypeError(f"on must be a place such as Threads(1), not {safe_repr(on)}")
    if on is not None and _is_async(items):
        raise TypeError("an async source is read on the event loop; leave out on=")
    label = name or (name_of(items) if callable(items) else "source")
    return Flow(Node(SourceStage(label, items, on, explicit=name is not None)).port())


def _is_async(items: Any) -> bool:
    """Tell whether a source is certain to need the event loop."""
    if isinstance(items, AsyncIterable):
        return True
    if hasattr(type(items), "__aenter__"):
        return not isinstance(items, Iterable)
    return callable(items) and nature_of(items).startswith("async")
