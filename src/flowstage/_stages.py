"""The kinds of stages: one frozen description each, checked where it is written.

A description says what a stage does and knows nothing of running. `Options` are those of every stage
that calls a user's function. What can be seen of a function is seen here, once: whether it is async,
whether it is a generator function, what it is called.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import types
from collections.abc import Callable, Hashable
from contextlib import _AsyncGeneratorContextManager
from typing import Any, Literal

from attrs import field, frozen

from ._errors import safe_repr
from ._places import Threads
from ._policies import OnError, Retry, check_count, check_number, check_on_error

Nature = Literal["plain", "async", "generator", "async generator", "unknown"]
Overflow = Literal["block", "drop_oldest", "drop_newest", "error"]


class _Way:
    """A way out of a stage that has no name of the user's; equal to nothing but itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


MAIN: Hashable = _Way("main")
"""The port of a stage through which its results go out."""
FAILED: Hashable = _Way("failures")
"""The port through which failures that were skipped or emitted go out as data."""
OVERFLOW = ("block", "drop_oldest", "drop_newest", "error")


_OF_VALUES = (str, bytes, bytearray, int, float, complex)
"""Types no method of which gives an awaitable; `list.pop` might, if there is one in the list."""


def nature_of(fn: Callable[..., Any]) -> Nature:
    """Tell what can be seen of a callable without calling it.

    Partials, methods and callable objects are looked through. "unknown" is what may or may not give
    an awaitable: a callable object with a plain `__call__`, or a plain wrapper of something async.
    """
    while isinstance(fn, (functools.partial, types.MethodType)):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    seen = _nature_of_function(fn)
    if seen is not None:
        return seen
    if isinstance(fn, (types.BuiltinFunctionType, type)):
        return "plain"
    if isinstance(fn, types.MethodDescriptorType) and fn.__objclass__ in _OF_VALUES:
        return "plain"
    call = getattr(type(fn), "__call__", None)  # noqa: B004 - the class's own, to look at
    while isinstance(call, functools.partialmethod):  # pragma: no cover - exotic
        call = call.func
    seen = _nature_of_function(call)
    return "unknown" if seen is None or seen == "plain" else seen


def _nature_of_function(fn: Any) -> Nature | None:
    # asyncio.iscoroutinefunction is deprecated; inspect's knows markcoroutinefunction from 3.12 on.
    if inspect.iscoroutinefunction(fn):
        return "async"
    if inspect.isasyncgenfunction(fn):
        return "async generator"
    if inspect.isgeneratorfunction(fn):
        return "generator"
    if isinstance(fn, types.FunctionType):
        return "unknown" if hasattr(fn, "__wrapped__") else "plain"
    return None


