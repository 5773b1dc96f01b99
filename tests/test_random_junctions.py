"""Random graphs of junctions end, keep their accounts and leave nothing, whatever the schedule."""

from __future__ import annotations

import time

import pytest

from .harness import observe
from .random_junctions import Driver

# Skipped items are logged, and these graphs skip many.
pytestmark = pytest.mark.usefixtures("quiet_logs")

SCHEDULES = [{"seed": None}, {"seed": 1}, {"seed": 2, "lag": 0.5}]
KINDS = [{"calm": True}, {}, {"concats": True}, {"threads": True}]


def play(seed: int, backend: str, kind: dict[str, bool]) -> None:
    driver = Driver(seed, **kind)
    settings = SCHEDULES[seed % 3]
    outcome = observe(backend, driver, steps=100_000, seconds=500.0, **settings)
    if outcome.error is not None:
        outcome.error.add_note(f"seed {seed} of {kind}\n{driver.describe()}")
        raise outcome.error
    outcome.check()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", KINDS, ids=["calm", "wild", "concats", "threads"])
@pytest.mark.parametrize("block", range(4))
def test_random_graphs_of_junctions(backend: str, kind: dict[str, bool], block: int) -> None:
    """Twelve graphs each: with all sentinels known, with interrupts and closed ends, and so on."""
    for seed in range(block * 12, block * 12 + 12):
        play(seed, backend, kind)


@pytest.mark.deep
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", KINDS, ids=["calm", "wild", "concats", "threads"])
def test_many_random_graphs_of_junctions(backend: str, kind: dict[str, bool]) -> None:
    """As many as fit into a minute, three thousand at most."""
    began = time.monotonic()
    for seed in range(100_000, 103_000):
        play(seed, backend, kind)
        if time.monotonic() - began > 60:
            break


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        (21, {"calm": True}),  # a barrier that did not go out with the failures of a fused source
        (279, {"calm": True}),  # a slot of a pool that left while its failure was dealt with
        (5275, {}),  # a zip that slept over an item that came while it passed a sentinel
        (6032, {}),  # an end that was closed before its transform had begun
    ],
)
def test_found_counter_examples(backend: str, seed: int, kind: dict[str, bool]) -> None:
    play(seed, backend, kind)
