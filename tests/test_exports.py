"""What `import flowstage` gives: the public names, documented, and nothing that runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import flowstage
from flowstage import operators

PUBLIC = {
    "Bottleneck",
    "BufferOverflow",
    "CallTimes",
    "ClosedError",
    "DeadlockError",
    "EdgeInfo",
    "EdgeReport",
    "Failure",
    "FailureRecord",
    "Flow",
    "FlowError",
    "Graph",
    "GraphError",
    "Input",
    "ItemTimes",
    "Output",
    "Report",
    "Retry",
    "Run",
    "Sentinel",
    "StageError",
    "StageInfo",
    "StageReport",
    "StageTime",
    "StageTimeout",
    "StageTimes",
    "Summary",
    "Threads",
    "Timing",
    "WorkerDied",
    "concat",
    "failure_of",
    "gather",
    "merge",
    "source",
    "zip",
    "zip_latest",
}
OPERATORS = {
    "distinct_until_changed",
    "drop",
    "drop_while",
    "enumerate",
    "flatten",
    "reduce",
    "scan",
    "take",
    "take_while",
    "throttle",
    "unique",
}
CLASSES = [name for name in sorted(PUBLIC) if inspect.isclass(getattr(flowstage, name))]


def test_the_public_names() -> None:
    """The list is the contract: a name comes or goes here first."""
    assert set(flowstage.__all__) == PUBLIC
    assert set(operators.__all__) == OPERATORS


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_name_is_documented(name: str) -> None:
    """A docstring of its own, not one inherited from a builtin."""
    thing = getattr(flowstage, name)
    assert thing.__doc__
    assert thing.__doc__ != getattr(thing, "__base__", object).__doc__


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_each_operator_is_documented_with_an_example(name: str) -> None:
    """What it does, and a line that runs."""
    assert ">>> " in (inspect.getdoc(getattr(operators, name)) or "")


@pytest.mark.parametrize("name", CLASSES)
def test_each_public_method_is_documented(name: str) -> None:
    """No verb or door without a word."""
    bare = [
        member
        for member, value in vars(getattr(flowstage, name)).items()
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
        and not inspect.getdoc(value)
    ]
    assert bare == []


def test_the_names_are_listed_and_checked_before_they_are_loaded() -> None:
    """`dir` and `*` know them all; a misspelt one is an error as ever."""
    assert set(dir(flowstage)) >= {*PUBLIC, "operators"}
    with pytest.raises(AttributeError, match="no attribute 'Flwo'"):
        _ = flowstage.Flwo
    with pytest.raises(ImportError, match="cannot import name 'Flwo'"):
        exec("from flowstage import Flwo")
    names: dict[str, object] = {}
    exec("from flowstage import *", names)
    assert set(names) >= PUBLIC


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    """The imports that type checkers read give each name from where it is loaded."""
    tree = ast.parse(Path(flowstage.__file__).read_text(encoding="utf-8"))
    seen = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level and node.module
        for alias in node.names
    }
    loaded = {(room, name) for room, names in flowstage._ROOMS.items() for name in names}
    assert loaded == seen
    assert {name for _, name in loaded} == PUBLIC
    for room, name in loaded:
        thing = getattr(importlib.import_module(f"flowstage.{room}"), name)
        assert getattr(flowstage, name) is thing


def in_a_fresh_process(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_special_method_that_a_flow_has_not_loads_no_operators() -> None:
    """Whoever copies a flow, or shows it, asks for some."""
    loaded = in_a_fresh_process(
        "import copy, sys, flowstage\n"
        "copy.copy(flowstage.Input())\n"
        "print('flowstage.operators' in sys.modules)"
    )
    assert loaded == "False"


def test_importing_loads_no_event_loop_and_no_rooms() -> None:
    """A command line that only prints its help does not pay for asyncio."""
    loaded = in_a_fresh_process(
        "import sys, flowstage\n"
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "('asyncio', 'anyio', 'trio', 'attr', 'logging') or name.startswith('flowstage.')])"
    )
    assert loaded == "[]"


def test_using_every_name_starts_nothing() -> None:
    """No thread, no loop, no backend, no warning, no output: not even when all is loaded."""
    told = in_a_fresh_process(
        "import sys, threading, warnings\n"
        "warnings.simplefilter('error')\n"
        "import flowstage, flowstage.operators\n"
        "for name in flowstage.__all__:\n"
        "    getattr(flowstage, name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert 'trio' not in sys.modules and 'uvloop' not in sys.modules\n"
        "assert 'anyio._backends._asyncio' not in sys.modules\n"
    )
    assert told == ""
