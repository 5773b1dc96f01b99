"""``interrupt()`` on a graph with full buffers: how long it takes, and how soon a new item is out.

Five async stages with the default buffer, nobody reading the end, so that every edge is full and
every stage waits to give. Hand-written code has no such thing to compare with.
"""

from time import perf_counter
from typing import Any

import anyio

from benchmarks.functions import plus_one_async
from benchmarks.model import Figure, Measured, Program, Target, Workload, WrongResult

CALL = Figure("interrupt", "ms, interrupt() itself")
FIRST = Figure("first", "ms, from interrupt() to the first new item")
STAGES = 5
NEW = 1_000_000
"""The item sent after the interrupt; none before it is as large."""


async def flowstage_interrupt(times: int) -> Measured:
    """Fill, interrupt, send, read; so many times in one run, and the best of them."""
    from flowstage import Input

    numbers = Input[int]("numbers")
    flow = numbers.map(plus_one_async)
    for _ in range(STAGES - 1):
        flow = flow.map(plus_one_async)
    calls, firsts = [], []
    async with flow.open() as run:
        results = aiter(run)
        for turn in range(times):
            sent = await _fill(run)
            start = perf_counter()
            discarded = run.interrupt()
            calls.append(perf_counter() - start)
            await run.send(NEW + turn)
            first = await anext(results)
            firsts.append(perf_counter() - start)
            if first != NEW + turn + STAGES or discarded != sent:
                raise WrongResult(f"{discarded:,} of {sent:,} discarded, then {first!r}")
    return Measured({CALL.name: min(calls) * 1e3, FIRST.name: min(firsts) * 1e3})


async def _fill(run: Any) -> int:
    """Send until nothing more is taken, however long the stages get; gives how many were."""
    sent = 0
    while True:
        before = sent
        try:
            while True:
                run.send_nowait(sent)
                sent += 1
        except anyio.WouldBlock:
            await anyio.sleep(0.01)  # the stages move on what they can
        if sent == before:
            return sent


WORKLOAD = Workload(
    name="interrupt",
    what=f"interrupt() with {STAGES} stages and every buffer full",
    items=20,
    quick_items=5,
    warm_up=1,
    figures=(CALL, FIRST),
    programs=(Program("flowstage", flowstage_interrupt, needs=("flowstage",)),),
    targets=(
        Target(1.0, figure=CALL.name, relation="value"),
        Target(5.0, figure=FIRST.name, relation="value"),
    ),
)
