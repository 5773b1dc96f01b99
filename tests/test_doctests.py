"""The examples in docstrings run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import flowstage

MODULES = sorted(
    entry.name
    for entry in pkgutil.walk_packages(flowstage.__path__, "flowstage.")
    if not entry.ispkg
)
EXAMPLES = {
    test.name: test
    for name in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if test.examples
}
# Each verb and each join shows itself once.
SHOWN = [
    *(
        f"flowstage._flow.Flow.{verb}"
        for verb in (
            "map flat_map filter tap batch transform buffer route balance failures pipe "
            "open collect call drain"
        ).split()
    ),
    "flowstage._flow.Input",
    "flowstage._flow.source",
    *(f"flowstage._joins.{join}" for join in "merge gather zip zip_latest concat".split()),
]


@pytest.mark.parametrize("test", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_runs(test: doctest.DocTest) -> None:
    """It prints what it says, and needs nothing but its own lines."""
    test.globs = {"__name__": "__main__"}
    told: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert results.failed == 0, "".join(told)


@pytest.mark.parametrize("name", SHOWN)
def test_each_verb_has_an_example(name: str) -> None:
    """Whoever looks a verb up sees it at work."""
    assert name in EXAMPLES


def test_nothing_is_looked_for_in_vain() -> None:
    """The modules are found."""
    assert "flowstage.operators" in MODULES
    assert isinstance(importlib.import_module("flowstage.operators"), ModuleType)
