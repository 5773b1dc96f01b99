"""What the rows of a `zip_latest` may be: how time falls is open, and what it may change is little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .streams import Fail, Mark, Stream, text


def rows_wrong(uppers: Sequence[Stream], seen: Sequence[Any], *, complete: bool) -> str:
    """Say what is wrong with rows, or nothing.

    The first row is there when every input has given an item. From then on each item of an input
    gives a row, in which it replaces the one before it: so from row to row one cell changes, to the
    next item of its input. The last row has the last items. Of an input without an order (or one that
    loses items) only this is known: each item is latest once.
    """
    rows = [event for event in seen if isinstance(event, tuple)]
    fails = [event for event in seen if isinstance(event, Fail)]
    odd = [event for event in seen if not isinstance(event, (tuple, Fail, Mark))]
    if odd or any(len(row) != len(uppers) for row in rows):
        return f"{odd or rows} are no rows"
    expected = Counter(
        _key(i) for upper in uppers for i in everything(upper) if isinstance(i, Fail)
    )
    if unknown := Counter(map(_key, fails)) - expected:
        return f"{list(unknown)} came from nowhere"
    whole = complete and not any(upper.cut or upper.lossy for upper in uppers)
    if whole and (missing := expected - Counter(map(_key, fails))):
        return f"{list(missing)} did not come"
    for before, after in pairwise(rows):
        changed = [n for n in range(len(uppers)) if text(before[n]) != text(after[n])]
        if len(changed) > 1 or (not changed and all(map(differ, uppers))):
            return f"between {before!r} and {after!r} {len(changed)} cells change"
    for number, upper in enumerate(uppers):
        if wrong := column_wrong(upper, [row[number] for row in rows], whole=whole):
            return f"input {number}: {wrong}"
    if whole and not rows and all(items_of(upper) for upper in uppers):
        return "no row came"
    return ""


def column_wrong(upper: Stream, column: Sequence[Any], *, whole: bool) -> str:
    """Say what is wrong with the cells of one input, or nothing."""
    latest = [text(item) for item in column[:1]]
    latest += [text(b) for a, b in pairwise(column) if text(a) != text(b)]
    items = items_of(upper)
    if unknown := Counter(latest) - Counter(items):
        return f"{list(unknown)} were latest too often"
    is_exact = not upper.lossy and all(len(segment) <= 1 for segment in upper.segments)
    if not (latest and is_exact and differ(upper)):
        return ""
    first = items.index(latest[0])
    if latest != items[first : first + len(latest)]:
        return f"{latest} is not how {items} came"
    if whole and latest[-1] != items[-1]:
        return f"{items[-1]} came last, and the last row has {latest[-1]}"
    return ""


def differ(upper: Stream) -> bool:
    """Whether each item can be told from the one before it."""
    items = items_of(upper)
    return len(set(items)) == len(items)


def everything(stream: Stream) -> list[Any]:
    """All that a stream gives, failures included."""
    return [item for segment in stream.segments for strand in segment for item in strand]


def items_of(stream: Stream) -> list[str]:
    """The items of a stream, as text; in order where there is one."""
    return [text(item) for item in stream.items()]


def _key(fail: Fail) -> tuple[str, str]:
    return fail.stage, fail.item
