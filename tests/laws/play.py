"""Runs a case and checks every law against what was seen."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Graph, Sentinel

from ..harness import Schedule, observe
from .cases import Case
from .parts import (
    Boom,
    Buffer,
    Call,
    Concat,
    Entry,
    Model,
    Rebatch,
    Transform,
    World,
    Zip,
    ZipLatest,
    as_seen,
)
from .streams import Fail, Mark, mismatch, text


class Broken(AssertionError):
    """A law does not hold."""


class Play:
    """One run of a case; call it, then `check`.

    Attributes:
        seen: for each end, what came out, with its epoch.
        left: the block was left early, on purpose.
    """

    def __init__(self, case: Case, *, pause: float = 1.0, swept: bool = False) -> None:
        self.case = case
        self.world = World(pause=pause)
        self.graph = Graph(**{f"end{n}": self.world.flow(e) for n, e in enumerate(case.ends)})
        self.plan = self.graph.plan(case.buffer)
        self.bound = self.plan.bound
        # A buffer that is nothing but an edge has that edge's account: not to be counted twice.
        names = self.graph._topology.names
        self.edges_only = {names[e.buffer] for e in self.plan.edges if e.buffer is not None}
        self.run: Any = None
        self.report: Any = None
        self.seen: list[list[tuple[int, Any]]] = [[] for _ in case.ends]
        self.ended = [False] * len(case.ends)
        self.left = self.stopped = False
        self.stop_now: anyio.Event | None = None
        self.looks = 0
        self.most = 0
        self.wrong: list[str] = []
        self.sent: list[tuple[int, Any]] = []  # sentinels of unknown place, with their epochs
        self.hooks: Counter[tuple[str, str, str]] = Counter()
        self.readers: anyio.CancelScope | None = None
        self.swept = swept

    # -- the run

    async def __call__(self) -> None:
        case, world = self.case, self.world
        names = {entry.name: world.flow(entry) for entry in case.entries}
        fed = {
            names[entry.name]: entry.items(world, world.logs[entry.name])
            for entry in case.entries
            if entry.kind == "input"
        }
        inputs = [entry for entry in case.entries if entry.kind in ("input", "push")]
        sources: Any = fed or None
        if fed and len(inputs) == 1:
            (sources,) = fed.values()
        world.look = self.look
        self.stop_now = anyio.Event()
        options: dict[str, Any] = {"buffer": case.buffer, "on_error": case.on_error}
        if case.timing:
            options["timing"] = True
        if case.observed:
            options["observers"] = [self]
        try:
            async with self.graph.open(sources, **options) as self.run:
                async with anyio.create_task_group() as tasks:
                    helpers = anyio.CancelScope()
                    tasks.start_soon(self.help, helpers, names)
                    async with anyio.create_task_group() as readers:
                        self.readers = readers.cancel_scope
                        for number in range(len(case.ends)):
                            readers.start_soon(self.read, number)
                    helpers.cancel()
                self.look()
        except BaseExceptionGroup as group:
            inner: BaseException = group
            while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
                inner = inner.exceptions[0]
            raise inner from None
        finally:
            self.report = self.run.report() if self.run else None

    async def help(self, scope: anyio.CancelScope, names: dict[str, Any]) -> None:
        with scope:
            async with anyio.create_task_group() as tasks:
                if self.case.has(Zip, Concat):
                    # One sender would wait for an input that is read only when another one is.
                    for entry in self.case.entries:
                        if entry.kind == "push":
                            tasks.start_soon(self.push, names, entry.name)
                else:
                    tasks.start_soon(self.push, names, None)
                tasks.start_soon(self.act)
                if self.swept:
                    tasks.start_soon(self.stop_when_told)

    async def stop_when_told(self) -> None:
        assert self.stop_now is not None
        await self.stop_now.wait()
        await self.run.stop()

    # -- what a sweep does at a point

    def ask_interrupt(self) -> None:
        """Interrupt, if the run is there."""
        if self.run is not None:
            self.interrupt()

    def ask_stop(self) -> None:
        """Have a task of the scenario stop the run."""
        if self.stop_now is not None:
            self.stopped = True
            self.stop_now.set()

    def ask_leave(self) -> None:
        """Leave the block: the readers are cancelled, and nothing else."""
        if self.readers is not None:
            self.left = True
            self.readers.cancel()

    # -- its tasks

    async def push(self, names: dict[str, Any], only: str | None) -> None:
        """Send what the case sends, and note what was accepted."""
        case, world = self.case, self.world
        try:
            for push in case.pushes:
                if isinstance(push, float):
                    await anyio.sleep(push * world.pause)
                elif isinstance(push, Sentinel):
                    if only is None or only == min(names):
                        await self.send_sentinel(push)
                elif only in (None, push[0]) and push[0] in names:
                    name, item = push
                    noted = [world.epoch, item]
                    world.logs[name].append(noted)
                    try:
                        await self.run.send(item, to=names[name])
                    except ClosedError:  # a cancelled one may have entered
                        world.logs[name] = [e for e in world.logs[name] if e is not noted]
                        raise
            self.finish(names, only)
        except ClosedError:
            if case.has(Zip) or self.stopped:
                self.finish(names, only)
                return
            raise

    def finish(self, names: dict[str, Any], only: str | None) -> None:
        for entry in self.case.entries:
            if entry.kind == "push" and only in (None, entry.name):
                self.run.finish(to=names[entry.name])

    async def send_sentinel(self, sentinel: Any) -> None:
        world, noted = self.world, [self.world.epoch, sentinel]
        logs = [world.logs[e.name] for e in self.case.entries if e.kind == "push"]
        for log in logs:
            log.append(noted)
        self.sent.append((world.epoch, sentinel))
        try:
            await self.run.send_sentinel(sentinel.value)
        except ClosedError:
            for name, log in world.logs.items():
                world.logs[name] = [event for event in log if event is not noted]
            self.sent.remove((noted[0], sentinel))
            raise

    async def act(self) -> None:
        for number, (kind, turns, seconds) in enumerate(self.case.acts):
            for _ in range(turns):
                await checkpoint()
            await anyio.sleep(seconds * self.world.pause)
            self.look()
            if kind == "interrupt":
                self.interrupt()
            elif kind == "sentinel":
                sentinel = Sentinel(f"X{number}")
                self.sent.append((self.world.epoch, sentinel))
                try:
                    await self.run.send_sentinel(sentinel.value)
                except ClosedError:
                    self.sent.remove((self.sent[-1][0], sentinel))
            elif kind == "stop":
                self.stopped = True
                await self.run.stop()
            else:
                self.left = True
                assert self.readers is not None
                self.readers.cancel()
                return

    def interrupt(self) -> None:
        """Interrupt; the number it gives is the number that the account gained."""
        before = self.discarded()
        count = self.run.interrupt()
        self.world.epoch += 1
        gained = self.discarded() - before
        if count != gained:
            self.wrong.append(f"interrupt gave {count}, and {gained} were counted as discarded")
        self.look()

    def discarded(self) -> int:
        """Everything that the account has as discarded."""
        report = self.run.report()
        return sum(s.discarded for s in report.stages if s.name not in self.edges_only) + sum(
            e.discarded for e in report.edges
        )

    async def read(self, number: int) -> None:
        stalls = self.case.stalls[number]
        output = self.run.output(f"end{number}")
        count = 0
        async for event in output.events():
            self.seen[number].append((self.world.epoch, as_seen(event)))
            self.look()
            pause = stalls[count % len(stalls)]
            count += 1
            if pause:
                await anyio.sleep(pause * self.world.pause)
        self.ended[number] = True

    # -- looking at it while it runs

    def look(self) -> None:
        """Laws 4 and 6, at this moment."""
        run = self.run
        if run is None or len(self.wrong) > 3:
            return
        self.looks += 1
        report = run.report()
        self.wrong += account(report)
        inside = sum(edge.inside for edge in report.edges)
        inside += sum(s.in_hand for s in report.stages if s.name not in self.edges_only)
        self.most = max(self.most, inside)
        if inside > self.bound:
            self.wrong.append(f"{inside} items inside, and the bound is {self.bound}\n{report}")

    def before_stage(self, stage: str, item: Any, context: Any) -> None:
        self.hooks["before", stage, text(item)] += 1

    def after_stage(self, stage: str, item: Any, result: Any, error: Any, context: Any) -> None:
        self.hooks["after", stage, text(item)] += 1

    # -- afterwards

    def check(self, error: BaseException | None) -> None:
        """Check all laws.

        Raises:
            Broken: one does not hold.
        """
        wrong = [*self.wrong, *self.world.crowded]
        if self.report is None:
            raise Broken("the run never began") from error
        wrong += account(self.report)
        wrong += [f"{s.name} still has items in hand" for s in self.report.stages if s.in_hand]
        wrong += [f"{e.source} -> {e.target} holds" for e in self.report.edges if e.inside]
        if self.world.open_generators:
            wrong.append(f"{self.world.open_generators} generators of user code left open")
        models = [self.model(epoch) for epoch in range(self.world.epoch + 1)]
        wrong += self.check_error(error, models)
        whole = error is None and not self.left
        for number, end in enumerate(self.case.ends):
            if whole and not self.ended[number]:
                wrong.append(f"end {number} has not ended")
            if isinstance(end, ZipLatest):
                continue
            for epoch, model in enumerate(models):
                seen = [event for e, event in self.seen[number] if e == epoch]
                if model.cut and self.lossy:
                    continue  # the item that ends the run may have been dropped before it could
                if not self.case.known:
                    seen = [event for event in seen if not isinstance(event, Mark)]
                # An end that says it has ended has given everything, however the run ended.
                last = (whole or self.ended[number]) and epoch == self.world.epoch
                if said := mismatch(model.stream(end), seen, complete=last):
                    wrong.append(f"end {number} ({type(end).__name__}), epoch {epoch}: {said}")
        wrong += self.check_conclusions(models)
        wrong += self.check_marks(whole)
        wrong += self.check_leaves()
        wrong += self.check_calls(models, whole)
        if wrong:
            raise Broken("\n- ".join(["laws broken:", *wrong])) from error

    def check_conclusions(self, models: list[Model]) -> list[str]:
        """No user code was told that its input had ended, unless it had."""
        wrong = []
        parts = {
            part.tag: part for part in self.case.parts if isinstance(part, (Transform, Rebatch))
        }
        for tag, epoch, what in self.world.conclusions:
            upper = models[epoch].stream(parts[tag].upper)
            if not self.case.known or upper.cut or upper.lossy or not parts[tag].upper.exact:
                continue
            if isinstance(what, int):
                if what != len(upper.items()):
                    wrong.append(f"{tag} was told of the end after {what} items")
                continue
            lasts = []
            for segment in upper.segments:
                for strand in filter(None, segment):
                    lasts += [
                        i
                        for i, after in zip(strand, [*strand[1:], None], strict=True)
                        if after is None or isinstance(after, Fail)
                    ]
            if what[-1] not in lasts:
                wrong.append(f"{tag} gave a partial batch {what!r}")
        return wrong

    def model(self, epoch: int) -> Model:
        logs = {
            name: [event for at, event in log if at == epoch]
            for name, log in self.world.logs.items()
        }
        model = Model(self.case, logs, marks=self.case.known)
        for end in self.case.ends:
            for part in [end, *end.uppers] if isinstance(end, ZipLatest) else [end]:
                if not isinstance(part, ZipLatest):
                    model.stream(part)
        return model

    def check_error(self, error: BaseException | None, models: list[Model]) -> list[str]:
        if self.left and isinstance(error, (type(None), get_cancelled())):
            return []
        if error is not None:
            expected = isinstance(error, (Boom, LookupError)) or "StageTimeout" in repr(error)
            if not expected or not any(model.cut for model in models):
                return [f"it raised {error!r}"]
        elif models[-1].cut and not self.left and not self.loose:
            return ["a stage should have ended the run and has not"]
        return []

    @property
    def loose(self) -> bool:
        """Whether more may enter than comes out."""
        return self.lossy or self.case.has(Zip)

    @property
    def lossy(self) -> bool:
        """Whether there are buffers that drop items."""
        return any(isinstance(p, Buffer) and p.overflow != "block" for p in self.case.parts)

    def check_marks(self, whole: bool) -> list[str]:
        """Law 2, where places are not known: each at most once, and at a whole end exactly once."""
        wrong = []
        if self.case.known or self.case.has(Concat):
            return []
        for number in range(len(self.case.ends)):
            marks = [(e, m.value) for e, m in self.seen[number] if isinstance(m, Mark)]
            wrong += [f"{mark} twice" for mark, count in Counter(marks).items() if count > 1]
            sent = [(e, s.value) for e, s in self.sent]
            for log in self.world.logs.values():
                sent += [(e, s.value) for e, s in log if isinstance(s, Sentinel)]
            mine: list[Any] = []  # of entries above this end, which had not ended when they gave it
            for part in self.case.ends[number].feeders():
                if isinstance(part, Entry):
                    log = self.world.logs[part.name]
                    mine += [(e, s.value) for e, s in log if isinstance(s, Sentinel)]
            wrong += [f"{mark} from nowhere" for mark in marks if mark not in sent]
            if whole and not self.case.has(Zip) and not self.stopped:
                missing = {s for s in mine if s[0] == self.world.epoch} - set(marks)
                wrong += [f"{mark} did not come at end {number}" for mark in missing]
        return wrong

    def check_leaves(self) -> list[str]:
        """Law 2, by the leaves of each item, for the entries that know a sentinel's place."""
        if self.case.has(Concat) or any(
            isinstance(p, Transform) and p.kind == "segments" for p in self.case.parts
        ):
            return []
        wrong = []
        places: dict[Any, dict[str, int]] = {}  # sentinel: entry: number of items before it
        numbers: dict[str, int] = {}
        for name, log in self.world.logs.items():
            for place, (_, event) in enumerate(log):
                if isinstance(event, Sentinel):
                    places.setdefault(event.value, {})[name] = place
                else:
                    numbers[event] = place
        entries = {entry.name for entry in self.case.entries}
        for number, seen in enumerate(self.seen):
            events = [event for _, event in seen]
            for at, event in enumerate(events):
                if not isinstance(event, Mark):
                    continue
                known = places.get(event.value, {})
                for other, item in enumerate(events):
                    if isinstance(item, Mark) or (
                        isinstance(item, Fail) and self.case.has(Zip)  # it stands for a pair
                    ):
                        continue
                    leaves = leaves_of(item)
                    sides = {
                        numbers[leaf] > known[leaf[0]]
                        for leaf in leaves
                        if leaf[0] in known and leaf in numbers
                    }
                    if True in sides and other < at:
                        wrong.append(f"end {number}: {item!r} came before {event!r}")
                    if sides == {False} and {leaf[0] for leaf in leaves} <= set(known) | (
                        set() if len(known) < len(entries) else entries
                    ):
                        if other > at:
                            wrong.append(f"end {number}: {item!r} came after {event!r}")
        return wrong

    def check_calls(self, models: list[Model], whole: bool) -> list[str]:
        """Law 5: each stage was called once for each item, and for no others."""
        wrong = []
        most: Counter[tuple[str, str]] = Counter()
        for model in models:
            most.update(model.calls)
        cut = any(model.cut for model in models)
        for key, count in self.world.calls.items():
            if count > most[key] and not (cut and not most[key]):
                wrong.append(f"stage {key[0]} was called {count} times with {key[1]}")
        if whole and not cut and not self.loose and len(models) == 1:
            for key, count in most.items():
                if self.world.calls[key] < count:
                    wrong.append(f"stage {key[0]} was not called with {key[1]}")
            wrong += self.check_counts(models[0])
        if self.case.observed:
            for (when, stage, item), count in self.hooks.items():
                if count > 1 and stage not in ("pass_on", "spread"):
                    wrong.append(f"hook {when} of {stage} {count} times for {item}")
                if when == "after" and not self.hooks["before", stage, item]:
                    wrong.append(f"hook after of {stage} without before for {item}")
        return wrong

    def check_counts(self, model: Model) -> list[str]:
        """The account of each stage is what the model says."""
        wrong = []
        by_name = {stage.name: stage for stage in self.report.stages}
        for part in self.case.parts:
            if not isinstance(part, Call) or part.upper not in model.streams:
                continue
            stage = by_name[part.tag]
            items = model.stream(part.upper).items()
            bad = [i for i in items if part.fails_on(i) or part.hangs_on(i)]
            policy = part.policy or self.case.on_error
            filtered = 0
            if part.verb == "filter":
                filtered = sum(not part.gives(i) for i in items if i not in bad)
            expected = {
                "taken": len(items),
                "skipped": len(bad) if policy == "skip" else 0,
                "failed": len(bad) if policy == "emit" else 0,
                "filtered": filtered,
                "given": len(model.stream(part).items()),
                "discarded": 0,
            }
            found = {name: getattr(stage, name) for name in expected}
            if found != expected:
                wrong.append(f"stage {part.tag} counts {found}, and should {expected}")
        return wrong


