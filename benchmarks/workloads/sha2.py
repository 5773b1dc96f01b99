"""SHA-256 of 64 KiB in two threads: real work that gives up the GIL."""

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from multiprocessing.pool import ThreadPool
from threading import Thread

from benchmarks.model import Program, Target, Workload

BLOCK = 65_536
"""Bytes hashed per item."""
BLOCKS = tuple(random.Random(64).randbytes(BLOCK) for _ in range(16))
"""Sixteen blocks taken in turn: 1 MiB, so that memory is not what is measured."""


def blocks(items: int) -> Iterator[bytes]:
    """That many blocks."""
    return islice(cycle(BLOCKS), items)


def digest(block: bytes) -> bytes:
    """The hash of a block."""
    return hashlib.sha256(block).digest()


def digests(items: int) -> list[bytes]:
    """The right results."""
    once = [digest(block) for block in BLOCKS]
    return list(islice(cycle(once), items))


async def flowstage_collect(items: int) -> list[bytes]:
    """flowstage."""
    from flowstage import Threads, source

    return await source(blocks(items)).map(digest, on=Threads(2)).collect()


def thread_pool_imap(items: int) -> list[bytes]:
    """The pool of the standard library, in chunks."""
    with ThreadPool(2) as pool:
        return list(pool.imap(digest, blocks(items), chunksize=64))


def bare_threads(items: int) -> list[bytes]:
    """Two threads with half of the blocks each: the least there is to do."""
    results = [b""] * items
    every = list(blocks(items))

    def work(start: int) -> None:
        for index in range(start, items, 2):
            results[index] = digest(every[index])

    threads = [Thread(target=work, args=(start,)) for start in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def executor_map(items: int) -> list[bytes]:
    """``concurrent.futures``, a call for each item."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(digest, blocks(items)))


def pyper_threads(items: int) -> list[bytes]:
    """pyper with two workers."""
    from pyper import task

    numbers = task(lambda: blocks(items), branch=True, throttle=100)
    return list((numbers | task(digest, workers=2, throttle=100))())


def pypeln_threads(items: int) -> list[bytes]:
    """pypeln with two workers."""
    import pypeln

    return list(pypeln.thread.map(digest, blocks(items), workers=2, maxsize=100))


def streamable_map(items: int) -> list[bytes]:
    """streamable with two threads."""
    from streamable import stream

    return list(stream(blocks(items)).map(digest, concurrency=2))


def spdl_pipeline(items: int) -> list[bytes]:
    """SPDL with two threads."""
    from spdl.pipeline import PipelineBuilder

    pipeline = (
        PipelineBuilder()
        .add_source(blocks(items))
        .pipe(digest, concurrency=2, output_order="input")
        .add_sink(100)
        .build(num_threads=2)
    )
    with pipeline.auto_stop():
        return list(pipeline)


WORKLOAD = Workload(
    name="sha2",
    what="SHA-256 of 64 KiB in two threads",
    items=20_000,
    quick_items=4_000,
    expected=digests,
    programs=(
        Program("flowstage", flowstage_collect, needs=("flowstage",)),
        Program("ThreadPool.imap", thread_pool_imap, loop="none"),
        Program("two bare threads", bare_threads, loop="none"),
        Program("ThreadPoolExecutor.map", executor_map, loop="none"),
        Program("pyper", pyper_threads, needs=("pyper",), loop="none", ordered=False),
        Program("pypeln", pypeln_threads, needs=("pypeln",), loop="none", ordered=False),
        Program("streamable", streamable_map, needs=("streamable",), loop="none"),
        Program("SPDL", spdl_pipeline, needs=("spdl.pipeline",), loop="none", share=0.2),
    ),
    targets=(Target(1.15, peer="ThreadPool.imap"),),
)
