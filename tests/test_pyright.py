"""The typing samples once more, for the other type checker."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from .test_typing import BAD, GOOD, marks_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("pyright") is None, reason="pyright is not installed"
    ),
]


def lines_refused(path: Path, project: Path) -> set[int]:
    """The lines of a file in which pyright finds an error, judged as a user would."""
    (project / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    settings = {"include": [path.name], "pythonVersion": "3.11", "typeCheckingMode": "standard"}
    (project / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    options = ["--outputjson", "--pythonpath", sys.executable, "--project", str(project)]
    done = subprocess.run(
        [sys.executable, "-m", "pyright", *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 1
    return {
        entry["range"]["start"]["line"] + 1
        for entry in found["generalDiagnostics"]
        if entry["severity"] == "error"
    }


def test_pyright_accepts_the_good_sample(tmp_path: Path) -> None:
    """Not one complaint."""
    assert lines_refused(GOOD, tmp_path) == set()


def test_pyright_refuses_the_bad_sample_line_by_line(tmp_path: Path) -> None:
    """It refuses the lines that mypy refuses, and no other."""
    marked = {line for line, _ in marks_in(BAD.read_text(encoding="utf-8"))}
    assert lines_refused(BAD, tmp_path) == marked
