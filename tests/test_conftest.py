"""The suite's own tools: backends, virtual time, and the limit of each test."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from .conftest import Backend, virtual_time

ROOT = Path(__file__).parents[1]


def library_in_charge() -> str:
    """Ask the loops themselves who runs this task."""
    return "trio" if trio.lowlevel.in_trio_task() else "asyncio"


async def test_an_async_test_runs_on_its_backend(
    request: pytest.FixtureRequest, anyio_backend_name: str
) -> None:
    """The loop that runs the test is the one its id names."""
    assert library_in_charge() == anyio_backend_name
    named = request.node.callspec.id
    if named != "trio":
        loop_module = type(asyncio.get_running_loop()).__module__
        assert loop_module.startswith("uvloop") == (named == "uvloop")


@given(number=st.integers())
async def test_a_property_runs_on_every_backend(number: int, anyio_backend: Backend) -> None:
    """Hypothesis and the backends work together."""
    await anyio.lowlevel.checkpoint()
    assert library_in_charge() == anyio_backend[0]
    assert isinstance(number, int)


class TestInAClass:
    async def test_an_async_method_runs_too(self, anyio_backend_name: str) -> None:
        """Methods need no mark either."""
        assert library_in_charge() == anyio_backend_name


@virtual_time
async def test_virtual_time_passes_at_once() -> None:
    """An hour takes no time, and no deadline is early."""
    began_real, began = time.monotonic(), anyio.current_time()
    await anyio.sleep(3600)
    assert anyio.current_time() - began == pytest.approx(3600)
    assert time.monotonic() - began_real < 5


@virtual_time
async def test_virtual_time_serves_one_test_after_another() -> None:
    """The clock is not used up by the test before."""
    with anyio.move_on_after(60) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_test_that_never_ends_is_ended_with_all_its_stacks(backend: str, tmp_path: Path) -> None:
    """The dump names the test, and what each task waits for."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    hanging = tmp_path / "test_hanging.py"
    hanging.write_text(
        "import anyio\n"
        "async def the_forgotten_wait():\n"
        "    await anyio.sleep_forever()\n"
        "async def test_hangs():\n"
        "    async with anyio.create_task_group() as tasks:\n"
        "        tasks.start_soon(the_forgotten_wait)\n"
    )
    command = [sys.executable, "-m", "pytest", "-n0", "-k", backend]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), str(hanging)],
        cwd=ROOT,
        env={**os.environ, "FLOWSTAGE_TEST_LIMIT": "0.5"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert f"test_hangs[{backend}] took longer than 0.5 s" in done.stderr
    assert "in the_forgotten_wait" in done.stderr
    assert "(most recent call first)" in done.stderr
