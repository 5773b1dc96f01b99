"""Tools for tests of one's own graphs and operators, on asyncio and on trio.

* `SourceProbe` is a source that gives what the test says, when it says so; `SinkProbe` reads an end of a
  run and expects what comes.
* `ScriptedThreads` is a place whose calls are made when the test says so.
* `assert_no_leaks` fails when a block leaves a task, thread, stream or async generator behind.
* `shuffled` gives an event loop whose order of tasks a seed decides; `explore` runs a scenario under many.

None of them relies on sleeping. What they wait for they wait for with a limit, on the event loop's
clock, so that a test that cannot pass says why and does not hang.
"""

from __future__ import annotations

from ._leaks import assert_no_leaks
from ._schedules import explore, shuffled
from ._scripted import ScriptedThreads
from ._sink import SinkProbe
from ._source import SourceProbe

__all__ = [
    "ScriptedThreads",
    "SinkProbe",
    "SourceProbe",
    "assert_no_leaks",
    "explore",
    "shuffled",
]
