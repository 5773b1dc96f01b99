"""What the project says of itself in more than one place is the same in each."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """The project's own description."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_extra_and_the_group_named_tests_are_one_list(pyproject: dict[str, Any]) -> None:
    """Old and new installers bring the same test tools."""
    assert (
        pyproject["project"]["optional-dependencies"]["tests"]
        == pyproject["dependency-groups"]["tests"]
    )


def test_the_readme_tells_how_to_run_the_tests() -> None:
    """The command stands on a line of its own, where `.ci/run` finds it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^python -m pip install .*pytest", readme, re.MULTILINE)


def test_the_package_says_that_it_is_typed() -> None:
    """Without this file type checkers ignore every annotation."""
    assert (ROOT / "src" / "flowstage" / "py.typed").exists()