def name_of(fn: Callable[..., Any]) -> str:
    """Give the name under which a function appears in drawings and reports."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None)
    if not isinstance(name, str):
        name = type(fn).__name__
    return "lambda" if name == "<lambda>" else name


_OURS = os.path.join(os.path.dirname(__file__), "")
"""What the files of this package begin with."""
_DEEPEST = 20
"""Wrappers that are looked through; one may say that it wraps itself."""


def code_of(fn: Any) -> types.CodeType | None:
    """Give the code of what the user has written, seen through whatever is around it, if it has any.

    Partials, methods, decorated functions and callable objects are looked through. It is for
    messages about what has gone wrong already, so nothing that a wrapper says can make it fail.
    """
    try:
        for _ in range(_DEEPEST):
            if isinstance(fn, (functools.partial, functools.partialmethod)):
                fn = fn.func
            elif isinstance(fn, types.MethodType):
                fn = fn.__func__
            elif (inner := getattr(fn, "__wrapped__", None)) is not None:
                fn = inner
            elif isinstance(fn, types.FunctionType):
                # an operator's is no place where anything could be put right
                return None if fn.__code__.co_filename.startswith(_OURS) else fn.__code__
            else:
                fn = getattr(type(fn), "__call__", None)  # noqa: B004 - the class's own, to look at
    except Exception:
        return None
    return None


def check_callable(verb: str, fn: object) -> None:
    """Refuse what cannot be called, above all the coroutine that calling it gave."""
    if (inspect.isawaitable(fn) and not callable(fn)) or inspect.isasyncgen(fn):
        if inspect.iscoroutine(fn):
            fn.close()
        raise TypeError(
            f"{verb}() takes a function, not what calling it gave; pass the function itself"
        )
    if not callable(fn):
        raise TypeError(f"{verb}() takes a function, not {safe_repr(fn)}")


def check_function(verb: str, fn: Callable[..., Any]) -> None:
    """Refuse what cannot be called for a result: what is no function, or a generator function."""
    check_callable(verb, fn)
    if nature_of(fn) in ("generator", "async generator"):
        raise TypeError(f"{verb}({name_of(fn)}): a generator function does nothing when called")


def check_name(name: object) -> None:
    """Refuse what cannot name a stage."""
    if name is None:
        return
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {safe_repr(name)}")
    if not name:
        raise ValueError("name must not be empty")


ENTERED_ONCE = _AsyncGeneratorContextManager
"""What calling an `asynccontextmanager` gives: it can be entered once."""


def is_one_shot(items: object) -> bool:
    """Tell whether what is read as a source can be read once."""
    return (
        hasattr(items, "__next__") or hasattr(items, "__anext__") or isinstance(items, ENTERED_ONCE)
    )


def one_shot_kind(items: object) -> str:
    """Say what a one-shot source is."""
    if inspect.isgenerator(items):
        return "a generator"
    if inspect.isasyncgen(items):
        return "an async generator"
    if isinstance(items, ENTERED_ONCE):
        return "an async context manager"
    if isinstance(items, io.IOBase):
        return "an open file"
    return "an iterator"


@frozen
class Options:
    """The options of a stage that calls a user's function; see the verbs of `Flow`."""

    on: Threads | None = None
    concurrency: int | None = None
    ordered: bool = True
    timeout: float | None = None
    retry: Retry | None = None
    on_error: OnError | None = None
    pass_context: bool = False

    def __attrs_post_init__(self) -> None:
        if self.on is not None and not isinstance(self.on, Threads):
            raise TypeError(f"on must be a place such as Threads(4), not {safe_repr(self.on)}")
        if self.concurrency is not None:
            check_count("concurrency", self.concurrency)
        if self.timeout is not None:
            check_number("timeout", self.timeout, minimum=0, exclusive=True)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry must be a Retry, not {safe_repr(self.retry)}")
        if self.on_error is not None:
            check_on_error(self.on_error)
        for flag in ("ordered", "pass_context"):
            value = getattr(self, flag)
            if not isinstance(value, bool):
                raise TypeError(f"{flag} must be True or False, not {safe_repr(value)}")

    @property
    def bare(self) -> bool:
        """Whether nothing is asked of a call but the function's result for the item."""
        return not (self.retry or self.timeout or self.pass_context)

    @property
    def width(self) -> int:
        """Calls at once."""
        if self.concurrency is not None:
            return self.concurrency
        return self.on.limit if self.on is not None else 1


def check_options(verb: str, fn: Callable[..., Any], options: Options) -> None:
    """Refuse options that cannot work with what can be seen of the function."""
    nature = nature_of(fn)
    name = name_of(fn)
    is_async = nature in ("async", "async generator")
    if not options.pass_context and _needs_context(fn):
        raise TypeError(
            f"{verb}({name}): {name!r} needs an argument 'context', which it is given with "
            "pass_context=True"
        )
    if options.on is not None and is_async:
        raise TypeError(
            f"{verb}({name}, on=...): {name!r} is async and runs on the event loop; "
            "leave out on=, or pass a plain function"
        )
    check_arguments(verb, fn, "item", context=options.pass_context)
    if options.on is not None or nature not in ("plain", "generator"):
        return
    if options.timeout is None and options.width == 1:
        return
    remedy = "run it in a place (on=Threads(...)) or make it async"
    if name == "lambda":
        remedy += "; what a lambda calls may be async, which nobody can see: pass an 'async def'"
    if options.timeout is not None:
        raise TypeError(
            f"{verb}({name}, timeout=...): a plain function on the event loop cannot be timed out; "
            f"{remedy}"
        )
    raise ValueError(
        f"{verb}({name}, concurrency={options.concurrency}): a plain function on the event loop "
        f"runs one call at a time; {remedy}"
    )


_SAID_BY_WRAPPERS = {"__wrapped__", "__signature__"}


def _bare(fn: Any) -> types.FunctionType | None:
    """Give the function itself, if what it says of its arguments can be believed.

    A wrapper may have some to give, or take others than it says; so functions in one are left alone.
    """
    if isinstance(fn, types.MethodType):
        fn = fn.__func__
    if not isinstance(fn, types.FunctionType) or vars(fn).keys() & _SAID_BY_WRAPPERS:
        return None
    return fn


def _needs_context(fn: Callable[..., Any]) -> bool:
    """Tell whether a function is certain to fail without a `context` beside its item."""
    bare = _bare(fn)
    if bare is None:
        return False
    code = bare.__code__
    names = code.co_varnames[: code.co_argcount]
    if "context" in names[1 if bare is fn else 2 :]:
        return names.index("context") < len(names) - len(bare.__defaults__ or ())
    only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return "context" in only and "context" not in (bare.__kwdefaults__ or ())


