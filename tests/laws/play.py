"""Runs a case and checks every law against what was seen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from flowstage import BufferOverflow, ClosedError, Graph, Sentinel, StageTimeout

from ..harness import Schedule, observe
from . import counts
from .calls import Failures
from .cases import Case
from .hooks import Hooks
from .joins import Concat, Zip, ZipLatest
from .latest import rows_wrong
from .operators import Operator
from .parts import Buffer, Entry, Part, Rebatch, Transform, as_seen
from .streams import Fail, Mark, chance, leaves_of, mismatch
from .world import RUN_CONTEXT, Boom, Model, World


class Broken(AssertionError):
    """A law does not hold."""


class Play:
    """One run of a case; call it, then `check`.

    Attributes:
        seen: for each end, what came out, with its epoch.
        left: the block was left early, on purpose.
        closed: the ends that were closed early, on purpose.
    """

    def __init__(self, case: Case, *, pause: float = 1.0, swept: bool = False) -> None:
        self.case = case
        self.world = World(pause=pause, strikes=case.strikes, contextual=case.contextual)
        self.graph = Graph(**{f"end{n}": self.world.flow(e) for n, e in enumerate(case.ends)})
        self.plan = self.graph._plan(case.buffer)
        self.bound = self.plan.bound
        # A buffer that is nothing but an edge has that edge's account: not to be counted twice.
        names = self.graph._topology.names
        self.edges_only = {names[e.buffer] for e in self.plan.edges if e.buffer is not None}
        self.tasks = [[names[node] for node in task] for task in self.plan.tasks]
        self.run: Any = None
        self.report: Any = None
        self.seen: list[list[tuple[int, Any]]] = [[] for _ in case.ends]
        self.ended = [False] * len(case.ends)
        self.left = self.stopped = self.strict = False
        self.closed: set[int] = set()
        self.stop_now: anyio.Event | None = None
        self.looks = 0
        self.most = 0
        self.wrong: list[str] = []
        self.sent: list[tuple[int, Any]] = []  # sentinels of unknown place, with their epochs
        self.hooks = Hooks(case.observed)
        self.readers: anyio.CancelScope | None = None
        self.swept = swept

    # -- the run

    async def __call__(self) -> None:
        case, world = self.case, self.world
        names = {entry.name: world.flow(entry) for entry in case.entries}
        fed = {
            names[entry.name]: entry.items(world) for entry in case.entries if entry.kind == "input"
        }
        inputs = [entry for entry in case.entries if entry.kind in ("input", "push")]
        sources: Any = fed or None
        if fed and len(inputs) == 1:
            (sources,) = fed.values()
        world.look, world.strike = self.look, self.interrupt
        self.stop_now = anyio.Event()
        options: dict[str, Any] = {"buffer": case.buffer, "on_error": case.on_error}
        if case.timing:
            options["timing"] = True
        if case.observed:
            options["observers"] = [self.hooks]
        if case.contextual:
            options["context"] = RUN_CONTEXT
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
        gone: set[str] = set()  # entries that take no more
        for push in self.case.pushes:
            try:
                if isinstance(push, float):
                    await anyio.sleep(push * self.world.pause)
                elif isinstance(push, Sentinel):
                    # When the run is stopped, which entries still take it is a matter of time.
                    if (only is None or only == min(names)) and not self.stopped:
                        await self.send_sentinel(push)
                elif only in (None, push[0]) and push[0] in names and push[0] not in gone:
                    await self.send(*push, names[push[0]])
            except ClosedError:
                if not (self.case.has(Zip) or self.stopped or self.loose):
                    raise
                if isinstance(push, tuple):
                    gone.add(push[0])
        self.finish(names, only)

    async def send(self, name: str, item: str, to: Any) -> None:
        """Send an item, and note it if it was accepted."""
        world, noted = self.world, self.world.note(name, item)
        options: dict[str, Any] = {"to": to}
        if self.case.contextual and chance("context", item) < 0.7:
            options["context"] = {"leaf": item}
        try:
            await self.run.send(item, **options)
        except BaseException:
            items = [event for _, event in world.logs[name] if not isinstance(event, Sentinel)]
            if self.entered(name) < len(items):  # a cancelled one may have entered
                world.logs[name] = [event for event in world.logs[name] if event is not noted]
            raise

    def entered(self, name: str) -> int:
        """The number of items that an entry has taken."""
        return sum(stage.taken for stage in self.run.report().stages if stage.name == name)

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
            elif kind == "close":
                number = turns % len(self.case.ends)
                self.closed.add(number)
                self.run.output(f"end{number}").close()
                self.look()
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
        live = self.run._live
        if live.closed or live.cancelled:
            if self.run.interrupt():
                self.wrong.append("there was something to interrupt when the run was over")
            return
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
        try:
            await self.read_events(number, self.run.output(f"end{number}"))
        except ClosedError:
            if number not in self.closed:
                raise
        else:
            self.ended[number] = number not in self.closed

    async def read_events(self, number: int, output: Any) -> None:
        stalls = self.case.stalls[number]
        count = 0
        async for event in output.events():
            self.seen[number].append((self.world.epoch, as_seen(event)))
            self.look()
            pause = stalls[count % len(stalls)]
            count += 1
            if pause:
                await anyio.sleep(pause * self.world.pause)

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
        in_hand = {stage.name: stage.in_hand for stage in report.stages}
        for task in self.tasks:  # in hand is what is left over in the account: not trusted
            running = sum(self.world.running[self.world.epoch, name] for name in task)
            if running > sum(in_hand[name] for name in task):
                self.wrong.append(f"{task} run {running} calls, and have in hand {in_hand}")

    # -- afterwards

    def check(self, error: BaseException | None) -> None:
        """Check all laws.

        Raises:
            Broken: one does not hold.
        """
        wrong = [*self.wrong, *self.world.crowded, *self.world.strange[:3]]
        if self.report is None:
            raise Broken("the run never began") from error
        if self.unlucky():
            return
        wrong += account(self.report)
        wrong += [f"{s.name} still has items in hand" for s in self.report.stages if s.in_hand]
        wrong += [f"{e.source} -> {e.target} holds" for e in self.report.edges if e.inside]
        if self.world.open_generators:
            wrong.append(f"{self.world.open_generators} generators of user code left open")
        models = [self.model(epoch) for epoch in range(self.world.epoch + 1)]
        wrong += self.check_error(error, models)
        whole = error is None and not self.left
        for number in range(len(self.case.ends)):
            wrong += self.check_end(number, models, whole=whole)
        wrong += self.check_conclusions(models)
        wrong += self.check_marks(whole)
        wrong += self.check_leaves()
        wrong += self.check_calls(models, whole)
        if wrong:
            raise Broken("\n- ".join(["laws broken:", *wrong])) from error

    def unlucky(self) -> bool:
        """Whether a call in a thread took too long that was not to."""
        threaded = {p.tag for p in self.case.calls if p.how == "thread"}
        late = {
            (record.stage, record.item)
            for record in self.report.failures
            if record.error.startswith(StageTimeout.__name__) and record.stage in threaded
        }
        return not late <= self.world.hung

    def check_end(self, number: int, models: list[Model], *, whole: bool) -> list[str]:
        """Laws 1 to 3: what came out at one end, epoch by epoch."""
        end, wrong = self.case.ends[number], []
        if whole and not self.ended[number] and number not in self.closed:
            wrong.append(f"end {number} has not ended")
        for epoch, model in enumerate(models):
            seen = [event for e, event in self.seen[number] if e == epoch]
            if model.cut and self.lossy:
                continue  # the item that ends the run may have been dropped before it could
            if self.loose and model.unsure & end.above():
                continue
            if not self.case.known:
                seen = [event for event in seen if not isinstance(event, Mark)]
            # An end that says it has ended has given everything, however the run ended.
            last = (whole or self.ended[number]) and epoch == self.world.epoch
            last = last and number not in self.closed and not self.settled(end)
            if isinstance(end, ZipLatest):
                uppers = [model.stream(upper) for upper in end.uppers]
                said = rows_wrong(uppers, seen, complete=last)
            else:
                said = mismatch(model.stream(end), seen, complete=last)
            if said:
                wrong.append(f"end {number} ({type(end).__name__}), epoch {epoch}: {said}")
        return wrong

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
            if self.loose and models[epoch].unsure & parts[tag].above():
                continue
            if isinstance(what, int):
                items = len(upper.items())
                if what > items or (what < items and not self.settled(parts[tag])):
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
        if isinstance(error, BufferOverflow) and self.overflows:
            return []  # whether a buffer is full is for time to say
        if error is not None:
            expected = isinstance(error, (Boom, LookupError, StageTimeout))
            expected = expected or (isinstance(error, ValueError) and "strict" in str(error))
            if not expected or not any(model.cut for model in models):
                return [f"it raised {error!r}"]
        elif models[-1].cut and not self.left and not self.loose and not self.settled():
            return ["a stage should have ended the run and has not"]
        return []

    @property
    def loose(self) -> bool:
        """Whether more may enter than comes out."""
        return self.lossy or self.case.ends_early or bool(self.closed)

    def settled(self, end: Part | None = None) -> bool:
        """Whether parts may have ended before an interrupt: they stay ended, and give nothing more."""
        parts = self.case.parts if end is None else end.above()
        reduces = any(isinstance(part, Operator) and part.kind == "reduce" for part in parts)
        return bool(self.world.epoch) and (reduces or any(part.ends_early for part in parts))

    @property
    def lossy(self) -> bool:
        """Whether there are buffers that drop items."""
        return any(isinstance(part, Buffer) and part.drops for part in self.case.parts)

    @property
    def overflows(self) -> bool:
        """Whether there are buffers that may end the run."""
        parts = self.case.parts
        return any(isinstance(part, Buffer) and part.overflow == "error" for part in parts)

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
            early = any(part.ends_early for part in self.case.ends[number].above())
            early = early or number in self.closed or self.case.has(Zip)
            if whole and not early and not self.stopped:
                missing = {s for s in mine if s[0] == self.world.epoch} - set(marks)
                wrong += [f"{mark} did not come at end {number}" for mark in missing]
        return wrong

    def check_leaves(self) -> list[str]:
        """Law 2, by the leaves of each item, for the entries that know a sentinel's place."""
        if self.case.has(Concat) or any(
            isinstance(p, (Transform, Operator)) and p.kind in ("segments", "reduce")
            for p in self.case.parts
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
        return [*wrong, *self.hooks.wrong()]

    def check_counts(self, model: Model) -> list[str]:
        """Law 6, by the model, of a run that has gone its whole way: each stage's account, and no loss."""
        self.strict = True
        report, names = self.report, self.graph._topology.names
        wrong = [f"{s.name} discarded {s.discarded}" for s in report.stages if s.discarded]
        wrong += [
            f"{e.source} -> {e.target} discarded {e.discarded}" for e in report.edges if e.discarded
        ]
        by_name = {stage.name: stage for stage in report.stages}
        for part in self.case.parts:
            if part in self.world.flows and not isinstance(part, Failures):
                name = names[self.world.flow(part)._port.node]
                wrong += counts.wrong(part, name, by_name[name], model)
        for call, known in model.inner.items():
            wrong += counts.differs(call.tag, by_name[call.tag], known)
        return wrong


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
