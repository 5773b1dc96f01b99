"""The figures of a report are those of the work that was done."""

from __future__ import annotations

import time

import pytest

from flowstage import Threads, source


def nap(number: int) -> int:
    """Keep a thread for 10 ms."""
    time.sleep(0.01)
    return number


@pytest.mark.slow
@pytest.mark.parametrize("seats", [1, 4])
async def test_a_stage_in_threads_is_busy_while_its_calls_run(seats: int) -> None:
    """Of several calls at once, their sum; and so it is known which stage sets the pace."""
    report = await source(range(20)).map(nap, on=Threads(seats)).drain()
    assert report.stage("nap").busy >= 20 * 0.01
    assert report.bottleneck is not None
    assert report.bottleneck.stage == "nap"
