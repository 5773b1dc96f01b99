"""One line on what a long campaign did, past the capturing of pytest and the workers of xdist."""

from __future__ import annotations

import sys

import pytest


def tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Print a line where it can be seen: a worker of xdist shares only its standard error."""
    with capsys.disabled():
        print(f"\n{line}", file=sys.stderr, flush=True)  # noqa: T201
