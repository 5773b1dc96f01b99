"""How the project is checked: `nox` runs the tests on every interpreter, the linter and the types."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
# An interpreter that is not there, or a pyenv shim of a version that is not active, is a skipped
# session in nox's summary; nox would make it an error where `CI` is set.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "typing", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
EXAMPLE = Path("examples/index_source.py")


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The everyday suite, on the package as it would be installed."""
    session.install(".", *_group("tests"))
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The everyday suite with the oldest dependencies that pyproject.toml allows."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [*PYPROJECT["project"]["dependencies"], *extras["trio"]]
    oldest = [line.replace(">=", "==") for line in wanted]
    # The pytest plugin of anyio 4.14 uses what pytest 9.2 deprecates, and warnings are errors.
    session.install(".", *_group("tests"), *oldest, "pytest<9.2")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: the rules, and the layout."""
    session.install(*_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Mypy and pyright on the package, and the typing samples."""
    session.install("-e", ".", *_group("typing"))
    session.run("mypy")
    session.run("pyright")
    session.run("python", "-m", "pytest", "tests/test_typing.py")


@nox.session
def demo(session: nox.Session) -> None:
    """The example that indexes source files, over a few of this project's, on both backends."""
    if not EXAMPLE.exists():
        session.skip(f"there is no {EXAMPLE}")
    session.install("-e", ".[trio]")
    sources = Path(session.create_tmp()) / "sources"
    shutil.rmtree(sources, ignore_errors=True)
    shutil.copytree("tests", sources, ignore=shutil.ignore_patterns("__pycache__"))
    for backend in ("asyncio", "trio"):
        session.run("python", str(EXAMPLE), str(sources), "--backend", backend)


@nox.session
def deep(session: nox.Session) -> None:
    """The long campaigns."""
    session.install(".", *_group("tests"))
    session.run("python", "-m", "pytest", "-m", "deep", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The workloads, beside the peers."""
    session.install(".[trio,uvloop]", *_group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)
