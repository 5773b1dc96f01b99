"""Write docs/reference.md from the docstrings: python docs/make_reference.py."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flowstage
from flowstage import operators, testing

TARGET = Path(__file__).with_name("reference.md")
INTRODUCTION = """\
# Reference

Every public name, as its docstring has it; `python docs/make_reference.py` writes this page. Times are in
seconds, sizes in items. A stage "gives" when a result of it goes on to the next one. What begins with an
underscore, or is not on this page, is no promise; `flowstage.compat` has pages of its own (docs/migration).

Import from `flowstage`; operators from `flowstage.operators`, tools for tests from `flowstage.testing`.
"""
# The order in which a reader meets them.
CHAPTERS: dict[str, tuple[str, ...]] = {
    "Entries": ("Input", "source"),
    "Flows": ("Flow",),
    "Joins": ("merge", "gather", "zip", "zip_latest", "concat"),
    "Graphs and runs": ("Graph", "Run", "Output", "StageInfo", "EdgeInfo"),
    "What travels": ("Sentinel", "Failure"),
    "Policies and places": ("Retry", "Threads", "Processes", "Interpreters"),
    "Reports": (
        "Report",
        "StageReport",
        "EdgeReport",
        "CallTimes",
        "Bottleneck",
        "FailureRecord",
        "Timing",
        "StageTimes",
        "ItemTimes",
        "StageTime",
        "Summary",
    ),
    "Errors": (
        "FlowError",
        "GraphError",
        "StageError",
        "StageTimeout",
        "BufferOverflow",
        "ClosedError",
        "DeadlockError",
        "WorkerDied",
        "failure_of",
    ),
}
# Public for the rooms of the package that need them, and no promise to users.
INTERNAL = {
    "Retry": {"again", "wait"},
    "Threads": {"script", "seats"},
    "SourceProbe": {"pull"},
    "ScriptedThreads": {"script"},
}
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Examples?):$", re.MULTILINE)
ENTRY = re.compile(r"^(?P<names>[\w, ]+): (?P<text>.*)$", re.DOTALL)
TITLES = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises"}


def reference() -> str:
    """Give the whole page."""
    return "\n".join(_page()).rstrip() + "\n"


def missing() -> list[str]:
    """Give the public names that no chapter has."""
    told = {name for names in CHAPTERS.values() for name in names}
    return sorted(set(flowstage.__all__) - told)


def _page() -> Iterator[str]:
    yield INTRODUCTION
    for chapter, names in CHAPTERS.items():
        yield f"## {chapter}\n"
        for name in names:
            if name in flowstage.__all__:
                yield from _entry(name, getattr(flowstage, name))
    yield "## Operators\n"
    yield from _prose(inspect.getdoc(operators) or "")
    for name in operators.__all__:
        yield from _entry(name, getattr(operators, name), first="flow")
    yield "## Testing\n"
    yield from _prose(inspect.getdoc(testing) or "")
    for name in testing.__all__:
        yield from _entry(name, getattr(testing, name))


def _entry(name: str, thing: Any, first: str = "") -> Iterator[str]:
    yield f"### {name}\n"
    if not inspect.isclass(thing):
        yield from _described(name, thing)
        return
    if not issubclass(thing, BaseException):
        if _is_made_by_users(thing):
            yield _code(f"{name}{_parameters(thing, method=False)}")
        yield from _doc(thing)
        yield from _members(name, thing)
        return
    bases = ", ".join(f"`{base.__name__}`" for base in thing.__bases__)
    yield f"A subclass of {bases}.\n"
    yield from _doc(thing)


def _is_made_by_users(thing: type) -> bool:
    return thing.__module__.startswith("flowstage.testing") or thing.__name__ in {
        "Input",
        "Graph",
        "Sentinel",
        "Retry",
        "Threads",
        "Processes",
    }


def _members(owner: str, thing: type) -> Iterator[str]:
    internal = INTERNAL.get(owner, set())
    for name, member in vars(thing).items():
        if name.startswith("_") or name in internal:
            continue
        if isinstance(member, property):
            yield f"#### {owner}.{name}\n"
            yield from _doc(member)
        elif inspect.isfunction(member):
            yield f"#### {owner}.{name}\n"
            yield from _described(name, member, method=True)
        if name == "output" and owner == "Run":
            yield from _iteration(owner, thing)
    if owner == "Output":
        yield from _iteration(owner, thing)


def _iteration(owner: str, thing: Any) -> Iterator[str]:
    yield f"#### async for item in {owner.lower()}\n"
    yield from _doc(thing.__aiter__)


def _described(name: str, function: Any, *, method: bool = False) -> Iterator[str]:
    is_async = inspect.iscoroutinefunction(function)
    yield _code(f"{'await ' if is_async else ''}{name}{_parameters(function, method=method)}")
    yield from _doc(function)


def _parameters(function: Any, *, method: bool) -> str:
    """Write a signature without types: those are in the editor; here the names and defaults count."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return "()"
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in parameters[method:]
        if p.name != "unknown"  # what is refused, with a list of the options
    ]
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", str(inspect.Signature(bare)))
    return re.sub(r"<[^>]*>", "...", text)


def _code(text: str) -> str:
    return f"```text\n{text}\n```\n"


def _doc(thing: Any) -> Iterator[str]:
    """Write a docstring as Markdown: its sections become lists."""
    head, *sections = SECTION.split(inspect.getdoc(thing) or "")
    yield from _prose(head)
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        text = textwrap.dedent(body.strip("\n"))
        if title in ("Returns", "Yields"):
            yield f"**{title}** {' '.join(text.split())}\n"
            continue
        if title.startswith("Example"):
            yield f"```pycon\n{text}\n```\n"
            continue
        yield f"**{TITLES[title]}**\n"
        for item in re.split(r"\n(?=\S)", text):
            flat = " ".join(item.split())
            found = ENTRY.match(flat)
            if found is None:
                yield f"- {flat}"
            else:
                names = ", ".join(f"`{name.strip()}`" for name in found["names"].split(","))
                yield f"- {names}: {found['text']}"
        yield ""


def _prose(text: str) -> Iterator[str]:
    """Give paragraphs; what is indented in a docstring is code."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if all(line.startswith("    ") for line in paragraph.splitlines()):
            yield _code(textwrap.dedent(paragraph))
        elif paragraph.lstrip().startswith(("* ", "- ")):
            yield paragraph.strip() + "\n"
        elif paragraph.strip():
            yield " ".join(paragraph.split()) + "\n"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
