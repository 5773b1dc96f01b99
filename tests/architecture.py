"""The floors of the house, and who may import whom: reads sources as text, imports nothing of them.

The table is the floor plan itself. A room is a module, or a package with everything below it. Imports
point downwards, or to a neighbour on the same floor as long as no circle comes of it; an import that
only type checkers read may close a circle, since it never runs, but it may not point upwards.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "flowstage"

# From the ground up; the index is the number of the floor.
FLOORS: tuple[tuple[str, frozenset[str]], ...] = (
    ("the words", frozenset({"_envelope", "_errors", "_report", "_backend", "_where"})),
    ("the parts", frozenset({"_stages", "_places", "_policies"})),
    (
        "the plan",
        frozenset(
            {
                "_topology",
                "_plan",
                "_draw",
                "_draw_svg",
                "_draw_layout",
                "_draw_layers",
                "_draw_place",
            }
        ),
    ),
    ("the machinery", frozenset({"_engine", "_clock", "_wires", "_epoch", "_stats", "_watch"})),
    (
        "the house",
        frozenset(
            {
                "_run",
                "_live",
                "_output",
                "_account",
                "_explain",
                "_figures",
                "_late",
                "_still",
                "_waits",
            }
        ),
    ),
    (
        "the front door",
        frozenset({"_flow", "_joins", "_graph", "_opening", "_sources", "operators"}),
    ),
    ("the street", frozenset({"__init__", "testing", "compat"})),
)

# Pairs that could see each other by height alone, and must not.
BLIND: tuple[tuple[str, str, str], ...] = (
    ("the machinery", "the plan", "a runner knows its stage, inlets and outlet, not the graph"),
)

# Rooms that must stay free of whole floors although they stand above them.
PUBLIC_VERBS_ONLY: Mapping[str, frozenset[str]] = {
    "operators": frozenset({"the plan", "the machinery", "the house"}),
}
# Rooms that see no private module of the package, their own excepted.
PUBLIC_API_ONLY = frozenset({"compat"})

LIBRARIES = frozenset({"anyio", "attr", "attrs"})
LOOPS = frozenset({"asyncio", "sniffio", "trio", "uvloop"})
# Who may know which backend runs: one small room, the tools for users' tests, and the module that
# hosts a run in the background, where each backend has a way of its own.
MAY_KNOW_THE_LOOP = frozenset({"_backend", "testing", "compat._host"})
NO_LOOP_AT_ALL = frozenset({"the plan"})
# What an extra brings is imported where it is used, so that the core does not need it.
OPTIONAL = frozenset({"trio", "uvloop"})
# Type checkers bring these themselves.
FOR_TYPES = frozenset({"_typeshed", "typing_extensions"})


@dataclass(frozen=True)
class Import:
    """One import statement's target, and where it stands."""

    target: str
    line: int
    in_function: bool = False
    for_types: bool = False


