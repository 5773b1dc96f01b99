"""Small graphs, one for every kind of stage, option, junction and entry, to sweep all their points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flowstage import Sentinel

from ..swept_parts import MarkedConcat, Reference
from .calls import Call, Failures
from .joins import Balance, Branch, Gather, Merge, Routing, Zip, ZipLatest
from .operators import Operator
from .parts import Batch, Buffer, Entry, Part, Rebatch, Transform

Make = Callable[[], Reference]

OPERATORS = {
    "take": 4,
    "take_while": 2,
    "drop": 2,
    "drop_while": 2,
    "scan": 2,
    "reduce": 2,
    "unique": 2,
    "distinct_until_changed": 2,
    "enumerate": 2,
    "throttle": 5,
}
"""The operators that are swept, and the `size` of each."""
IN_THE_MIDDLE = "o33"
"""An operator of this tag keeps three of six items, then not; a key comes back that was forgotten."""


def entry(name: str = "A", kind: str = "async", size: int = 5, *, mark: bool = True) -> Entry:
    """A source of a few items, with a pause, and a sentinel in the middle."""
    script: list[Any] = [f"{name}{number}" for number in range(size)]
    script.insert(2, 0.1)
    if mark:
        script.insert(4, Sentinel(f"S of {name}"))
    return Entry(name=name, kind=kind, script=tuple(script))


def call(upper: Part, tag: str, **options: Any) -> Call:
    return Call(uppers=(upper,), tag=tag, **options)


def case(*ends: Part, buffer: int = 1, known: bool = True, **options: Any) -> Reference:
    """A case around its ends."""
    above = set().union(*(end.above() for end in ends))
    entries = sorted((p for p in above if isinstance(p, Entry)), key=lambda p: p.name)
    settings: dict[str, Any] = {
        "pushes": [],
        "acts": [],
        "stalls": [[0, 0.1] for _ in ends],
        "on_error": "raise",
        **options,
    }
    return Reference(list(ends), entries, buffer=buffer, known=known, **settings)


def inline() -> Reference:
    flow: Part = call(entry(kind="plain", size=8), "m1")
    flow = call(flow, "f2", verb="filter")
    flow = call(flow, "x3", verb="flat_map")
    return case(call(flow, "t4", verb="tap"))


def waiting() -> Reference:
    flow: Part = call(entry(), "m1", how="async")
    return case(call(flow, "x2", verb="flat_map", how="async"))


def pool() -> Reference:
    return case(call(entry(size=6), "m1", how="async", width=3))


def unordered() -> Reference:
    return case(call(entry(size=6), "m1", how="async", width=3, ordered=False))


def flat_pool() -> Reference:
    return case(call(entry(), "x1", verb="flat_map", how="async", width=2))


def flat_unordered() -> Reference:
    return case(call(entry(), "x1", verb="flat_map", how="async", width=2, ordered=False))


def threads() -> Reference:
    flow = call(entry(), "m1", how="thread", width=2, seats=2)
    return case(call(flow, "x2", verb="flat_map", how="thread", seats=2))


def thread_source() -> Reference:
    return case(call(entry(kind="thread"), "m1"))


def push() -> Reference:
    pushes: list[Any] = [("A", "A0"), ("A", "A1"), Sentinel("P"), ("A", "A2"), 0.1, ("A", "A3")]
    start = Entry(name="A", kind="push")
    return case(call(start, "m1", how="async"), pushes=pushes, buffer=0)


def batches() -> Reference:
    flow = Batch(uppers=(call(entry(), "m1"),), size=2)
    return case(Transform(uppers=(flow,), tag="t1", kind="numbers"))


def timed_batches() -> Reference:
    return case(Rebatch(uppers=(entry(),), tag="b1", size=3, within=0.05, async_between=True))


def transforms() -> Reference:
    flow: Part = Transform(uppers=(entry(),), tag="t1", kind="segments")
    return case(Transform(uppers=(flow,), tag="t2", kind="plain"))


def buffers() -> Reference:
    flow: Part = Buffer(uppers=(entry(),), size=0)
    flow = call(flow, "m1", how="async")
    return case(Buffer(uppers=(flow,), size=3), buffer=0)


def lossy() -> Reference:
    flow: Part = Buffer(uppers=(entry(size=7),), size=1, overflow="drop_oldest")
    return case(call(flow, "m1", how="async"))


def routed() -> Reference:
    start = entry(size=6)
    routing = Routing("r1", 2, 0.0, None, None, start)
    arms = [Branch(uppers=(start,), routing=routing, number=n) for n in range(2)]
    return case(Merge(uppers=(call(arms[0], "m2"), call(arms[1], "m3", how="async"))))


def balanced() -> Reference:
    arms = tuple(
        call(Part(), tag, how=how, neutral=True, group="m1")
        for tag, how in (("m1", "async"), ("m2", "plain"))
    )
    return case(Balance(uppers=(entry(size=6),), branches=arms))


def forked() -> Reference:
    start = call(entry(), "m1")
    arms = call(start, "m2", how="async"), call(start, "x3", verb="flat_map")
    return case(Merge(uppers=arms))


def two_sources(*, mark: bool = True) -> tuple[Part, Part]:
    """Two sources that know nothing of each other, each with a sentinel of its own."""
    return entry("A", mark=mark), entry("B", "plain", mark=mark)


def merged() -> Reference:
    return case(call(Merge(uppers=two_sources()), "m1", how="async"), known=False)


def gathered() -> Reference:
    start = entry(size=6)
    arms = (call(Part(), "m1", how="async", width=2),), (call(Part(), "f2", verb="filter"),)
    return case(Gather(uppers=(start,), branches=arms))


def zipped() -> Reference:
    one, two = two_sources()
    return case(Zip(uppers=(one, call(two, "m1", how="async"))), known=False)


def zipped_strictly() -> Reference:
    one, two = two_sources(mark=False)
    return case(Zip(uppers=(one, call(two, "m1", how="async")), strict=True))


def zipped_unevenly() -> Reference:
    one, two = entry("A", mark=False), entry("B", "plain", size=7, mark=False)
    return case(Zip(uppers=(one, two), strict=True))


def latest() -> Reference:
    return case(ZipLatest(uppers=two_sources()), known=False)


def one_by_one() -> Reference:
    one, two = two_sources()
    return case(MarkedConcat(uppers=(one, call(two, "m1"))))


def two_pushed() -> Reference:
    """Two inputs with one order of sentinels."""
    pushes: list[Any] = [("A", "A0"), ("B", "B0"), Sentinel("P"), ("A", "A1"), 0.1, ("B", "B1")]
    pushes += [Sentinel("Q"), ("A", "A2"), ("B", "B2")]
    one, two = Entry(name="A", kind="push"), Entry(name="B", kind="push")
    return case(Merge(uppers=(one, call(two, "m1", how="async"))), pushes=pushes)


def given() -> Reference:
    return case(call(entry(kind="input"), "m1", how="async"))


def managed() -> Reference:
    return case(call(entry(kind="managed"), "m1", how="async", width=2))


def bursts() -> Reference:
    """Plain functions behind an edge and behind a source, with room for many items."""
    flow: Part = call(entry(kind="plain", size=40), "m1")
    flow = call(Buffer(uppers=(flow,), size=30), "f2", verb="filter")
    return case(call(flow, "t3", verb="tap"), buffer=100)


def bursts_in_a_pool() -> Reference:
    return case(call(entry(kind="plain", size=20), "m1", how="async", width=4), buffer=100)


def bursts_in_threads() -> Reference:
    flow = call(entry(kind="plain", size=40), "m1", how="thread", width=2, seats=2)
    return case(call(flow, "f2", verb="filter", how="thread", width=2, seats=2), buffer=100)


def flat_bursts_in_threads() -> Reference:
    start = entry(kind="plain", size=24)
    return case(
        call(start, "x1", verb="flat_map", how="thread", width=2, seats=2, ordered=False),
        buffer=100,
    )


def bursts_behind_waits() -> Reference:
    """An async function, then plain ones, in one task; and a fork behind them."""
    flow = call(call(entry(kind="plain", size=20), "m1", how="async"), "m2")
    return case(Merge(uppers=(call(flow, "m3"), call(flow, "m4", how="async"))), buffer=100)


def tried_again() -> Reference:
    flow = call(entry(size=6), "m1", how="async", width=2, flaky=0.5)
    return case(call(flow, "m2", how="async", flaky=0.85))


def tried_again_in_threads() -> Reference:
    return case(call(entry(size=6), "m1", how="thread", width=2, seats=2, flaky=0.5))


def timed_out() -> Reference:
    flow = call(entry(size=6), "m1", how="async", width=2, hangs=0.42, policy="emit")
    return case(call(flow, "m2", how="async", hangs=0.55, policy="skip"), patient=True)


def failing() -> Reference:
    """The last item ends the run."""
    return case(call(call(entry(size=6), "m1", how="async", width=2), "m2", fails=0.57))


def failing_late() -> Reference:
    start = entry(size=6)
    return case(call(start, "x1", verb="flat_map", how="async", width=2, fails=0.7, policy="emit"))


def observed() -> Reference:
    flow = call(call(entry(size=6), "m1"), "m2", how="async", width=2)
    return case(call(flow, "f3", verb="filter", how="async"), observed=True)


def clocked() -> Reference:
    flow = call(call(entry(size=6), "m1"), "m2", how="async", width=2)
    return case(Batch(uppers=(flow,), size=2), timing=True)


def newest_dropped() -> Reference:
    flow: Part = Buffer(uppers=(entry(size=7),), size=1, overflow="drop_newest")
    return case(call(flow, "m1", how="async"))


def overflowing() -> Reference:
    flow: Part = Buffer(uppers=(entry(kind="plain", size=7),), size=2, overflow="error")
    return case(call(flow, "m1", how="async"))


def roomy() -> Reference:
    flow: Part = Buffer(uppers=(entry(kind="plain", size=7),), size=20, overflow="error")
    return case(call(flow, "m1", how="async"))


def operated(name: str) -> Make:
    """A graph with one operator in the middle."""

    def make() -> Reference:
        start, size = call(entry(size=6), "m1"), OPERATORS[name]
        flow = Operator(uppers=(start,), tag=IN_THE_MIDDLE, kind=name, size=size)
        return case(call(flow, "m2", how="async"))

    make.__name__ = name
    return make


def dead_letters() -> Reference:
    flow = call(entry(size=6), "m1", how="async", width=2, fails=0.4, policy="emit")
    skipping = call(flow, "m2", fails=0.8, policy="skip")
    return case(skipping, Failures(uppers=(skipping,)))


def several_ends() -> Reference:
    start = call(entry(), "m1", how="async")
    return case(call(start, "m2"), Transform(uppers=(start,), tag="t3", kind="numbers"))


REFERENCES: dict[str, Make] = {
    make.__name__: make
    for make in (
        inline,
        waiting,
        pool,
        unordered,
        flat_pool,
        flat_unordered,
        threads,
        thread_source,
        push,
        two_pushed,
        given,
        managed,
        batches,
        timed_batches,
        transforms,
        buffers,
        lossy,
        newest_dropped,
        overflowing,
        roomy,
        routed,
        balanced,
        forked,
        merged,
        gathered,
        zipped,
        zipped_strictly,
        zipped_unevenly,
        latest,
        one_by_one,
        dead_letters,
        failing,
        failing_late,
        tried_again,
        tried_again_in_threads,
        timed_out,
        observed,
        clocked,
        several_ends,
        bursts,
        bursts_in_a_pool,
        bursts_in_threads,
        flat_bursts_in_threads,
        bursts_behind_waits,
        *map(operated, OPERATORS),
    )
}

# The same graphs, run in another way: with more room, with clocks on the items, observed.
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "roomy": {"buffer": 100},
    "timed": {"buffer": 100, "timing": True},
    "observed": {"observed": True},
}


def reference(name: str, way: str = "as it is") -> Reference:
    """Make a reference afresh, to be run in some way."""
    return replace(REFERENCES[name](), **WAYS[way])
