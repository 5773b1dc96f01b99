"""``async3`` with every item's way timed and without: what ``timing=True`` costs."""

from functools import partial

from benchmarks.functions import (
    after_three,
    double_async,
    minus_three_async,
    plus_one_async,
)
from benchmarks.model import Program, Target, Workload


async def flowstage_collect(timing: bool, items: int) -> list[int]:
    """flowstage, as in ``async3``."""
    from flowstage import source

    numbers = source(range(items))
    results = numbers.map(plus_one_async).map(double_async).map(minus_three_async)
    return await results.collect(timing=timing)


WORKLOAD = Workload(
    name="timing",
    what="async3 with timing=True against timing=False",
    items=100_000,
    quick_items=10_000,
    expected=after_three,
    programs=(
        Program("flowstage, timing=True", partial(flowstage_collect, True), needs=("flowstage",)),
        Program("flowstage, timing=False", partial(flowstage_collect, False), needs=("flowstage",)),
    ),
    targets=(Target(2.0, subject="flowstage, timing=True", peer="flowstage, timing=False"),),
)