def sources_of(package: Path) -> dict[str, str]:
    """Read a package: dotted module name (`_engine.call`; `__init__` for the package) to its text."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path.read_text(encoding="utf-8")
    return found


def floor_of(module: str) -> int | None:
    """The number of the floor that a module stands on; None for a module that has no room."""
    room = module.partition(".")[0]
    for number, (_, rooms) in enumerate(FLOORS):
        if room in rooms:
            return number
    return None


def complaints(sources: Mapping[str, str]) -> list[str]:
    """Every way in which the modules break the rules of the house, as one line of text each."""
    imports = {module: _imports(module, text, sources) for module, text in sources.items()}
    found = [
        f"{module}: has no room in the table" for module in sources if floor_of(module) is None
    ]
    for module, entries in imports.items():
        if floor_of(module) is not None:
            for entry in entries:
                found += [f"{module}:{entry.line}: {text}" for text in _judge(module, entry)]
    found += _circles(imports)
    return found


def _judge(module: str, entry: Import) -> Iterator[str]:
    inner = _inside(entry.target)
    if inner is None:
        yield from _judge_library(module, entry)
    else:
        yield from _judge_room(module, inner, entry)


def _judge_room(module: str, target: str, entry: Import) -> Iterator[str]:
    here, there = floor_of(module), floor_of(target)
    if here is None or there is None:
        return  # complained about once, as a module without a room
    room, floor, other = module.partition(".")[0], FLOORS[here][0], FLOORS[there][0]
    if entry.in_function:
        yield f"imports {target} inside a function"
    if there > here:
        yield f"imports upwards: {target} stands on {other}, this on {floor}"
    for blind, unseen, reason in BLIND:
        if (floor, other) == (blind, unseen):
            yield f"{blind} must not import {unseen} ({target}): {reason}"
    if other in PUBLIC_VERBS_ONLY.get(room, ()):
        yield f"{room} uses public verbs only, not {target}"
    private = any(part.startswith("_") and part != "__init__" for part in target.split("."))
    if room in PUBLIC_API_ONLY and private and target.partition(".")[0] != room:
        yield f"{room} uses the public API only, not {target}"


def _judge_library(module: str, entry: Import) -> Iterator[str]:
    library = entry.target.partition(".")[0]
    room, floor = module.partition(".")[0], FLOORS[floor_of(module) or 0][0]
    if floor in NO_LOOP_AT_ALL and library in LOOPS | {"anyio"}:
        yield f"{floor} needs no event loop, so it does not import {library}"
    elif library in LOOPS and not {room, module} & MAY_KNOW_THE_LOOP:
        yield f"only {', '.join(sorted(MAY_KNOW_THE_LOOP))} may import {library}"
    if library in OPTIONAL:
        if not (entry.in_function or entry.for_types):
            yield f"{library} is an extra: import it where it is used"
    elif entry.in_function:
        yield f"imports {library} inside a function"
    if library in LIBRARIES | LOOPS | sys.stdlib_module_names:
        return
    if not (entry.for_types and library in FOR_TYPES):
        yield f"{library} is no dependency of the core"


def _circles(imports: Mapping[str, Iterable[Import]]) -> Iterator[str]:
    # Between floors a circle needs an import upwards, which has its own complaint.
    graph = {
        module: {
            inner
            for entry in entries
            if not entry.for_types
            and (inner := _inside(entry.target)) is not None
            and inner != module
            and floor_of(inner) == floor_of(module)
        }
        for module, entries in imports.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"imports in a circle: {' <- '.join(error.args[1])}"


def _inside(target: str) -> str | None:
    """The module's name within the package; None if it is not of the package."""
    if target == PACKAGE:
        return "__init__"
    return target.removeprefix(f"{PACKAGE}.") if target.startswith(f"{PACKAGE}.") else None


def _imports(module: str, text: str, sources: Mapping[str, str]) -> list[Import]:
    reader = _Reader(module, frozenset(sources))
    reader.visit(ast.parse(text))
    return reader.found


class _Reader(ast.NodeVisitor):
    def __init__(self, module: str, known: frozenset[str]) -> None:
        self.found: list[Import] = []
        self._known = known
        is_package = any(other.startswith(f"{module}.") for other in known)
        path = [] if module == "__init__" else module.split(".")
        self._here = [PACKAGE, *path] if is_package or not path else [PACKAGE, *path[:-1]]
        self._depth = 0
        self._for_types = False

    def _add(self, target: str, node: ast.stmt) -> None:
        self.found.append(Import(target, node.lineno, self._depth > 0, self._for_types))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = [node.module] if node.module else []
        if node.level:
            origin = [*self._here[: len(self._here) - node.level + 1], *origin]
        base = ".".join(origin)
        for alias in node.names:
            # `from . import _wires` names a module, `from ._wires import Inlet` a thing in one.
            whole = f"{base}.{alias.name}"
            self._add(whole if _inside(whole) in self._known else base, node)

    def visit_If(self, node: ast.If) -> None:
        for_types = self._for_types
        self._for_types = for_types or _is_type_checking(node.test)
        for child in node.body:
            self.visit(child)
        self._for_types = for_types
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"