def leaves_of(item: Any) -> set[str]:
    """The items of entries that an item was made of."""
    shown = f"{item.item}" if isinstance(item, Fail) else text(item)
    return set(re.findall(r"(?<![A-Za-z0-9])[A-Z]\d+", shown))


def account(report: Any) -> list[str]:
    """Law 6."""
    wrong = []
    for stage in report.stages:
        ended = stage.done + stage.filtered + stage.skipped + stage.failed + stage.discarded
        figures = {
            name: getattr(stage, name)
            for name in ("taken", "done", "filtered", "skipped", "failed", "discarded", "in_hand")
        }
        if stage.taken != ended + stage.in_hand or min(figures.values()) < 0:
            wrong.append(f"account of stage {stage.name}: {figures}")
    for edge in report.edges:
        figures = {n: getattr(edge, n) for n in ("entered", "left", "discarded", "inside")}
        if edge.entered != edge.left + edge.discarded + edge.inside or min(figures.values()) < 0:
            wrong.append(f"account of edge {edge.source} -> {edge.target}: {figures}")
    return wrong


def get_cancelled() -> type[BaseException]:
    """The one cancellation that a scenario can end with outside of a loop: a native one."""
    import asyncio

    return asyncio.CancelledError


def play(case: Case, schedule: Schedule) -> Play:
    """Run a case under a schedule, and check it.

    Raises:
        Broken: a law does not hold.
        AssertionError: it was stuck, or left something behind.
    """
    one = Play(case)
    outcome = observe(schedule, one)
    outcome.check()
    one.check(outcome.error)
    return one


__all__ = ["Broken", "Entry", "Play", "account", "play"]
