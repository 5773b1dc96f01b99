"""The migration pages: every program runs and prints what stands below it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from ..test_docs import Example, examples, matches

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "migration").glob("*.md"))
HURRY = 20
"""How many times faster than a reader's the programs' clock runs."""

PROGRAMS = [
    pytest.param(page, example, backend, id=f"{page.stem}:{example.line + 1}-{backend}")
    for page in PAGES
    for example in examples(page)
    for backend in ("asyncio", "trio")
    if backend == "asyncio" or "import asyncio" not in example.text
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "example", "backend"), PROGRAMS)
def test_a_program_prints_what_the_page_says(
    page: Path, example: Example, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that imports asyncio runs on asyncio, any other on trio too."""
    monkeypatch.setattr(anyio, "run", functools.partial(anyio.run, backend=backend))
    for module in (anyio, asyncio):
        monkeypatch.setattr(module, "sleep", hurried(module.sleep))
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    code = compile("\n" * example.line + example.text, str(page), "exec", dont_inherit=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, module.__dict__)
    assert matches(example.prints, printed.getvalue()), printed.getvalue()


def hurried(sleep: Any) -> Any:
    """A sleep that takes a fraction of the time."""

    async def short(seconds: float, *args: Any) -> Any:
        return await sleep(seconds / HURRY, *args)

    return short


def test_there_is_a_page_for_each_module() -> None:
    """Under the name of what it is moved from, with the old program and the new one on it."""
    modules = {path.stem for path in (ROOT / "src/flowstage/compat").glob("[!_]*.py")}
    of_page = {page: module_of(page, modules) for page in PAGES}
    assert sorted(of_page.values()) == sorted(modules)
    for page, module in of_page.items():
        programs = [example.text for example in examples(page)]
        assert f"from flowstage.compat.{module} import" in programs[0]
        assert any("from flowstage import" in text for text in programs)
        for other in modules - {module}:
            assert not any(f"flowstage.compat.{other} " in text for text in programs)


def module_of(page: Path, modules: set[str]) -> str:
    """The one module whose name the page's ends with."""
    (module,) = (name for name in modules if page.stem.replace("-", "_").endswith(name))
    return module
