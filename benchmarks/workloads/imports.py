"""``import flowstage`` against ``import anyio, attrs``: what a program pays before it begins."""

import subprocess
import sys
from functools import partial

from benchmarks.checkout import environment
from benchmarks.model import Figure, Measured, Program, Target, Workload

IMPORT = Figure("import", "ms, best of the fresh processes")
PROBE = """\
from time import perf_counter
start = perf_counter()
import {modules}
print(perf_counter() - start)
"""


def fresh_import(modules: str, times: int) -> Measured:
    """The shortest of so many imports, each in a process of its own."""
    command = [sys.executable, "-c", PROBE.format(modules=modules)]
    seconds = [
        float(subprocess.check_output(command, env=environment(), timeout=60)) for _ in range(times)
    ]
    return Measured({IMPORT.name: min(seconds) * 1e3})


WORKLOAD = Workload(
    name="import",
    what="import flowstage against import anyio, attrs; items are processes",
    items=10,
    quick_items=5,
    warm_up=1,
    figures=(IMPORT,),
    programs=(
        Program("flowstage", partial(fresh_import, "flowstage"), needs=("flowstage",), loop="none"),
        Program("anyio, attrs", partial(fresh_import, "anyio, attrs"), loop="none"),
        Program("asyncio", partial(fresh_import, "asyncio"), loop="none"),
    ),
    targets=(Target(1.25, peer="anyio, attrs", figure=IMPORT.name),),
)
