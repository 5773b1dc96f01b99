"""Index a tree of Python sources: every definition and every word, in one SQLite file to search.

    python examples/index_source.py                      # the standard library of this Python
    python examples/index_source.py src --backend trio   # another folder, another event loop
    python examples/index_source.py --search coroutine   # what does the index know about it?

Each file is read once and shared by a parser, a word counter and a digest. What the three make of it
comes together again as one row; rows go into batches, and each batch into the database in one
transaction. The graph is `index()`, some twelve lines; all else are plain functions of one item.

Two things to know before taking it as a pattern:

* Threads keep the event loop free while disks and parsers take their time. They do not make `ast`
  or `re` any faster: Python's lock lets one thread at a time run Python code (but for free-threaded
  builds). Reading, hashing and SQLite give the lock up while they work.
* A file that cannot be read, decoded or parsed stops nothing and is not lost: its stages say
  `on_error="skip"`, and the flow of `failures()` brings what they skipped.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import io
import os
import re
import signal
import sqlite3
import stat
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

import anyio

from flowstage import Failure, Flow, Threads, gather, merge, source

# -- what flows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A source file in memory. Three branches share it, so nobody may change it."""

    path: Path
    data: bytes = field(repr=False)
    text: str = field(repr=False)


@dataclass(frozen=True)
class Definition:
    """A class or function: its name with those around it, and its docstring's first line."""

    name: str
    kind: str
    line: int
    summary: str


@dataclass(frozen=True)
class Stored:
    """What one transaction has written."""

    files: int
    definitions: int


Row = tuple[File, list[Definition], Counter[str], str]

# -- the graph -------------------------------------------------------------------------------------


def index(root: Path, threads: int, database: Path) -> Flow[None, Stored | Failure]:
    """Describe the whole job. Nothing runs yet: a flow is a value, to be drawn or opened."""
    workers = Threads(threads)  # one place, one limit, shared by all stages that name it
    writer = Threads(1)  # one seat: SQLite has one writer at a time

    paths = source(partial(walk, root), on=workers, name="walk")
    files = paths.map(read, on=workers, on_error="skip")

    # `files` is used four times and read once. `gather` pairs by file, not by position, so a file
    # that one branch skips is left out of the row's other columns too.
    rows = gather(
        files,
        files.map(parse, on=workers, on_error="skip"),
        files.map(count_words, on=workers),
        files.map(digest, on=workers),
    )
    # A batch is full or a second old, whichever comes first.
    stored = rows.batch(100, within=1).map(partial(store, database), on=writer)
    return merge(stored, rows.failures())


# -- its stages: plain functions, which know nothing of flowstage ----------------------------------


def walk(root: Path) -> Iterator[Path]:
    """Give the Python files under a folder, in order, without those that pip has installed there."""
    closed: list[OSError] = []
    for folder, below, names in os.walk(root, onerror=closed.append):
        below[:] = sorted(set(below) - {"site-packages", "__pycache__"})
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
    yield from (Path(error.filename) for error in closed)  # `read` will fail and tell why


def read(path: Path) -> File:
    # A pipe may keep its reader waiting for ever; a folder fails at once, and says more than this.
    if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise OSError("not a regular file")
    data = path.read_bytes()
    return File(path, data, importlib.util.decode_source(data))


def parse(file: File) -> list[Definition]:
    return list(_definitions(ast.parse(file.text, file.path), prefix=""))


KINDS = {
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "async function",
}


def _definitions(tree: ast.AST, prefix: str) -> Iterator[Definition]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            yield Definition(f"{prefix}{node.name}", KINDS[type(node)], node.lineno, summary)
            yield from _definitions(node, f"{prefix}{node.name}.")
        elif not isinstance(node, ast.expr):  # no definition hides in an expression
            yield from _definitions(node, prefix)


WORD = re.compile(r"[^\W\d_]{3,}")


def count_words(file: File) -> Counter[str]:
    return Counter(WORD.findall(file.text.lower()))


def digest(file: File) -> str:
    return hashlib.sha256(file.data).hexdigest()


def storable(text: str) -> str:
    """Write what is no character, as names of files and docstrings may have, as an escape."""
    return text.encode(errors="backslashreplace").decode()


