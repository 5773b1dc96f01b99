"""Random cases: a graph, what enters it, and what happens to it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flowstage import Sentinel

from . import operators
from .calls import Call, Failures
from .joins import Balance, Branch, Concat, Gather, Merge, Routing, Zip, ZipLatest
from .operators import Operator
from .parts import Batch, Buffer, Entry, Part, Rebatch, Transform
from .world import BREAK

POLICIES = (None, None, "skip", "emit", "raise")
HOOKS = ("plain", "plain", "async", "failing")


@dataclass
class Case:
    """Everything that decides a run, but for the schedule.

    Attributes:
        ends: the parts that end the graph.
        entries: where items enter.
        pushes: what the driver sends, in order: `(entry, item)`, `Sentinel`s, pauses.
        acts: what happens meanwhile: `(kind, turns, seconds)`; "close" closes the end whose number is
            the turns, counted round.
        strikes: the calls of user code, by their numbers, that interrupt the run.
        stalls: for each end, pauses of its reader.
        known: every sentinel has a known place at every entry.
        observed: what hooks there are: none, "plain", "async" or "failing" ones.
        contextual: what is sent has a context of its own.
    """

    ends: list[Part]
    entries: list[Entry]
    pushes: list[Any]
    acts: list[tuple[str, int, float]]
    stalls: list[list[float]]
    buffer: int
    on_error: str
    known: bool = True
    timing: bool = False
    observed: str = ""
    contextual: bool = False
    strikes: tuple[int, ...] = ()
    label: str = ""

    @property
    def parts(self) -> set[Part]:
        return set().union(*(end.above() for end in self.ends))

    @property
    def calls(self) -> list[Call]:
        """Every stage that calls a function, those in branches too."""
        found: list[Call] = []
        for part in self.parts:
            for branch in (part, *getattr(part, "branches", ())):
                chain = branch if isinstance(branch, tuple) else (branch,)
                found += [call for call in chain if isinstance(call, Call)]
        return found

    def has(self, *kinds: type[Part]) -> bool:
        """Whether there are parts of some kind."""
        return any(isinstance(part, kinds) for part in self.parts)

    @property
    def ends_early(self) -> bool:
        """Whether a part may end before its input does."""
        return any(part.ends_early for part in self.parts)


@dataclass
class Settings:
    """What a campaign wants to see.

    Attributes:
        only_exact: no merge, balance, timers or threads: the same events everywhere.
    """

    threads: bool = True
    only_exact: bool = False
    acts: bool = True
    sizes: tuple[int, ...] = (0, 1, 3, 6, 10, 20)
    depth: int = 4


class _Generator:
    def __init__(self, rng: Any, settings: Settings) -> None:
        self.rng, self.settings = rng, settings
        self.number = 0
        self.entries: list[Entry] = []
        self.ends: list[Part] = []
        self.known = True
        self.failing = rng.random() < 0.6
        self.contextual = rng.random() < 0.15

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, *options: Any) -> Any:
        return options[self.rng.randrange(len(options))]

    def tag(self, letter: str) -> str:
        self.number += 1
        return f"{letter}{self.number}"

    # -- stages

    def call(self, upper: Part, *, rows: bool = False, neutral: bool = False) -> Call:
        verb = self.pick("map", "map", "filter", "tap", "flat_map")
        if rows:
            verb = self.pick("map", "map", "filter", "tap")
        if neutral:
            verb = self.pick("map", "tap")
        how = self.pick("plain", "plain", "async", "async", "lazy", "thread")
        if how == "thread" and not self.settings.threads:
            how = "async"
        width = 1
        if how in ("async", "thread") and self.chance(0.6):
            width = self.pick(2, 3, 5)
        ordered = rows or self.settings.only_exact or width == 1 or self.chance(0.6)
        flaky = 0.3 if self.chance(0.15) else 0.0
        hangs = 0.15 if how in ("async", "lazy") and self.chance(0.15) else 0.0
        if how == "thread" and self.chance(0.08):
            hangs, flaky = 0.1, 0.0  # how often real time strikes is not for the model to say
        fails = self.pick(0.02, 0.1, 0.3) if self.failing and self.chance(0.35) else 0.0
        if neutral:
            fails = hangs = flaky = 0.0
        return Call(
            uppers=(upper,),
            verb=verb,
            tag=self.tag(verb[0] if verb != "flat_map" else "x"),
            how=how,
            width=width,
            ordered=ordered,
            policy=self.pick(*POLICIES) if fails or hangs else None,
            fails=fails,
            flaky=flaky,
            hangs=hangs,
            seats=self.pick(1, 2, 3),
            neutral=neutral,
            context=self.contextual and self.chance(0.5),
        )

    def gather(self, upper: Part) -> Part:
        branches = []
        for _ in range(self.pick(2, 2, 3)):
            # A tag of its own for each branch, so that no flow is given twice.
            branches.append(tuple(self.call(Part(), rows=True) for _ in range(self.pick(1, 1, 2))))
        return Gather(uppers=(upper,), branches=tuple(branches))

    def route(self, upper: Part) -> list[Part]:
        branches = self.pick(2, 2, 3)
        routing = Routing(
            self.tag("r"),
            branches,
            unknown=0.1 if self.failing and self.chance(0.3) else 0.0,
            default=self.pick(None, 0, 1),
            policy=self.pick(*POLICIES),
            upper=upper,
        )
        return [Branch(uppers=(upper,), routing=routing, number=n) for n in range(branches)]

    def balance(self, upper: Part) -> Part:
        branches = [self.call(Part(), neutral=True) for _ in range(self.pick(2, 3))]
        for branch in branches:
            branch.group = branches[0].tag
        return Balance(uppers=(upper,), branches=tuple(branches))

    def fork(self, upper: Part) -> Part:
        arms: list[Part] = [self.tagged(upper) for _ in range(self.pick(2, 2, 3))]
        return Merge(
            uppers=tuple(self.grow(arm, self.pick(0, 0, 1, 2), deep=False) for arm in arms)
        )

    def tagged(self, upper: Part) -> Part:
        """Make the items of an arm its own, so that each can be told from the others'."""
        call = self.call(upper, rows=True)
        call.verb = "map"
        return call

    def buffer(self, upper: Part) -> Part:
        overflow = "block"
        if not self.settings.only_exact and self.chance(0.3):
            overflow = self.pick("drop_oldest", "drop_newest", "error")
        size = self.pick(0, 0, 1, 2, 5) if overflow == "block" else self.pick(1, 2, 4)
        if overflow == "error":
            size = self.pick(2, 5, 20)
        return Buffer(uppers=(upper,), size=size, overflow=overflow)

    def operator(self, upper: Part) -> Part:
        kinds = [kind for kind in operators.KINDS if kind not in ("reduce", "flatten")]
        if self.known:
            kinds.append("reduce")
        return Operator(
            uppers=(upper,),
            tag=self.tag("o"),
            kind="flatten" if isinstance(upper, Batch) else self.pick(*kinds),
            size=self.pick(1, 2, 4, 8),
            waits=self.chance(0.3),
        )

    def grow(self, upper: Part, stages: int, *, deep: bool = True) -> Part:
        exact_only = self.settings.only_exact
        for _ in range(stages):
            kind = self.rng.random()
            if deep and upper.exact and self.chance(0.12):
                upper = self.operator(upper)
            elif kind < 0.5 or not deep:
                upper = self.call(upper)
                if self.chance(0.1):
                    self.ends.append(upper)  # read here too, by an end of its own
            elif kind < 0.58:
                upper = self.buffer(upper)
            elif kind < 0.66:
                if upper.exact and self.known and self.chance(0.6):
                    upper = Batch(uppers=(upper,), size=self.pick(1, 2, 3, 7))
                else:
                    within = None if exact_only else self.pick(None, 0.0, 0.2, 2.0)
                    upper = Rebatch(
                        uppers=(upper,),
                        tag=self.tag("b"),
                        size=self.pick(1, 2, 3, 7),
                        within=within,
                        async_between=self.chance(0.4),
                    )
            elif kind < 0.76:
                kinds = ["plain"]
                if upper.exact:
                    kinds += ["numbers"] + ["segments"] * self.known
                fails = 0.05 if self.failing and self.chance(0.2) else 0.0
                upper = Transform(
                    uppers=(upper,), tag=self.tag("t"), kind=self.pick(*kinds), fails=fails
                )
            elif kind < 0.84:
                upper = self.gather(upper)
            elif exact_only:
                upper = self.call(upper)
            elif kind < 0.9:
                upper = self.fork(upper)
            elif kind < 0.96:
                arms = [self.grow(arm, self.pick(0, 1, 2), deep=False) for arm in self.route(upper)]
                if self.chance(0.2):
                    self.ends += arms[1:]
                    upper = arms[0]
                else:
                    upper = Merge(uppers=tuple(arms))
            else:
                upper = self.balance(upper)
        return upper

    # -- all of it

    def case(self) -> Case:
        settings = self.settings
        count = self.pick(1, 1, 1, 1, 2, 2, 3)
        kinds = ["push", "push", "plain", "async", "input", "managed"]
        if settings.threads and not settings.only_exact:
            kinds.append("thread")
        if settings.only_exact:
            count = self.pick(1, 1, 2)
        self.entries = [Entry(name=chr(65 + n), kind=self.pick(*kinds)) for n in range(count)]
        if count > 1 and self.chance(0.5):
            for entry in self.entries:
                entry.kind = "push"
        # The epoch of what a thread pulls is told by the clock, which a model cannot.
        threaded = any(entry.kind == "thread" for entry in self.entries)
        pushed = [entry for entry in self.entries if entry.kind == "push"]
        marks = self.pick(0, 0, 1, 2, 4)
        acts: list[tuple[str, int, float]] = []
        if settings.acts and self.chance(0.5):
            for _ in range(self.pick(1, 1, 2, 3)):
                kind = self.pick("stop", "leave", "close")
                if not threaded:
                    kind = self.pick("interrupt", "interrupt", "interrupt", kind)
                acts.append((kind, self.pick(0, 1, 3, 10, 30), self.pick(0, 0, 0.1, 0.5, 2.0)))
        strikes: tuple[int, ...] = ()
        if settings.acts and not threaded and self.chance(0.25):
            strikes = tuple(self.pick(*range(1, 40)) for _ in range(self.pick(1, 1, 2, 4)))
        if settings.acts and self.chance(0.2):
            acts.append(("sentinel", self.pick(0, 1, 3, 10), self.pick(0, 0, 0.3)))
            self.known = False
        alone = count == 1 or len(pushed) == count
        if marks and not alone:
            self.known = False

        parts: list[Part] = [self.grow(e, self.pick(0, 1, 2, 3)) for e in self.entries]
        while len(parts) > 1:
            joined, parts = parts[:2], parts[2:]
            exact = all(part.exact for part in joined)
            lossy = any(isinstance(p, Buffer) and p.drops for q in joined for p in q.above())
            independent = not (joined[0].above() & joined[1].above())
            kind = self.pick("merge", "zip", "zip", "concat", "ends", "zip_latest")
            if settings.only_exact:
                kind = self.pick("zip", "concat")
            if kind in ("zip", "concat") and exact and independent and not lossy:
                if kind == "zip":
                    if alone:  # an input that has ended brings no sentinel, and then zip has ended
                        marks = 0
                    pairs = Zip(uppers=tuple(joined), strict=self.chance(0.4))
                    parts.insert(0, self.grow(pairs, self.pick(0, 0, 1)))
                else:
                    marks, self.known = 0, True
                    acts = [act for act in acts if act[0] != "sentinel"]
                    parts.insert(0, self.grow(Concat(uppers=tuple(joined)), self.pick(0, 0, 1)))
            elif kind == "zip_latest":
                self.ends.append(ZipLatest(uppers=tuple(joined)))
                if self.chance(0.5) or not parts:
                    parts.insert(0, joined[0])
            elif kind == "ends":
                self.ends.append(joined[0])
                parts.insert(0, joined[1])
            else:
                parts.insert(0, Merge(uppers=tuple(joined)))
        self.ends.append(self.grow(parts[0], self.pick(0, 0, 1, 2)))
        if self.chance(0.3) and self.failing:
            for end in list(self.ends):
                calls = [p for p in end.above() if isinstance(p, Call)]
                plain = (Entry, Call, Buffer, Transform, Merge, Rebatch)
                if calls and all(isinstance(p, plain) for p in end.above()):
                    self.ends.append(Failures(uppers=(end,)))
                    break
        ends = list(dict.fromkeys(self.ends))
        used = set().union(*(end.above() for end in ends))
        unread = [p for p in used if isinstance(p, Branch) and not self._read(p, used, ends)]
        # A set has no order that a seed decides.
        ends += sorted(unread, key=lambda branch: (branch.routing.tag, branch.number))
        ends = list(dict.fromkeys(ends))

        self._fill(marks, alone)
        pushes = self._pushes(pushed, marks if alone else 0)
        return Case(
            ends=ends,
            entries=[entry for entry in self.entries if entry in used],
            pushes=pushes,
            acts=acts,
            stalls=[[self.pick(0, 0, 0.1, 1.0, 5.0) for _ in range(5)] for _ in ends],
            buffer=self.pick(0, 1, 1, 2, 5, 100),
            on_error=self.pick("raise", "raise", "skip", "emit"),
            known=self.known,
            timing=self.chance(0.1),
            observed=self.pick(*HOOKS) if self.chance(0.15) else "",
            contextual=self.contextual,
            strikes=strikes,
        )

    def _read(self, branch: Branch, used: set[Part], ends: list[Part]) -> bool:
        return branch in ends or any(branch in part.uppers for part in used)

    def _fill(self, marks: int, alone: bool) -> None:
        """Give the sources their items, and their sentinels if these have a known place."""
        for entry in self.entries:
            if entry.kind == "push":
                continue
            size = self.pick(*self.settings.sizes)
            script: list[Any] = [f"{entry.name}{n}" for n in range(size)]
            if not self.known or alone:
                for number in range(marks):
                    script.insert(self.rng.randrange(len(script) + 1), number)
                order = iter(range(marks))
                script = [
                    Sentinel(f"{entry.name}{next(order)}") if isinstance(s, int) else s
                    for s in script
                ]
            for _ in range(self.pick(0, 1, 3)):
                script.insert(self.rng.randrange(len(script) + 1), self.pick(0.0, 0.1, 1.0))
            if self.failing and self.chance(0.06):
                script.insert(self.rng.randrange(len(script) + 1), BREAK)
            entry.script = tuple(script)

    def _pushes(self, pushed: list[Entry], marks: int) -> list[Any]:
        pushes: list[Any] = []
        for entry in pushed:
            size = self.pick(*self.settings.sizes)
            place = 0
            for number in range(size):
                place = self.rng.randrange(place, len(pushes) + 1)
                pushes.insert(place, (entry.name, f"{entry.name}{number}"))
                place += 1
        for _ in range(marks if pushed else 0):
            pushes.insert(self.rng.randrange(len(pushes) + 1), None)
        order = iter(range(marks))
        pushes = [Sentinel(f"P{next(order)}") if push is None else push for push in pushes]
        for _ in range(self.pick(0, 2, 5)):
            pushes.insert(self.rng.randrange(len(pushes) + 1), self.pick(0.0, 0.1, 1.0))
        return pushes


def generate(rng: Any, settings: Settings | None = None) -> Case:
    """Make a case with whatever gives random numbers: `random.Random` or hypothesis'."""
    return _Generator(rng, settings or Settings()).case()


__all__ = ["Callable", "Case", "Settings", "field", "generate"]
