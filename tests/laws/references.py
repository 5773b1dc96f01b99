"""Small graphs, one for every kind of stage and junction, for sweeps over all their points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowstage import Sentinel

from .calls import Call, Failures
from .cases import Case
from .joins import Balance, Branch, Concat, Gather, Merge, Routing, Zip, ZipLatest
from .parts import Batch, Buffer, Entry, Part, Rebatch, Transform

Make = Callable[[], Case]


def entry(name: str = "A", kind: str = "async", size: int = 5, *, mark: bool = True) -> Entry:
    """A source of a few items, with a pause, and a sentinel in the middle."""
    script: list[Any] = [f"{name}{number}" for number in range(size)]
    script.insert(2, 0.1)
    if mark:
        script.insert(4, Sentinel("S"))
    return Entry(name=name, kind=kind, script=tuple(script))


def call(upper: Part, tag: str, **options: Any) -> Call:
    return Call(uppers=(upper,), tag=tag, **options)


def case(*ends: Part, buffer: int = 1, known: bool = True, **options: Any) -> Case:
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
    return Case(list(ends), entries, buffer=buffer, known=known, **settings)


def inline() -> Case:
    flow: Part = call(entry(kind="plain", size=8), "m1")
    flow = call(flow, "f2", verb="filter")
    flow = call(flow, "x3", verb="flat_map")
    return case(call(flow, "t4", verb="tap"))


def waiting() -> Case:
    flow: Part = call(entry(), "m1", how="async")
    return case(call(flow, "x2", verb="flat_map", how="async"))


def pool() -> Case:
    return case(call(entry(size=6), "m1", how="async", width=3))


def unordered() -> Case:
    return case(call(entry(size=6), "m1", how="async", width=3, ordered=False))


def flat_pool() -> Case:
    return case(call(entry(), "x1", verb="flat_map", how="async", width=2))


def flat_unordered() -> Case:
    return case(call(entry(), "x1", verb="flat_map", how="async", width=2, ordered=False))


def threads() -> Case:
    flow = call(entry(), "m1", how="thread", width=2, seats=2)
    return case(call(flow, "x2", verb="flat_map", how="thread", seats=2))


def thread_source() -> Case:
    return case(call(entry(kind="thread"), "m1"))


def push() -> Case:
    pushes: list[Any] = [("A", "A0"), ("A", "A1"), Sentinel("P"), ("A", "A2"), 0.1, ("A", "A3")]
    start = Entry(name="A", kind="push")
    return case(call(start, "m1", how="async"), pushes=pushes, buffer=0)


def batches() -> Case:
    flow = Batch(uppers=(call(entry(), "m1"),), size=2)
    return case(Transform(uppers=(flow,), tag="t1", kind="numbers"))


def timed_batches() -> Case:
    return case(Rebatch(uppers=(entry(),), tag="b1", size=3, within=0.05, async_between=True))


def transforms() -> Case:
    flow: Part = Transform(uppers=(entry(),), tag="t1", kind="segments")
    return case(Transform(uppers=(flow,), tag="t2", kind="plain"))


def buffers() -> Case:
    flow: Part = Buffer(uppers=(entry(),), size=0)
    flow = call(flow, "m1", how="async")
    return case(Buffer(uppers=(flow,), size=3), buffer=0)


def lossy() -> Case:
    flow: Part = Buffer(uppers=(entry(size=7),), size=1, overflow="drop_oldest")
    return case(call(flow, "m1", how="async"))


def routed() -> Case:
    start = entry(size=6)
    routing = Routing("r1", 2, 0.0, None, None, start)
    arms = [Branch(uppers=(start,), routing=routing, number=n) for n in range(2)]
    return case(Merge(uppers=(call(arms[0], "m2"), call(arms[1], "m3", how="async"))))


def balanced() -> Case:
    arms = tuple(
        call(Part(), tag, how=how, neutral=True, group="m1")
        for tag, how in (("m1", "async"), ("m2", "plain"))
    )
    return case(Balance(uppers=(entry(size=6),), branches=arms))


def forked() -> Case:
    start = call(entry(), "m1")
    arms = call(start, "m2", how="async"), call(start, "x3", verb="flat_map")
    return case(Merge(uppers=arms))


def merged() -> Case:
    one, two = entry("A", mark=False), entry("B", "plain", mark=False)
    return case(call(Merge(uppers=(one, two)), "m1", how="async"))


def gathered() -> Case:
    start = entry(size=6)
    arms = (call(Part(), "m1", how="async", width=2),), (call(Part(), "f2", verb="filter"),)
    return case(Gather(uppers=(start,), branches=arms))


def zipped() -> Case:
    one, two = entry("A", mark=False), entry("B", "plain", mark=False)
    return case(Zip(uppers=(one, call(two, "m1", how="async"))))


def latest() -> Case:
    return case(ZipLatest(uppers=(entry("A", mark=False), entry("B", "plain", mark=False))))


def one_by_one() -> Case:
    one, two = entry("A", mark=False), entry("B", mark=False)
    return case(Concat(uppers=(one, call(two, "m1"))))


def dead_letters() -> Case:
    flow = call(entry(size=6), "m1", how="async", width=2, fails=0.4, policy="emit")
    skipping = call(flow, "m2", fails=0.3, policy="skip")
    return case(skipping, Failures(uppers=(skipping,)))


def several_ends() -> Case:
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
        batches,
        timed_batches,
        transforms,
        buffers,
        lossy,
        routed,
        balanced,
        forked,
        merged,
        gathered,
        zipped,
        latest,
        one_by_one,
        dead_letters,
        several_ends,
    )
}
