"""What a graph's items come from: which of it can be read, and which of it can be read no more.

A list can be read by every run. An iterator is read once: a run that finds it at its end would give an
empty success. So a run notes the one-shot sources that it reads, as long as it lives, and when it is
over those that it has used up. They are noted by identity and weakly, or else with the stage that they
were written in; a list's iterator that is given to `open` can be neither, and is forgotten.

Only what is sure is refused. A generator at its end stays there, and so does the iterator of a list; a
file may have been rewound or have grown, which can be seen. Whatever else may go on after it has ended,
as a consumer of a message queue does, is never said to be used up; and streams, which several tasks may
read by turns, are never said to be in use. Between the two stands what Python makes of other iterators,
`map` or `zip`: their end is final if that of what they read is. They are read once more, and when that
gives nothing, a warning says why.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from inspect import isasyncgen, isawaitable, iscoroutine, isgenerator
from typing import Any
from weakref import ref

from ._engine import SourceRunner
from ._errors import GraphError, safe_repr
from ._live import Live
from ._stages import ENTERED_ONCE, SourceStage, check_arguments, is_one_shot, one_shot_kind
from ._topology import Node, Port, Topology

logger = logging.getLogger("flowstage")

_MADE_OF_OTHERS = ("builtins", "itertools", "_csv")
"""Modules whose iterators end for good, if those that they are made of do."""

_in_use: dict[int, tuple[Any, ref[Any]]] = {}
"""What a run reads, by identity, with that run."""
_used_up: dict[int, ref[Any]] = {}
"""What an earlier run has read to its end, or the stage that it belongs to, by identity."""


def check_source(taker: str, items: Any) -> None:
    """Refuse what cannot be read as a source.

    Args:
        taker: what it is given to, in words.
        items: what is given.

    Raises:
        TypeError: it is a string, a flow, or nothing that gives items.
    """
    if isinstance(getattr(items, "_port", None), Port):
        raise TypeError(
            f"{taker} takes a source of items, and {safe_repr(items)} is a flow; build on it"
        )
    if isinstance(items, (str, bytes)):
        raise TypeError(
            f"{taker} takes a source of items, not a string; put {safe_repr(items)} into a list"
        )
    manages = hasattr(items, "__aenter__")
    if isawaitable(items) and not (manages or isinstance(items, AsyncIterable) or callable(items)):
        if iscoroutine(items):
            items.close()
        raise TypeError(
            f"{taker} takes a source of items or a function giving one, not what calling an async "
            "function gave; pass the function itself"
        )
    if callable(items) and not isinstance(items, (Iterable, AsyncIterable)):
        check_arguments("source", items)
        return
    if isinstance(items, (Iterable, AsyncIterable)):
        return
    if manages or hasattr(items, "__getitem__"):
        return
    raise TypeError(
        f"{taker} takes an iterable, an async iterable, an async context manager giving one, or a "
        f"function returning one of these, not {safe_repr(items)}"
    )


class Readings:
    """The one-shot sources of a run, from the time it is written until it is over."""

    def __init__(self, topology: Topology, sources: Mapping[Node, Any]) -> None:
        self._found: list[tuple[Node, str, Any, Any]] = []  # what is read, and its stage
        seen: dict[int, str] = {}
        for node in topology.entries():
            stage = node.stage
            items = stage.items if isinstance(stage, SourceStage) else sources.get(node)
            if not is_one_shot(items):
                continue
            name = topology.names[node]
            earlier = seen.setdefault(id(items), name)
            if earlier != name:
                raise GraphError(
                    f"one iterator cannot feed two inputs, {earlier!r} and {name!r}: "
                    "each would get part of it"
                )
            owner = stage if isinstance(stage, SourceStage) else None
            self._found.append((node, name, items, owner))
        self._fresh: list[bool] = []
        self._live: Live | None = None

    def check(self) -> None:
        """Refuse what cannot be read, or not by this run.

        Raises:
            GraphError: another run reads it, or has used it up.
        """
        for _, name, items, stage in self._found:
            kind = one_shot_kind(items)
            _, reader = _in_use.get(id(items), (None, None))
            live = reader() if reader is not None else None
            if live is not None and not live.closed:
                raise GraphError(
                    f"the source of {name!r} is {kind} that another run is reading; "
                    "give the function that makes it, and each run gets its own"
                )
            if any(_is_noted(thing) for thing in (items, stage)) and _is_empty(items):
                raise GraphError(
                    f"the source of {name!r} is {kind} that an earlier run has used up; "
                    "give the function that makes it, and each run gets its own"
                )

    def begin(self, live: Live) -> None:
        """Note what a run reads from now on."""
        self._live = live
        self._fresh = [not _is_empty(items) for _, _, items, _ in self._found]
        for _, _, items, _ in self._found:
            if _is_exclusive(items):
                # A run that is never closed, because its loop was not, holds nothing once it is gone.
                _in_use[id(items)] = (items, ref(live, _forgetting(_in_use, id(items))))

    def end(self) -> None:
        """Note what the run has used up."""
        live, self._live = self._live, None
        for (node, name, items, stage), fresh in zip(self._found, self._fresh, strict=False):
            _in_use.pop(id(items), None)
            empty = _is_empty(items)
            ended = bool(fresh and empty)
            if empty is None and live is not None and type(items).__module__ in _MADE_OF_OTHERS:
                entry = live.entries[node]
                came_to_end = isinstance(entry, SourceRunner) and not (entry.open or entry.stopping)
                ended = came_to_end and live.tallies[node].taken > 0
                if came_to_end and not ended and (_is_noted(items) or _is_noted(stage)):
                    logger.warning(
                        "source %r gave nothing, because an earlier run has read this iterator to its "
                        "end; give the function that makes it, and each run gets its own",
                        name,
                    )
            if ended:
                _note(items) or _note(stage)
        self._fresh = []


def _is_exclusive(items: Any) -> bool:
    """Tell whether two runs that read it would take each other's items unawares."""
    return hasattr(items, "__next__") or isasyncgen(items) or isinstance(items, ENTERED_ONCE)


def _is_empty(items: Any) -> bool | None:
    """Tell whether a one-shot source is sure to give nothing any more; `None` if that cannot be seen."""
    if isgenerator(items):
        return items.gi_frame is None
    if isasyncgen(items):
        return items.ag_frame is None
    if isinstance(items, ENTERED_ONCE):
        return "args" not in vars(items)  # it lets go of them when it is entered
    if isinstance(items, io.IOBase):
        return _is_at_its_end(items)
    if type(items).__module__ == "builtins" and hasattr(items, "__length_hint__"):
        return bool(items.__length_hint__() == 0)
    return None


def _is_at_its_end(file: Any) -> bool:
    buffer = getattr(file, "buffer", file)  # of a file opened as text
    if not isinstance(getattr(buffer, "raw", buffer), io.FileIO):
        return False
    try:
        return bool(file.tell() == os.fstat(file.fileno()).st_size)
    except (OSError, ValueError):  # a pipe, a text in the middle, a closed file
        return False


def _note(thing: Any) -> bool:
    """Remember a thing as long as it lives; tell whether that can be done."""
    try:
        _used_up[id(thing)] = ref(thing, _forgetting(_used_up, id(thing)))
    except TypeError:
        return False
    return True


def _is_noted(thing: Any) -> bool:
    noted = _used_up.get(id(thing))
    return thing is not None and noted is not None and noted() is thing


def _forgetting(notes: dict[int, Any], key: int) -> Callable[[ref[Any]], None]:
    """Give what takes a note away when what it is about is no more."""

    def forget(_: ref[Any]) -> None:
        notes.pop(key, None)

    return forget