def store(database: Path, rows: list[Row]) -> Stored:
    """Write a batch in one transaction: all of it is in the database, or nothing.

    The connection is this call's own, so nobody can close it while the call is at work.
    """
    found = 0
    with connect(database) as connection, connection:
        for file, definitions, words, sha256 in rows:
            path = storable(str(file.path))
            lines = file.text.count("\n")
            number = connection.execute(
                "INSERT INTO files VALUES (NULL, ?, ?, ?, ?)", (path, lines, words.total(), sha256)
            ).lastrowid
            connection.executemany(
                "INSERT INTO words VALUES (?, ?, ?)",
                ((word, number, times) for word, times in words.items()),
            )
            connection.executemany(
                "INSERT INTO definitions VALUES (?, ?, ?, ?, ?)",
                ((d.name, storable(d.summary), d.kind, d.line, path) for d in definitions),
            )
            found += len(definitions)
    return Stored(len(rows), found)


# -- the database ----------------------------------------------------------------------------------

OURS = 0x696E6478  # this number in a database's head says: an index, which its maker may replace
TABLES = """
    BEGIN;
    PRAGMA application_id = {ours};
    DROP TABLE IF EXISTS files;
    DROP TABLE IF EXISTS words;
    DROP TABLE IF EXISTS definitions;
    CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT, lines INTEGER, words INTEGER, sha256 TEXT);
    CREATE TABLE words (word TEXT, file INTEGER, times INTEGER, PRIMARY KEY (word, file))
        WITHOUT ROWID;
    CREATE {definitions};
    COMMIT;
"""
FULL_TEXT = (
    "VIRTUAL TABLE definitions USING"
    " fts5(name, summary, kind UNINDEXED, line UNINDEXED, path UNINDEXED)"
)
PLAIN = "TABLE definitions (name TEXT, summary TEXT, kind TEXT, line INTEGER, path TEXT)"


def has_full_text(connection: sqlite3.Connection) -> bool:
    """Tell whether this SQLite was built with FTS5."""
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.probe USING fts5(word)")
    except sqlite3.OperationalError:
        return False
    connection.execute("DROP TABLE temp.probe")
    return True


def connect(database: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(database))


def is_index(connection: sqlite3.Connection) -> bool:
    return int(connection.execute("PRAGMA application_id").fetchone()[0]) == OURS


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM files").fetchone()[0])


def begin_anew(connection: sqlite3.Connection) -> None:
    """Make empty tables, in place of those of an earlier run, but of nobody else's."""
    if not is_index(connection) and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise sqlite3.DatabaseError("this is no index and stays as it is; name another --database")
    full_text = has_full_text(connection)
    if not full_text:
        print("this Python's SQLite has no FTS5: searching will be a plain and slower LIKE")
    definitions = FULL_TEXT if full_text else PLAIN
    connection.executescript(TABLES.format(ours=OURS, definitions=definitions))


def search(connection: sqlite3.Connection, word: str) -> Iterator[str]:
    """Tell where a word is defined or described, and which files use it most."""
    if not is_index(connection):
        raise sqlite3.DatabaseError("there is no index in it; run once without --search")
    quoted = '"' + word.replace('"', '""') + '"'
    ((made_as,),) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'definitions'")
    if "fts5" in made_as:
        where, values = "definitions MATCH ? ORDER BY rank", (quoted,)
    else:
        where, values = "name LIKE ? OR summary LIKE ? ORDER BY length(name)", (f"%{word}%",) * 2
    found = connection.execute(
        f"SELECT name, kind, path, line, summary FROM definitions WHERE {where} LIMIT 10", values
    )
    for name, kind, path, line, summary in found:
        yield f"{kind} {name}  {path}:{line}"
        if summary:
            yield f"    {summary}"
    used = connection.execute(
        "SELECT path, times FROM words JOIN files ON files.id = file WHERE word = ?"
        " ORDER BY times DESC, path LIMIT 5",
        (word.lower(),),
    )
    for path, times in used:
        yield f"{times:5} times in {path}"