def check_arguments(verb: str, fn: Callable[..., Any], *given: str, context: bool = False) -> None:
    """Refuse a function that is certain to fail, because it takes other arguments.

    Args:
        verb: what the user has called.
        fn: the function.
        given: what it is called with, in words.
        context: whether it is called with a `context` as well.

    Raises:
        TypeError: it cannot be called like that.
    """
    inner: Any = fn
    while isinstance(inner, functools.partial) and not vars(inner).keys() & _SAID_BY_WRAPPERS:
        inner = inner.func
    bare = _bare(inner)
    if bare is None:
        return
    code = bare.__code__
    if bare is fn and code.co_argcount == len(given) and not (context or code.co_kwonlyargcount):
        return  # as most do: a signature takes a while to make
    more = {"context": None} if context else {}
    try:
        inspect.signature(fn).bind(*given, **more)
    except TypeError as error:
        name = name_of(fn)
        called = f"{name}({', '.join((*given, *(f'{key}=...' for key in more)))})"
        is_short = given == ("item",) and str(error).startswith("missing") and code.co_argcount > 1
        raise TypeError(
            f"{verb}({name}): {name!r} is called as {called}, and that cannot work: {error}"
            f"{'; an item is one argument, also if it is a tuple' if is_short else ''}"
        ) from None
    except ValueError:  # a partial that its function refuses: the call will say so
        return


@frozen(eq=False)
class Stage:
    """What every kind of stage has.

    Attributes:
        name: what it is called unless another stage of the graph has that name already.
        explicit: whether the user gave that name.
    """

    name: str
    explicit: bool = field(default=False, kw_only=True)


@frozen(eq=False)
class InputStage(Stage):
    """Where items enter from `open(source)` or `run.send`."""


@frozen(eq=False)
class SourceStage(Stage):
    """Where a flow's own items enter."""

    items: Any = None
    on: Threads | None = None


@frozen(eq=False)
class CallStage(Stage):
    """A stage that calls a user's function for each item."""

    fn: Callable[..., Any]
    options: Options

    @property
    def nature(self) -> Nature:
        return nature_of(self.fn)

    @property
    def inline(self) -> bool:
        """Whether it runs on the loop, one call at a time, and is not known to wait."""
        return (
            self.options.on is None
            and self.options.width == 1
            and self.options.timeout is None
            and self.nature not in ("async", "async generator")
        )


@frozen(eq=False)
class MapStage(CallStage):
    """One result for each item."""


@frozen(eq=False)
class FilterStage(CallStage):
    """Passes the items that a function says to keep."""


@frozen(eq=False)
class TapStage(CallStage):
    """Calls a function for its effect, passes the item on."""


@frozen(eq=False)
class FlatMapStage(CallStage):
    """Any number of results for each item."""


@frozen(eq=False)
class BatchStage(Stage):
    """Lists of up to `size` items."""

    size: int
    within: float | None = None


@frozen(eq=False)
class TransformStage(Stage):
    """A function from an async iterator of items to an async iterator of results."""

    fn: Callable[..., Any]
    segments: bool = False


@frozen(eq=False)
class BufferStage(Stage):
    """The capacity of an edge, and what happens when it is full."""

    size: int
    overflow: Overflow = "block"


@frozen(eq=False)
class RouteStage(Stage):
    """Each item to the branch that a function names."""

    key: Callable[[Any], Hashable]
    branches: tuple[Hashable, ...]
    default: Hashable | None = None
    on_error: OnError | None = None


@frozen(eq=False)
class BalanceStage(Stage):
    """Each item to whichever branch is free first."""

    branches: int


@frozen(eq=False)
class MergeStage(Stage):
    """Items of several flows as they come."""


@frozen(eq=False)
class FailuresStage(MergeStage):
    """The failures that the stages above handled, as data."""


@frozen(eq=False)
class GatherStage(Stage):
    """One tuple for each item of the flow from which all the branches grow."""


@frozen(eq=False)
class ZipStage(Stage):
    """Tuples by position."""

    strict: bool = False


@frozen(eq=False)
class ZipLatestStage(Stage):
    """Tuples of the latest item of each flow."""


@frozen(eq=False)
class ConcatStage(Stage):
    """One flow after the other."""


def function_of(stage: Stage) -> Callable[..., Any] | None:
    """Give the user's function of a stage, if it has one."""
    if isinstance(stage, (CallStage, TransformStage)):
        return stage.fn
    if isinstance(stage, RouteStage):
        return stage.key
    if isinstance(stage, SourceStage) and callable(stage.items):
        fn: Callable[..., Any] = stage.items
        return fn
    return None
