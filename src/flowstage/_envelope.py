"""What travels on the edges of a run.

An item travels in an `Envelope` that has exactly one holder at any time, so whoever took it from an
edge may change it in place; a broadcast gives every further branch an envelope of its own. What is
not an item is told from data by its class, which no user ever holds: a `Barrier` brings a sentinel, a
`Fault` brings a failure, a `Hole` stands where a row has lost its item on the way to a `gather`.
The end of an edge is no object: it is set on the edge, so that it needs no room and survives
everything.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, final

from attrs import field, frozen

T = TypeVar("T")

Context = MutableMapping[str, Any]

_REPR_LIMIT = 200


def safe_repr(value: object) -> str:
    """Give a bounded, printable repr that never raises."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    if len(text) > _REPR_LIMIT:
        text = text[: _REPR_LIMIT - 1] + "…"
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


class Made:
    """Whether there ever was a sentinel in this process: without one nobody can give one.

    Looking for sentinels among what functions have given is a fifth of what a plain stage costs. This
    is state outside a run, and it only ever grows true: what it spares can never be needed.
    """

    sentinel = False


@final
@frozen
class Sentinel(Generic[T]):
    """A control value: it passes every stage unprocessed and in order.

    It has no subclasses: the kinds that a program needs are told apart by their values.

    Attributes:
        value: what it brings; flowstage never looks at it.
    """

    value: T

    def __init_subclass__(cls, **_: Any) -> NoReturn:
        # A sentinel is told from data by its exact class, and one of a subclass would be data.
        raise TypeError("Sentinel cannot be subclassed; put what you need into its value")

    if not TYPE_CHECKING:
        __signature__ = Signature([Parameter("value", Parameter.POSITIONAL_OR_KEYWORD)])

        def __new__(cls, *_: Any, **__: Any) -> Any:  # copies and pickles come here as well
            Made.sentinel = True
            return object.__new__(cls)


@frozen(eq=False)
class Failure:
    """One item that one stage could not process.

    Attributes:
        stage: the name of the stage.
        item: what the stage was given.
        error: the exception, unchanged.
        attempts: how many times the stage tried.
    """

    stage: str
    item: Any = field(repr=safe_repr)
    error: BaseException = field(repr=safe_repr)
    attempts: int = 1


@final
class Envelope:
    """One item on its way."""

    __slots__ = ("clock", "context", "value")

    def __init__(self, value: Any, context: Any = None, clock: Any = None) -> None:
        self.value = value
        self.context = context
        self.clock = clock

    def copy(self) -> Envelope:
        """Give a further branch an envelope of its own, with a shallow copy of the context."""
        context, clock = self.context, self.clock
        return Envelope(
            self.value,
            None if context is None else dict(context),
            None if clock is None else clock.copy(),
        )

    def child(self, value: Any) -> Envelope:
        """Make the envelope of one of several values that came of this item."""
        fresh = self.copy()
        fresh.value = value
        return fresh


class Mark:
    """What travels in band and is no item."""

    __slots__ = ()


class Barrier(Mark):
    """A sentinel on its way; `number` is its place in the one order of the whole graph."""

    __slots__ = ("number", "sentinel")

    def __init__(self, sentinel: Sentinel[Any], number: int) -> None:
        self.sentinel = sentinel
        self.number = number


class Fault(Mark):
    """A failure on its way under `on_error="emit"`; it counts as an item."""

    __slots__ = ("failure",)

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Hole(Mark):
    """The place of a row whose item was filtered or skipped on its way to a `gather`."""

    __slots__ = ()


HOLE = Hole()
