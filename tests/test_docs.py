"""The pages: every example runs and prints what stands below it, every link leads somewhere.

A fenced `python` block is run; a `text` block right below it is what it prints (`...` stands for
anything). The blocks of a page are one program, in order, so a later one may use what an earlier one
defined. It runs as a script would, so a worker process that a page starts imports that page. Each page
runs on asyncio and on trio; one that imports asyncio, on asyncio alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import sys
from collections import Counter
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import anyio
import pytest

ROOT = Path(__file__).parents[1]
OTHERS = {
    "migration",
    "compat",
}  # these pages are about other libraries and have tests of their own
PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if not OTHERS & set(page.relative_to(ROOT / "docs").parts)
    ),
]
FENCE = re.compile(
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$(?:\n+^```text\n(?P<below>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\((?P<target>[^)\s]+)\)")


class Example(NamedTuple):
    """A block of a page."""

    line: int
    text: str
    prints: str


def examples(page: Path) -> list[Example]:
    """Give the programs of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Example(text.count("\n", 0, match.start("text")), match["text"], match["below"] or "")
        for match in FENCE.finditer(text)
        if match["language"] == "python"
    ]


WITH_EXAMPLES = [page for page in PAGES if examples(page)]


def label(page: Path) -> str:
    """Name a page as a reader would."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=label)
def test_examples_print_what_the_page_says(
    page: Path, backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A reader who copies them gets what is promised."""
    found = examples(page)
    if backend != "asyncio" and any("import asyncio" in example.text for example in found):
        pytest.skip("the page is about asyncio")
    monkeypatch.setattr(anyio, "run", functools.partial(anyio.run, backend=backend))
    monkeypatch.chdir(tmp_path)
    # A module, so that what the page defines has a home (dataclasses, pickles and types look there);
    # the main one and with a file, since that is what worker processes import.
    module = ModuleType("__main__")
    module.__file__ = str(tmp_path / "page.py")
    Path(module.__file__).write_text("\n".join(example.text for example in found), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "__main__", module)
    for example in found:
        printed = io.StringIO()
        # As many empty lines as stand before it, for tracebacks that lead to the page.
        code = compile("\n" * example.line + example.text, str(page), "exec", dont_inherit=True)
        with contextlib.redirect_stdout(printed):
            exec(code, module.__dict__)
        where = f"{label(page)}:{example.line + 1}"
        assert matches(example.prints, printed.getvalue()), (
            f"{where} prints\n{printed.getvalue()}\nand not\n{example.prints}"
        )


def matches(wanted: str, got: str) -> bool:
    """Compare output as doctest does, `...` standing for anything."""
    # Spaces at the end of a line are no part of what a page shows.
    trimmed = "".join(f"{line.rstrip()}\n" for line in got.splitlines())
    return OutputChecker().check_output(wanted, trimmed, ELLIPSIS)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the project, and to a heading in it if one is named."""
    for match in LINK.finditer(prose(page)):
        target, _, anchor = match["target"].partition("#")
        if "://" in target:
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{label(page)} links to {match['target']}"
        if anchor:
            assert anchor in anchors(there), f"{label(page)} links to {match['target']}"


def test_the_index_has_each_page_once() -> None:
    """So that a page can be found, and nobody wonders how two links differ."""
    index = ROOT / "docs" / "index.md"
    targets = [
        (index.parent / match["target"]).resolve()
        for match in LINK.finditer(prose(index))
        if "://" not in match["target"]
    ]
    assert [there for there, times in Counter(targets).items() if times > 1] == []
    assert set(index.parent.rglob("*.md")) - {index} <= set(targets)


def prose(page: Path) -> str:
    """Give a page without its code."""
    return CODE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Give the headings of a page as links name them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent != ROOT], ids=label)
def test_every_page_can_be_reached_from_the_index(page: Path) -> None:
    """No page is lost."""
    seen: set[Path] = set()
    pending = [ROOT / "docs" / "index.md"]
    while pending:
        here = pending.pop()
        if here in seen or here.suffix != ".md" or not here.is_file():
            continue
        seen.add(here)
        for match in LINK.finditer(prose(here)):
            target = match["target"].partition("#")[0]
            if target and "://" not in target:
                pending.append((here.parent / target).resolve())
    assert page in seen


def test_the_first_example_of_the_readme_has_twelve_lines() -> None:
    """Whoever comes by sees at once how it looks."""
    first = examples(ROOT / "README.md")[0]
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 12
    assert first.prints


# -- the reference ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maker() -> Any:
    """The program that writes the reference."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_docstrings_say(maker: Any) -> None:
    """It is written by a program, and the program has been run."""
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == maker.reference(), "run: python docs/make_reference.py"


def test_the_reference_has_every_public_name(maker: Any) -> None:
    """What can be imported is described."""
    assert maker.missing() == []
