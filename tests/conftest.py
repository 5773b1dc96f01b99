"""What every test gets: the three backends, virtual time on request, and a limit in real seconds.

**Backends.** Each `async def` test outside `tests/trio` runs on asyncio, on asyncio with uvloop and on
trio, without a mark of its own. A test for one backend says so, and why:

    @pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

**Virtual time.** `virtual_time` makes a test run on trio with a clock that jumps to the next deadline
as soon as all tasks are blocked; ten minutes of `anyio.sleep` take no time. The clock does not know
about threads: a test that waits for one belongs on real time.

    from .conftest import virtual_time

    @virtual_time
    async def test_a_batch_leaves_in_time() -> None: ...

**Trio's own tools.** Tests under `tests/trio` are pytest-trio's: they carry `@pytest.mark.trio` and may
use its fixtures (`nursery`, `autojump_clock`).

**The limit.** A test that takes longer than `LIMITS` allows ends the process, after writing the stacks
of all tasks and all threads. There is no way to end such a test alone that leaves the rest sound.
"""

from __future__ import annotations

import faulthandler
import inspect
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from trio.testing import MockClock

from flowstage.testing import _leaks

from . import harness
from .stacks import dump_everything

Backend = tuple[str, dict[str, Any]]

BACKENDS: dict[str, Callable[[], Backend]] = {
    "asyncio": lambda: ("asyncio", {"use_uvloop": False}),
    "uvloop": lambda: ("asyncio", {"use_uvloop": True}),
    "trio": lambda: ("trio", {}),
    "virtual": lambda: ("trio", {"clock": MockClock(autojump_threshold=0)}),
}

# For tests that drive their own loop: a scenario of the harness, by counted steps.
both_backends = pytest.mark.parametrize("backend", harness.BACKENDS)
all_loops = pytest.mark.parametrize("backend", harness.LOOPS)

virtual_time = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)

# Seconds a test may take, its fixtures included; the first mark that a test has decides.
LIMITS = {"deep": 1800.0, "slow": 300.0}
EVERYDAY_LIMIT = float(os.environ.get("FLOWSTAGE_TEST_LIMIT", "60"))
# How much later the last resort strikes, for when the interpreter runs no signal handlers any more.
GRACE = 5.0
HAS_ALARM = hasattr(signal, "setitimer")  # Windows has none, and only the last resort

TRIO_FOLDER = Path(__file__).parent / "trio"

# The limit above replaces hypothesis' own per example, which fails on a machine that is merely busy.
settings.register_profile("flowstage", settings(), deadline=None, print_blob=True)
settings.load_profile("flowstage")


def _uvloop_is_missing() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return True
    return False


NEEDS_UVLOOP = pytest.mark.skipif(_uvloop_is_missing(), reason="uvloop is not installed")


@pytest.fixture(scope="module")
def quiet_logs() -> Iterator[None]:
    """Keep what flowstage logs out of the way, for tests that make it log on purpose."""
    logger = logging.getLogger("flowstage")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all processes end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: -slow[item.path])


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores, for a third of their time tests only wait."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count()
    return (cores or 1) + 1


# Module scope, because hypothesis refuses fixtures that are made once for all examples of a test.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param("asyncio", id="asyncio"),
        pytest.param("uvloop", id="uvloop", marks=NEEDS_UVLOOP),
        pytest.param("trio", id="trio"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """The backend a test runs on, as anyio's plugin wants it."""
    return BACKENDS[request.param]()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> None:
    """Mark the async tests for anyio, before anyio's plugin looks for its mark."""
    if TRIO_FOLDER in collector.path.parents or not collector.istestfunction(obj, name):
        return
    function = obj.hypothesis.inner_test if hasattr(obj, "hypothesis") else obj
    if inspect.iscoroutinefunction(function):
        pytest.mark.anyio(obj)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Give a property back as it was: anyio before 4.16 bound it to the first backend for good."""
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    inner_test = getattr(handle, "inner_test", None)
    try:
        return (yield)
    finally:
        if handle is not None:
            handle.inner_test = inner_test


STDERR_KEY = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real standard error: while a test runs, descriptor 2 is a file of pytest's.

    And let interrupts come through, which a shell keeps from what it starts in the background.
    """
    config.stash[STDERR_KEY] = os.dup(2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give it back."""
    os.close(config.stash[STDERR_KEY])


# Innermost, so that it replaces the timer of pytest's faulthandler plugin: a process has only one.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process, with all stacks, when one test takes too long."""
    limit = next(
        (seconds for mark, seconds in LIMITS.items() if item.get_closest_marker(mark)),
        EVERYDAY_LIMIT,
    )
    stderr = item.config.stash[STDERR_KEY]

    def give_up(_signum: int, _frame: FrameType | None) -> None:
        dump_everything(stderr, f"{item.nodeid} took longer than {limit:g} s")
        os._exit(1)

    faulthandler.dump_traceback_later(limit + GRACE, exit=True, file=stderr)
    if HAS_ALARM:
        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        if HAS_ALARM:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        # A scenario that was ended by force never left its block. What watches there keeps every
        # stream that is made from now on, which a soak in the same process would take for a leak.
        for watch in reversed(_leaks._watches):
            watch.__exit__()


@pytest.hookimpl(tryfirst=True)
def pytest_enter_pdb() -> None:
    """No limit for whoever is debugging."""
    faulthandler.cancel_dump_traceback_later()
    if HAS_ALARM:
        signal.setitimer(signal.ITIMER_REAL, 0)
