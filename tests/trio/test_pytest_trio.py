"""The folder's own rule: explicit marks, and pytest-trio's fixtures."""

from __future__ import annotations

from typing import Any

import pytest
import trio


@pytest.mark.trio
async def test_pytest_trio_runs_the_marked_tests(autojump_clock: Any) -> None:
    """The fixtures of pytest-trio work here."""
    began = trio.current_time()
    await trio.sleep(3600)
    assert trio.current_time() - began == pytest.approx(3600)
