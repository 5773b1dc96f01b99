"""The block that brings a graph to life, and the options that it takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from inspect import getattr_static
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._errors import GraphError, safe_repr
from ._live import Live
from ._plan import Plan
from ._report import Report
from ._run import Run
from ._sources import Readings
from ._topology import Node, Topology

In = TypeVar("In")
Out_co = TypeVar("Out_co", covariant=True)

_HOW_TO_OPEN = "open() gives a block: write 'async with flow.open(...) as run', then read run"
_OPTIONS = ("buffer", "close_timeout", "context", "observers", "on_error", "timing")
_HOOKS = ("before_stage", "after_stage")


def check_open_options(verb: str, options: Mapping[str, Any]) -> None:
    """Refuse what is no option of `open`, in the name of the verb that was called.

    Raises:
        TypeError: there is no such option.
    """
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(
                f"{verb}() has no option {safe_repr(name)}; its options are {', '.join(_OPTIONS)}"
            )


def check_observers(observers: Any) -> tuple[Any, ...]:
    """Give the observers of a run, or refuse them.

    Raises:
        TypeError: they are no sequence, or one of them has no hook, or one that cannot be called, or
            is a class.
    """
    if isinstance(observers, (str, bytes, Mapping)) or not isinstance(observers, Iterable):
        raise TypeError(f"observers must be a sequence; pass a list, not {safe_repr(observers)}")
    found = tuple(observers)
    for observer in found:
        hooks = [name for name in _HOOKS if hasattr(observer, name)]
        if not hooks:
            raise TypeError(
                f"an observer has before_stage or after_stage, and {safe_repr(observer)} has neither"
            )
        if isinstance(observer, type) and any(
            isinstance(getattr_static(observer, name), FunctionType) for name in hooks
        ):
            raise TypeError(f"an observer is an object, not its class; make one of {observer!r}")
        for name in hooks:
            if not callable(getattr(observer, name)):
                raise TypeError(
                    f"{name} of an observer must be a function, not "
                    f"{safe_repr(getattr(observer, name))}; leave it out for none"
                )
    return found


class Opening(Generic[In, Out_co]):
    """The `async with` block that brings a graph to life. Made by `open`; used once."""

    def __init__(
        self,
        topology: Topology,
        layout: Plan,
        sources: Mapping[Node, Any],
        options: Mapping[str, Any],
    ) -> None:
        self._topology = topology
        self._plan = layout
        self._sources = sources
        self._options = options
        self._readings = Readings(topology, sources)
        self._readings.check()
        self._pour: Sequence[MutableSequence[Any]] | None = None
        self._run: Run[In, Out_co] | None = None

    def __aiter__(self) -> Any:
        raise TypeError(_HOW_TO_OPEN)

    if not TYPE_CHECKING:  # where it is wrong already, and should stay so

        def __await__(self):
            raise TypeError(_HOW_TO_OPEN)

        def __enter__(self):
            raise TypeError(_HOW_TO_OPEN)

        def __exit__(self, *_):
            raise TypeError(_HOW_TO_OPEN)

        def __getattr__(self, name):
            if hasattr(type(self), name):
                return object.__getattribute__(self, name)  # a property: what it raised
            told = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name[:1] != "_" and hasattr(Run, name):
                told += f"; {_HOW_TO_OPEN}"
            raise AttributeError(told, name=name, obj=self)

    async def __aenter__(self) -> Run[In, Out_co]:
        if self._run is not None:
            raise RuntimeError("an opening is entered once; call open() again for another run")
        self._readings.check()  # once more: an opening may be kept while another run begins
        live = Live(self._topology, self._plan, self._sources, pour=self._pour, **self._options)
        self._readings.begin(live)
        self._run = run = Run[In, Out_co](live)
        try:
            await run._enter()
        except BaseException:
            self._readings.end()
            raise
        return run

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # as `bool`, checkers would take a `return` in the block for one that may not
        assert self._run is not None
        try:
            return await self._run._leave(exc)
        finally:
            self._readings.end()

    def _check_sources(self, verb: str) -> None:
        """Refuse to wait for items that nobody will send.

        Raises:
            GraphError: an `Input` has no source.
        """
        for node in self._topology.inputs():
            if node not in self._sources:
                raise GraphError(
                    f"{verb}() needs a source for input {self._topology.names[node]!r}: "
                    f"pass one, or use open() and send"
                )

    def check_called(self) -> None:
        """Refuse to call a graph that has not one place for the item to enter.

        Raises:
            GraphError: it has no `Input`, or several.
        """
        inputs = self._topology.inputs()
        if not inputs:
            raise GraphError(
                "call() needs an Input to send its item to, and this graph has none: "
                "its items come from its own sources; use collect() or drain()"
            )
        if len(inputs) > 1:
            names = ", ".join(repr(self._topology.names[node]) for node in inputs)
            raise GraphError(
                f"call() needs a graph with one Input, and this one has several ({names}); "
                "use open() and run.send(item, to=flow)"
            )

    async def pour(self, verb: str, lists: Sequence[MutableSequence[Any]]) -> Run[In, Out_co]:
        """Run to the end and put what comes out at each end into a list.

        What comes to an end leaves the run there and then: between the last stage and the list there
        is no task, no edge to fill and nobody to wait for.

        Args:
            verb: what the user has called.
            lists: one for each end, in their order.

        Returns:
            the run, which is over.
        """
        self._check_sources(verb)
        self._pour = lists
        async with self as run:
            await run._read_into(lists)
        return run

    async def drain(self) -> Report:
        """Run to the end, keep nothing of what comes out, give the report."""
        run = await self.pour("drain", [deque[Any](maxlen=0) for _ in self._topology.ends])
        return run.report()