# -- running it ------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Write as an escape what a terminal would obey or cannot show; names may hold anything."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class Progress:
    """One line that is rewritten on a terminal; elsewhere a plain line now and then."""

    def __init__(self) -> None:
        self.files = self.definitions = 0
        self.failures: list[Failure] = []
        self._began = self._told = monotonic()

    def __str__(self) -> str:
        took = monotonic() - self._began
        return (
            f"{self.files:,} files stored, {self.definitions:,} definitions, "
            f"{len(self.failures)} failed, {took:.1f} s"
        )

    def add(self, result: Stored | Failure) -> None:
        """Count a result, and show it."""
        match result:
            case Stored(files, definitions):
                self.files += files
                self.definitions += definitions
            case Failure():
                self.failures.append(result)
        self.show()

    def show(self) -> None:
        if sys.stdout.isatty():
            print(f"\r{self!s:<79}", end="", flush=True)
        elif monotonic() - self._told >= 1:
            self._told = monotonic()
            print(self, flush=True)

    def done(self) -> None:
        """Say the last word, and which files have failed, at which stage and why."""
        print(f"\r{self!s:<79}" if sys.stdout.isatty() else self)
        for failure in self.failures:
            match failure.item:
                case (Path() as path) | File(path=path):
                    error = failure.error
                    reason = f"{type(error).__name__}: {error}"
                    print(printable(f"    {path}: {failure.stage}: {reason}"))


async def run(job: Flow[None, Stored | Failure], pressed: list[int]) -> bool:
    """Run the job; tell whether it came to its end, and not to a Ctrl-C."""
    progress = Progress()
    progress.show()
    with anyio.CancelScope() as whole:
        async with job.open() as running, anyio.create_task_group() as listening:
            listening.start_soon(cancel_on_ctrl_c, whole, pressed)
            async for result in running:
                progress.add(result)
            listening.cancel_scope.cancel()
    progress.done()
    print(f"\n{running.report()}")
    return not whole.cancelled_caught


async def cancel_on_ctrl_c(scope: anyio.CancelScope, pressed: list[int]) -> None:
    """Make Ctrl-C a cancellation like any other, a tenth of a second later at most."""
    while not pressed:  # noqa: ASYNC110  # a signal handler cannot set an event of the loop
        await anyio.sleep(0.1)
    scope.cancel()


BACKENDS = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, default=sysconfig.get_path("stdlib"))
    parser.add_argument("--database", type=Path, default="source-index.db", metavar="FILE")
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--threads", type=int, default=4, metavar="N")
    parser.add_argument("--search", metavar="WORD", help="ask the database instead of filling it")
    options = parser.parse_args()
    if not options.directory.is_dir():
        parser.error(f"{options.directory} is no folder")
    if options.threads < 1:
        parser.error("--threads takes a number from 1 on")
    if importlib.util.find_spec(options.backend) is None:
        parser.error(f"{options.backend} is not installed: python -m pip install {options.backend}")
    if options.search is not None:
        if not options.search.strip() or not options.search.isprintable():
            parser.error(f"--search takes a word, not {options.search!r}")
        if not options.database.exists():
            parser.error(f"there is no {options.database} yet; run once without --search")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # other people's names, on any terminal
    try:
        with connect(options.database) as connection:
            code = (fill if options.search is None else answer)(options, connection)
        sys.stdout.flush()
    # With stars, because an error may come out of a task group. The codes are a shell's own.
    except* KeyboardInterrupt:
        code = 130
    except* BrokenPipeError:  # whoever reads this has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except* sqlite3.Error as errors:
        print(f"{options.database}: {errors.exceptions[0]}", file=sys.stderr)
        code = 1
    return code


def answer(options: argparse.Namespace, connection: sqlite3.Connection) -> int:
    lines = list(search(connection, options.search))
    print("\n".join(map(printable, lines)) or f"nothing is known about {options.search!r}")
    return 0 if lines else 1


def fill(options: argparse.Namespace, connection: sqlite3.Connection) -> int:
    warnings.simplefilter("ignore")  # what the parser thinks of other people's code
    # From here on Ctrl-C is noted, however often, instead of an exception at a random line: of a
    # transaction, or of an event loop that is just starting or closing.
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    backend, backend_options = BACKENDS[options.backend]
    begin_anew(connection)
    job = index(options.directory, options.threads, options.database)
    print(f"{job.graph}\n")
    finished = anyio.run(run, job, pressed, backend=backend, backend_options=backend_options)
    if not finished:
        # The run was cancelled and has waited for its threads: a batch is in the database as a whole
        # or not at all.
        print(f"\nstopped: {count(connection):,} files are in {options.database}")
        return 130
    print(f"\n{options.database} is ready; now ask it with --search")
    return 0


if __name__ == "__main__":
    exit_code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to stop; the code is to stand
    sys.exit(exit_code)
