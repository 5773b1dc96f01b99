"""A Ctrl-C that the backend raises in flowstage's own code."""

from __future__ import annotations

import signal

import pytest
import trio
from anyio import sleep_forever

from flowstage import Graph, Input


async def raise_it() -> None:
    """Stand for any place of the engine where the signal handler may run."""
    raise KeyboardInterrupt


# asyncio cancels the main task instead; an exception of that kind in a task would end its loop.
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_ctrl_c_within_the_engine_comes_out_bare() -> None:
    """Without a group around it, so that `except KeyboardInterrupt` sees it."""
    with pytest.raises(KeyboardInterrupt):
        async with Input[int]().map(str).open() as run:
            run._live.spawn_uncounted(raise_it)
            await sleep_forever()


class Pressed:
    """A result at whose truth the engine looks as the signal comes."""

    def __bool__(self) -> bool:
        raise KeyboardInterrupt


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_ctrl_c_within_a_worker_comes_out_bare() -> None:
    """Without the group of the workers either."""

    async def keep(item: int) -> Pressed:
        return Pressed()

    with pytest.raises(KeyboardInterrupt):
        await Input[int]().filter(keep, concurrency=2).collect([1])


@pytest.mark.parametrize("verb", ["collect", "drain", "run.drain"])
def test_a_ctrl_c_beside_several_ends_comes_out_bare(verb: str) -> None:
    """trio hands it to the main task, which waits for the readers of all ends."""

    @trio.lowlevel.enable_ki_protection
    def press(item: int) -> int:
        signal.raise_signal(signal.SIGINT)
        return item

    async def main() -> None:
        numbers = Input[int]()
        graph = Graph(numbers.map(press), numbers.map(str))
        if verb == "run.drain":
            async with graph.open([1]) as run:
                await run.drain()
        else:
            await getattr(graph, verb)([1])

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
