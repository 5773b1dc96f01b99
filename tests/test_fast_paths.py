"""The sweeps go the ways that users' runs go: without hooks, clocks and contexts the engine is another.

Much of the engine has a fast way for what asks for nothing but calls, and a careful one for the rest. An
observer, a clock or little room in the edges is enough for the careful one; a sweep that always has them
proves nothing of the other. So the ways are counted here, on all loops.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from flowstage import _wires
from flowstage._engine import (
    bursts,
    chain,
    flat_bursts,
    offload,
    pool,
    single,
    source,
    thread_source,
)

from .conftest import all_loops
from .faulty import GRAPHS, WAYS, healthy_run, tried
from .harness import observe, single_faults
from .laws.references import REFERENCES, reference
from .swept_parts import Swept

# Skipped items are logged by design.
pytestmark = pytest.mark.usefixtures("quiet_logs")


def _more_than_one(_self: object, values: Any, *_: Any) -> bool:
    return len(values) > 1


def _is_simple(self: Any, *_: Any) -> bool:
    return bool(self.step.simple and self.step.awaits and self.is_plain)


def _is_plain(self: Any, *_: Any) -> bool:
    return bool(self.is_plain)


def _always(*_: Any) -> bool:
    return True


# Where the ways part, and which calls count.
PATHS: list[tuple[type[Any], str, Callable[..., bool]]] = [
    (chain.Chain, "process", _always),
    (chain.Chain, "burst", _always),
    (chain.Chain, "through", _more_than_one),
    (chain.Chain, "burst_async", _always),
    (chain.Chain, "carry", _always),
    (chain.Chain, "spread", _always),
    (chain.Chain, "burst_timed", _always),
    (source.SourceRunner, "_fast_turn", _always),
    (source.SourceRunner, "_enter_timed", _more_than_one),
    (source.SourceRunner, "_turn", _always),
    (source.SourceRunner, "_carry_in", _always),
    (thread_source.ThreadSourceRunner, "_turn", _always),
    (pool.Pool, "one", _is_simple),
    (pool.Pool, "flat", _is_plain),
    (bursts.BurstOffload, "batch_in_thread", _always),
    (flat_bursts.FlatBurstOffload, "flat_batch_in_thread", _always),
    (offload.Offload, "batch_in_thread", _always),
    (single.SingleOffload, "batch_in_thread", _always),
    (_wires.Edge, "put_values", _more_than_one),
]
IN_FAILURES: list[tuple[type[Any], str, Callable[..., bool]]] = [
    (chain.Chain, "mend", _always),
    (chain.Chain, "pieces", _always),
    (chain.Chain, "failed_fast", _always),
]
"""Only ways in which something has failed."""


@pytest.fixture
def hits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each way was gone."""
    counts: Counter[str] = Counter()

    def counted(owner: type[Any], name: str, counts_here: Callable[..., bool]) -> Any:
        original = vars(owner)[name]
        label = f"{owner.__name__}.{name}"
        counts[label] = 0

        @wraps(original)
        def plain(*args: Any) -> Any:
            counts[label] += counts_here(*args)
            return original(*args)

        @wraps(original)
        async def waiting(*args: Any) -> Any:
            counts[label] += counts_here(*args)
            return await original(*args)

        return waiting if inspect.iscoroutinefunction(original) else plain

    for owner, name, counts_here in [*PATHS, *IN_FAILURES]:
        monkeypatch.setattr(owner, name, counted(owner, name, counts_here))
    return counts


@pytest.mark.slow
@all_loops
def test_faults_go_every_way(backend: str, hits: Counter[str]) -> None:
    """The graphs of the fault sweep, in the ways in which they are run there."""
    for name in GRAPHS:
        for way in WAYS:
            healthy_run(backend, name, "raise", way)
    never = [label for label, count in hits.items() if not count]
    failing = [f"{owner.__name__}.{name}" for owner, name, _ in IN_FAILURES]
    assert never == failing

    def every_third(calls: int) -> Any:
        yield from list(single_faults(calls, ["ordinary"]))[::3]

    for name in ("plain_functions", "below_edges"):
        for way in ("bare, roomy", "timed, roomy"):
            tried(backend, name, "skip", every_third, way=way)
    assert all(hits[label] > 3 for label in failing), hits


@pytest.mark.slow
@all_loops
def test_sweeps_go_every_way(backend: str, hits: Counter[str]) -> None:
    """The graphs of the cancellation sweep, as they are and with clocks on their items."""
    for name in REFERENCES:
        for way in ("as it is", "timed"):
            case = reference(name, way)
            if not (case.patient and backend == "uvloop"):
                settings: dict[str, Any] = {"rate": 100.0} if backend == "uvloop" else {}
                play = Swept(case, pause=0.1 if backend == "uvloop" else 1.0)
                observe(backend, play, **settings).check()
    failing = [f"{owner.__name__}.{name}" for owner, name, _ in IN_FAILURES]
    never = [label for label, count in hits.items() if not count and label not in failing]
    assert not never
