"""One module a workload; this is the list of them, in the order in which they are told."""

from benchmarks.model import Workload
from benchmarks.workloads import (
    async3,
    compat_async_pipeline,
    compat_buffered_pipeline,
    compat_task_pipeline,
    depth,
    diamond,
    gens,
    imports,
    inline3,
    interrupt,
    latency,
    load,
    memory,
    nap100,
    opening,
    sha2,
    thread3,
    timing,
    width,
)

BESIDE_PEERS: tuple[Workload, ...] = (
    inline3.WORKLOAD,
    async3.WORKLOAD,
    nap100.WORKLOAD,
    thread3.WORKLOAD,
    sha2.WORKLOAD,
    diamond.WORKLOAD,
    gens.WORKLOAD,
    latency.WORKLOAD,
    load.WORKLOAD,
)
WITHOUT_PEER: tuple[Workload, ...] = (
    memory.WORKLOAD,
    depth.WORKLOAD,
    width.WORKLOAD,
    interrupt.WORKLOAD,
    timing.WORKLOAD,
    imports.WORKLOAD,
    opening.WORKLOAD,
)
COMPAT: tuple[Workload, ...] = (
    compat_task_pipeline.WORKLOAD,
    compat_async_pipeline.WORKLOAD,
    compat_buffered_pipeline.GENS,
    compat_buffered_pipeline.CHAIN,
)
GROUPS: dict[str, tuple[Workload, ...]] = {
    "peers": BESIDE_PEERS,
    "figures": WITHOUT_PEER,
    "compat": COMPAT,
}
WORKLOADS: tuple[Workload, ...] = BESIDE_PEERS + WITHOUT_PEER + COMPAT
