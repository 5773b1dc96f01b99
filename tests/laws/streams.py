"""The list model of a flow: segments between sentinels, and in each the strands that keep order.

What a flow gives is not one list but any interleaving of some lists: a `merge` gives two strands,
an unordered stage one strand for each of its items, an ordered chain a single one. A sentinel cuts
through all strands at once. So a flow is a list of segments, a segment a list of strands, a strand a
list of items, and what was seen at an end is right if it walks through them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

Strand = list[Any]
Segment = list[Strand]


@dataclass(frozen=True)
class Fail:
    """A failure in band or as data: the stage and the item, as text."""

    stage: str
    item: str
    kept: bool = field(default=False, compare=False)  # by the lossy buffers that it has passed


@dataclass(frozen=True)
class Mark:
    """A sentinel that was seen."""

    value: Any


def text(value: Any) -> str:
    """Write an item so that its leaves can still be read."""
    if isinstance(value, list):
        return f"[{' '.join(map(text, value))}]"
    if isinstance(value, tuple):
        return f"<{' '.join(map(text, value))}>"
    return str(value)


def leaves_of(item: Any) -> set[str]:
    """The items of entries that an item was made of."""
    shown = f"{item.item}" if isinstance(item, Fail) else text(item)
    return set(re.findall(r"(?<![A-Za-z0-9])[A-Z]\d+", shown))


def chance(tag: str, value: Any) -> float:
    """A number between 0 and 1 that depends on nothing but the stage and the item."""
    code = crc32(f"{tag}|{text(value)}".encode())
    return code * 0x9E3779B1 % 2**32 / 2**32  # or items that hardly differ would share their fate


@dataclass
class Stream:
    """What a flow gives, in one epoch.

    Attributes:
        segments: one more than there are sentinels.
        marks: the sentinels between them.
        cut: a failure ends the run in the last segment; what stands in it may or may not come.
        lossy: items may be missing on purpose.
    """

    segments: list[Segment]
    marks: list[Any] = field(default_factory=list)
    cut: bool = False
    lossy: bool = False

    def each(self, work: Callable[[Strand], tuple[list[Strand], bool]]) -> Stream:
        """Put every strand through a stage that turns it into others, and may end the run."""
        segments: list[Segment] = []
        for segment in self.segments:
            strands: Segment = []
            cut = False
            for strand in segment:
                made, failed = work(strand)
                strands += made
                cut = cut or failed
            segments.append(strands)
            if cut:
                return Stream(segments, self.marks[: len(segments) - 1], True, self.lossy)
        return Stream(segments, self.marks, self.cut, self.lossy)

    def items(self) -> list[Any]:
        """Everything in it, in no order that matters; failures left out."""
        return [
            item
            for segment in self.segments
            for strand in segment
            for item in strand
            if not isinstance(item, Fail)
        ]


def together(streams: Iterable[Stream]) -> Stream:
    """Any interleaving of several flows, aligned at the sentinels."""
    streams = list(streams)
    length = max(len(stream.segments) for stream in streams)
    cut = False
    for stream in streams:
        if stream.cut:
            cut, length = True, min(length, len(stream.segments))
    marks = max((stream.marks for stream in streams), key=len)
    segments: list[Segment] = []
    for number in range(length):
        here = [s.segments[number] for s in streams if number < len(s.segments)]
        segments.append([strand for segment in here for strand in segment])
    return Stream(segments, marks[: length - 1], cut, any(s.lossy for s in streams))


def singles(strand: Strand) -> list[Strand]:
    """Each item on its own: they may overtake each other."""
    return [[item] for item in strand]


def mismatch(stream: Stream, seen: Sequence[Any], *, complete: bool) -> str:
    """Say in what an end differs from its model, or nothing.

    Args:
        stream: the model.
        seen: items, `Fail`s and `Mark`s as they came.
        complete: whether all of it should have come.
    """
    number = 0
    walk = _Walk(stream.segments[0], lossy=stream.lossy)
    for place, event in enumerate(seen):
        if isinstance(event, Mark):
            if left := walk.left():
                return f"sentinel {event.value!r} at {place} came before {left}"
            if number >= len(stream.marks) or stream.marks[number] != event.value:
                return f"sentinel {event.value!r} at {place} has no place there"
            number += 1
            walk = _Walk(stream.segments[number], lossy=stream.lossy)
        elif not walk.step(event):
            return f"{event!r} at {place} should not come in segment {number}, or not there"
    if complete and not stream.cut:
        if left := walk.left():
            return f"{left} did not come"
        if number < len(stream.segments) - 1:
            return f"sentinel {stream.marks[number]!r} did not come"
    return ""


class _Walk:
    """One way through the strands of a segment."""

    def __init__(self, segment: Segment, *, lossy: bool) -> None:
        self.lossy = lossy
        self.strands = [tuple(map(_key, strand)) for strand in segment if strand]
        counts = Counter(item for strand in self.strands for item in strand)
        self.unique = all(count == 1 for count in counts.values())
        if self.unique:
            self.at = [0] * len(self.strands)
            self.where = {
                item: (number, place)
                for number, strand in enumerate(self.strands)
                for place, item in enumerate(strand)
            }
        else:
            self.states = {tuple([0] * len(self.strands))}

    def step(self, event: Any) -> bool:
        """Tell whether an event may come next."""
        key = _key(event)
        if self.unique:
            if key not in self.where:
                return False
            number, place = self.where[key]
            if not self._may_skip(self.strands[number][self.at[number] : place]):
                return False
            if place < self.at[number]:
                return False
            self.at[number] = place + 1
            return True
        states = set()
        for state in self.states:
            tried = set()
            for number, at in enumerate(state):
                strand = self.strands[number]
                for place in range(at, len(strand)):
                    if not self._may_skip(strand[at:place]):
                        break
                    if strand[place] == key and strand[place:] not in tried:
                        tried.add(strand[place:])
                        states.add((*state[:number], place + 1, *state[number + 1 :]))
                        break
        self.states = states
        return bool(states)

    def _may_skip(self, items: Sequence[Any]) -> bool:
        return not items or (self.lossy and not any(map(_must_come, items)))

    def left(self) -> list[Any]:
        """What has not come and should have."""
        left: list[Any] = []
        ways = [tuple(self.at)] if self.unique else list(self.states)
        for at in ways:
            left = [i for n, a in enumerate(at) for i in self.strands[n][a:]]
            left = [i for i in left if not self.lossy or _must_come(i)]
            if not left:
                return []
        return left


def _must_come(item: Any) -> bool:
    """Whether an item comes out of a lossy flow for sure."""
    return isinstance(item, Fail) and item.kept


def _key(item: Any) -> Any:
    return item if isinstance(item, Fail) else text(item)
