"""Law 6 as a check of any report; a limit that turns a hang into a failure; a way to come to rest."""

from __future__ import annotations

from functools import partial

import anyio
from anyio.lowlevel import checkpoint

from flowstage._report import Report

soon = partial(anyio.fail_after, 5)
"""Encloses what has to end at once; a hang becomes a `TimeoutError`."""


async def settle(turns: int = 40) -> None:
    """Give every task of a run so many turns that it comes to rest, threads apart.

    `anyio.wait_all_tasks_blocked` would do, but takes a tenth of a second on asyncio.
    """
    for _ in range(turns):
        await checkpoint()


def check_accounts(report: Report, *, over: bool = False) -> None:
    """Assert law 6 for every stage and edge; at the end nothing is in hand or inside."""
    for stage in report.stages:
        ended = stage.done + stage.filtered + stage.skipped + stage.failed + stage.discarded
        assert stage.taken == ended + stage.in_hand, stage
        for name in (
            "taken",
            "done",
            "filtered",
            "skipped",
            "failed",
            "discarded",
            "in_hand",
            "given",
            "retries",
        ):
            assert getattr(stage, name) >= 0, (name, stage)
        if over:
            assert stage.in_hand == 0, stage
    for edge in report.edges:
        assert edge.entered == edge.left + edge.discarded + edge.inside, edge
        assert min(edge.entered, edge.left, edge.discarded, edge.inside, edge.dropped) >= 0, edge
        if over:
            assert edge.inside == 0, edge
