"""The proving harness: schedules by seed, sweeps over every point, planned faults, leaks.

It knows nothing of graphs. `schedules` runs an async function in virtual time under an order
that a seed decides; `sweeps` acts at each of its scheduling points; `faults` makes its user code
fail; `leaks` tells what is left.
"""

from .conductor import Conductor, Stuck
from .fault_plans import double_faults, fault_sweep, lasting_faults, single_faults
from .faults import (
    ERRORS,
    EXITS,
    Fault,
    Faults,
    PlannedError,
)
from .leaks import Snapshot, Watch, assert_nothing_since, no_leaks, soak
from .outside import Hang, outside_work
from .schedules import (
    BACKENDS,
    LOOPS,
    Outcome,
    Scenario,
    Schedule,
    backend_options,
    explore,
    observe,
    run,
)
from .sweeps import act_at, both, call, cancel_scope, count_points, native_cancel, sweep
from .telling import tell

__all__ = [
    "BACKENDS",
    "ERRORS",
    "EXITS",
    "LOOPS",
    "Conductor",
    "Fault",
    "Faults",
    "Hang",
    "Outcome",
    "PlannedError",
    "Scenario",
    "Schedule",
    "Snapshot",
    "Stuck",
    "Watch",
    "act_at",
    "assert_nothing_since",
    "backend_options",
    "both",
    "call",
    "cancel_scope",
    "count_points",
    "double_faults",
    "explore",
    "fault_sweep",
    "lasting_faults",
    "native_cancel",
    "no_leaks",
    "observe",
    "outside_work",
    "run",
    "single_faults",
    "soak",
    "sweep",
    "tell",
]
