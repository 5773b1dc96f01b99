"""The typing samples: what users may write is accepted, what they must not write is refused."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOOD = ROOT / "tests" / "typing" / "good.py"
BAD = ROOT / "tests" / "typing" / "bad.py"

NEEDS_MYPY = pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="mypy is not installed"
)

Complaint = tuple[int, str]  # line and error code

MARK = re.compile(r"# error: (?P<codes>[a-z-]+(?:, [a-z-]+)*)$")
REPORT = re.compile(r"^(?P<file>.+?):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$")


@pytest.fixture(scope="module")
def report() -> str:
    """What mypy says of both files, as strict as the project is with itself."""
    options = ["--no-color-output", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    files = [str(path.relative_to(ROOT)) for path in (GOOD, BAD)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    # 2 is mypy's word for "could not even try".
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def complaints_about(path: Path, report: str) -> set[Complaint]:
    """The errors that a report of mypy's holds for one file."""
    found = filter(None, map(REPORT.match, report.splitlines()))
    return {(int(m["line"]), m["code"]) for m in found if ROOT / m["file"] == path}


def marks_in(text: str) -> set[Complaint]:
    """The errors that a file announces in its comments."""
    return {
        (number, code)
        for number, line in enumerate(text.splitlines(), start=1)
        if (mark := MARK.search(line))
        for code in mark["codes"].split(", ")
    }


@pytest.mark.slow
@NEEDS_MYPY
def test_the_good_sample_is_accepted(report: str) -> None:
    """Not one complaint, in the sample or in the package it uses."""
    elsewhere = [
        line for line in report.splitlines() if Path(line.partition(":")[0]).name != "bad.py"
    ]
    assert elsewhere == []


@pytest.mark.slow
@NEEDS_MYPY
def test_the_bad_sample_is_refused_line_by_line(report: str) -> None:
    """Each marked line is refused for the reason it gives, and no other line is."""
    marked = marks_in(BAD.read_text(encoding="utf-8"))
    assert marked, "a sample without marks proves nothing"
    assert complaints_about(BAD, report) == marked


def test_marks_and_reports_are_read_alike() -> None:
    """A mark and the complaint it expects give the same line and codes."""
    text = (
        "a\nb  # error: arg-type\nc  # error: call-arg, return-value\nd  # error: no code here!\n"
    )
    expected = {(2, "arg-type"), (3, "call-arg"), (3, "return-value")}
    assert marks_in(text) == expected
    report = (
        'tests/typing/bad.py:2: error: Argument 1 to "f" [of 2] is wrong  [arg-type]\n'
        "tests/typing/bad.py:3: error: Too few  [call-arg]\n"
        "tests/typing/bad.py:3: note: Revealed type\n"
        "tests/typing/bad.py:3: error: Wrong  [return-value]\n"
        "tests/typing/good.py:9: error: Elsewhere  [misc]\n"
    )
    assert complaints_about(BAD, report) == expected
