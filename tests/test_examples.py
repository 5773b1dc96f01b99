"""The examples, used as a reader would use them: from the command line, with a Ctrl-C too."""

from __future__ import annotations

import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import NEEDS_UVLOOP

EXAMPLE = Path(__file__).parents[1] / "examples" / "index_source.py"
BACKENDS = ["asyncio", "trio", pytest.param("uvloop", marks=NEEDS_UVLOOP)]
GOOD = {
    "plain.py": '''
class Kettle:
    """Boils water.

    Not for milk.
    """

    async def boil(self, kettle):
        """Heat it up."""


def pour(kettle, kettle_lid):
    return kettle
''',
    "inner/more.py": "if True:\n    def brew(kettle): ...\n",
    "inner/latin.py": "# coding: latin-1\nname = 'Tee, gr\xfcn'\n",
    "empty.py": "",
}


# The example, with some of its functions replaced by what stands at the first blank.
CHANGED = """
import os, signal, sqlite3, sys, time

sys.path.insert(0, {folder!r})
import index_source as example

def ctrl_c(): os.kill(os.getpid(), signal.SIGINT)

class Before:  # put something before a function
    def __init__(self, name, first):
        self.__name__, self.first, self.function = name, first, getattr(example, name)
        setattr(example, name, self)
    def __call__(self, *arguments):
        self.first()
        return self.function(*arguments)

{change}
sys.exit(example.main())
"""


def command(*arguments: object, change: str = "") -> list[str]:
    """Give the command that runs the example, perhaps changed."""
    changed = ["-c", CHANGED.format(folder=str(EXAMPLE.parent), change=change)]
    return [sys.executable, *(changed if change else [str(EXAMPLE)]), *map(str, arguments)]


def run(*arguments: object, change: str = "") -> subprocess.CompletedProcess[str]:
    """Run the example and give what it printed and how it ended."""
    return subprocess.run(
        command(*arguments, change=change),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=50,
        check=False,
    )


def rows(database: Path, query: str) -> list[tuple[object, ...]]:
    """Ask the database, from another connection than the one that wrote it."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small source tree in which nothing is wrong."""
    root = tmp_path / "tree"
    for name, text in GOOD.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="latin-1")
    (root / "site-packages").mkdir()
    (root / "site-packages" / "other.py").write_text("def elsewhere(): ...")
    (root / "notes.txt").write_text("no Python")
    return root


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the index goes."""
    return tmp_path / "index.db"


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("index_source", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where `dataclass` looks its annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tree_is_indexed(tree: Path, database: Path, backend: str) -> None:
    """Every definition, word and file is in the database; graph, progress and report are printed."""
    done = run(tree, "--database", database, "--backend", backend, "--threads", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(database, "SELECT name, kind, line, summary FROM definitions ORDER BY name") == [
        ("Kettle", "class", 2, "Boils water."),
        ("Kettle.boil", "async function", 8, "Heat it up."),
        ("brew", "function", 2, ""),
        ("pour", "function", 12, ""),
    ]
    assert rows(database, "SELECT count(*), sum(lines) FROM files") == [(4, 17)]
    assert rows(database, "SELECT sum(times) FROM words WHERE word = 'kettle'") == [(6,)]
    for stage in ("walk", "read", "parse", "count_words", "digest", "store"):
        assert done.stdout.count(stage) >= 2, f"{stage} is not both drawn and reported"
    assert "4 files stored, 4 definitions, 0 failed" in done.stdout
    assert "elapsed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_cannot_be_read_decoded_or_parsed_is_listed(
    tree: Path, database: Path, backend: str
) -> None:
    """Neither a crash nor silence, and the good files are there."""
    (tree / "grammar.py").write_text("def")
    (tree / "bytes.py").write_bytes(b"\n\nname = '\xff\xfe'\n")
    (tree / "null.py").write_bytes(b"\0")
    (tree / "folder.py").symlink_to(tree / "nowhere.py")
    done = run(tree, "--database", database, "--backend", backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 files stored, 4 definitions, 4 failed" in done.stdout
    for name, stage, error in (
        ("grammar.py", "parse", "SyntaxError"),
        ("bytes.py", "read", "UnicodeDecodeError"),
        ("folder.py", "read", "FileNotFoundError"),
    ):
        assert f"    {tree / name}: {stage}: {error}: " in done.stdout
    assert f"    {tree / 'null.py'}: parse: " in done.stdout  # ValueError or SyntaxError
    assert rows(database, "SELECT count(*) FROM files") == [(4,)]


@pytest.mark.slow
def test_what_is_no_text_is_indexed_all_the_same(tmp_path: Path, database: Path) -> None:
    """Half a character, in a docstring or in a name of a file, is written as an escape."""
    (tmp_path / "half.py").write_text('def tea():\n    "Half \\ud800 cup."\n')
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).write_text("def")
    except OSError:
        pytest.skip("this file system wants names that are text")
    done = run(tmp_path, "--database", database)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\udcff.py: parse: SyntaxError: " in done.stdout
    assert rows(database, "SELECT summary FROM definitions") == [("Half \\ud800 cup.",)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a folder has no pipes there")
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_regular_file_is_not_opened(tree: Path, database: Path, backend: str) -> None:
    """A pipe that nobody writes to would keep its reader for ever."""
    os.mkfifo(tree / "pipe.py")
    (tree / "zero.py").symlink_to("/dev/zero")
    done = run(tree, "--database", database, "--backend", backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 files stored, 4 definitions, 2 failed" in done.stdout
    for name in ("pipe.py", "zero.py"):
        assert f"    {tree / name}: read: OSError: not a regular file\n" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="names of files are tamer there")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_name_cannot_command_the_terminal(tmp_path: Path, database: Path, backend: str) -> None:
    """Where a name is printed, in the list of failures or as an answer, it is one line of text."""
    (tmp_path / "bad\n\x1b[31m.py").write_text("def")
    (tmp_path / "good\n\x1b[31m.py").write_text("def tea():\n    'Hot \x1b[31m water.'\n")
    done = run(tmp_path, "--database", database, "--backend", backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"    {tmp_path}/bad\\n\\x1b[31m.py: parse: SyntaxError: " in done.stdout
    asked = run("--search", "tea", "--database", database)
    assert (
        f"function tea  {tmp_path}/good\\n\\x1b[31m.py:1\n    Hot \\x1b[31m water.\n"
        in asked.stdout
    )
    assert "\x1b" not in done.stdout + asked.stdout


@pytest.mark.slow
def test_a_second_run_replaces_the_first(tree: Path, database: Path) -> None:
    """What is gone from the tree is gone from the index, and nothing is there twice."""
    assert run(tree, "--database", database).returncode == 0
    (tree / "plain.py").write_text("def drink(): ...")
    assert run(tree, "--database", database).returncode == 0
    names = [name for (name,) in rows(database, "SELECT name FROM definitions ORDER BY name")]
    assert names == ["brew", "drink"]
    assert rows(database, "SELECT count(*), count(DISTINCT path) FROM files") == [(4, 4)]
    assert rows(database, "SELECT sum(times) FROM words WHERE word = 'kettle'") == [(1,)]


@pytest.mark.slow
def test_the_index_answers(tree: Path, database: Path) -> None:
    """By name, by description, and by use."""
    assert run(tree, "--database", database).returncode == 0
    kettle = run("--search", "Kettle", "--database", database)
    assert kettle.returncode == 0
    assert f"class Kettle  {tree / 'plain.py'}:2\n    Boils water.\n" in kettle.stdout
    assert f"    5 times in {tree / 'plain.py'}\n" in kettle.stdout
    assert "class Kettle" in run("--search", "water", "--database", database).stdout
    nothing = run("--search", 'te"a*', "--database", database)
    assert (nothing.returncode, nothing.stderr) == (1, "")
    assert nothing.stdout.startswith("nothing is known about")


def test_without_fts5_it_says_so_and_searches_all_the_same(
    example: ModuleType,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An SQLite that was built without it is slower, not useless."""
    monkeypatch.setattr(example, "has_full_text", lambda connection: False)
    with example.connect(database) as connection:
        example.begin_anew(connection)
        assert "no FTS5" in capsys.readouterr().out
        file = example.File(Path("tea.py"), b"", "")
        pour = example.Definition("pour", "function", 3, "Fill a cup.")
        example.store(database, [(file, [pour], Counter(cup=2), "")])
        assert list(example.search(connection, "cup")) == [
            "function pour  tea.py:3",
            "    Fill a cup.",
            "    2 times in tea.py",
        ]


def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    example: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given like a file, so that reading it fails and is told."""
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path).name == "inner":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert list(example.walk(tree)) == [tree / "empty.py", tree / "plain.py", tree / "inner"]
    with pytest.raises(OSError):
        example.read(tree / "inner")


def test_a_batch_is_written_as_a_whole_or_not_at_all(example: ModuleType, database: Path) -> None:
    """One transaction for each batch."""
    file = example.File(Path("tea.py"), b"", "")
    good, bad = (file, [], Counter(tea=1), ""), (file, [], Counter(tea=1), object())
    with example.connect(database) as connection:
        example.begin_anew(connection)
        with pytest.raises(sqlite3.Error):
            example.store(database, [good, bad])
        assert example.count(connection) == 0


@pytest.fixture(scope="module")
def large_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that takes a while, with something wrong in its first file."""
    root = tmp_path_factory.mktemp("large")
    text = "".join(f"def function_{number}(argument): ...\n" for number in range(100))
    for number in range(3_000):
        (root / f"module_{number}.py").write_text(text)
    (root / "a.py").write_text("def")
    return root


def begin(*arguments: object, change: str = "") -> subprocess.Popen[str]:
    """Run the example beside the test."""
    return subprocess.Popen(
        command(*arguments, change=change),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SIGINT_TO_ONE = pytest.mark.skipif(
    sys.platform == "win32", reason="a Ctrl-C reaches a whole console there"
)


@pytest.mark.slow
@SIGINT_TO_ONE
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_stops_at_once_and_leaves_the_database_intact(
    large_tree: Path, database: Path, backend: str, times: int
) -> None:
    """Whole batches are in it, what was done is told, and the exit code is a shell's for Ctrl-C."""
    process = begin(large_tree, "--database", database, "--backend", backend)
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and not stored(database):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    if times == 2:
        time.sleep(0.005)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=15)
    took = time.monotonic() - asked
    assert (process.returncode, err) == (130, "")
    files = stored(database)
    assert 0 < files < 3_000
    assert f"    {large_tree / 'a.py'}: parse: SyntaxError: " in out
    assert "s elapsed, " in out
    assert f"stopped: {files:,} files are in {database}" in out
    assert took < 5
    assert rows(database, "PRAGMA integrity_check") == [("ok",)]
    assert rows(database, "SELECT count(*) FROM definitions") == [(files * 100,)]
    assert rows(database, "SELECT DISTINCT count(*) FROM words GROUP BY file") == [(3,)]


@pytest.mark.slow
@SIGINT_TO_ONE
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_ctrl_c_does_not_leave_a_thread_behind(
    tree: Path, database: Path, backend: str
) -> None:
    """While the first one's end waits for a thread, the second changes nothing."""
    change = """
def twice():
    ctrl_c()
    patience = time.monotonic() + 0.5
    while signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        time.sleep(0.01)  # perhaps it is going to be an exception again
        if time.monotonic() > patience:
            break
    ctrl_c()
    time.sleep(0.5)
    print("the thread is done", flush=True)

Before("store", twice)
"""
    done = run(tree, "--database", database, "--backend", backend, change=change)
    assert (done.returncode, done.stderr) == (130, "")
    assert "the thread is done" in done.stdout.partition("elapsed")[0]
    assert f"stopped: 4 files are in {database}" in done.stdout


@pytest.mark.slow
@SIGINT_TO_ONE
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_beside_the_run_is_no_traceback(tree: Path, database: Path, backend: str) -> None:
    """It is noted before the event loop runs, and does no harm when it has ended."""
    change = """
Before("read", lambda: time.sleep(0.3))
for name in ("begin_anew", "index", "run", "count"):
    Before(name, ctrl_c)
"""
    done = run(tree, "--database", database, "--backend", backend, change=change)
    assert (done.returncode, done.stderr) == (130, "")
    assert f"stopped: 0 files are in {database}" in done.stdout.partition("elapsed")[2]


@pytest.mark.slow
@SIGINT_TO_ONE
def test_ctrl_c_ends_an_answer_too(tree: Path, database: Path) -> None:
    """Quietly as well."""
    assert run(tree, "--database", database).returncode == 0
    done = run("--search", "tea", "--database", database, change="Before('search', ctrl_c)")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
@SIGINT_TO_ONE
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_ctrl_c_waits_for_is_told(tree: Path, database: Path, backend: str) -> None:
    """The library's warning that names the stage is not muted."""
    change = """
def long():
    ctrl_c()
    time.sleep(0.5)

Before("store", long)
opened = example.Flow.open
example.Flow.open = lambda flow: opened(flow, close_timeout=0.1)
"""
    done = run(tree, "--database", database, "--backend", backend, change=change)
    assert done.returncode == 130
    assert done.stderr.startswith("closing waits for stage 'store', which has been busy with ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_database_that_fails_on_the_way_is_told_in_one_line(
    tree: Path, database: Path, backend: str
) -> None:
    """As one that fails at once: the error comes out of the run as it is, or of a group."""
    change = """
def full(): raise sqlite3.OperationalError("database or disk is full")

Before("store", full)
"""
    done = run(tree, "--database", database, "--backend", backend, change=change)
    assert (done.returncode, done.stderr) == (1, f"{database}: database or disk is full\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is another error there")
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_ends_quietly_when_nobody_reads_on(
    large_tree: Path, tree: Path, database: Path, backend: str
) -> None:
    """As in `| head -1`: in the middle of the run, at its end, and in an answer."""
    index = ["--backend", backend, "--database", database]
    hasty = "import itertools; example.monotonic = itertools.count().__next__"  # tells each batch
    for arguments, change in (
        ([large_tree, *index], hasty),
        ([tree, *index], ""),
        ([*index, "--search", "kettle"], ""),
    ):
        process = begin(*arguments, change=change)
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=50)
        assert (process.returncode, err) == (141, "")
        if change:
            assert 0 <= stored(database) < 3_000


@pytest.mark.slow
def test_the_database_of_somebody_else_stays_as_it_is(tree: Path, database: Path) -> None:
    """Its tables may have the names of ours."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE files (mine)")
        connection.execute("INSERT INTO files VALUES ('precious')")
    before = database.read_bytes()
    done = run(tree, "--database", database)
    assert done.returncode == 1
    assert done.stderr == (
        f"{database}: this is no index and stays as it is; name another --database\n"
    )
    asked = run("--search", "kettle", "--database", database)
    assert asked.returncode == 1
    assert asked.stderr == f"{database}: there is no index in it; run once without --search\n"
    assert database.read_bytes() == before


@pytest.mark.slow
def test_an_empty_file_can_be_filled_but_not_asked(tree: Path, database: Path) -> None:
    """Asking tells so, and leaves it empty."""
    database.touch()
    asked = run("--search", "kettle", "--database", database)
    assert asked.returncode == 1
    assert asked.stderr == f"{database}: there is no index in it; run once without --search\n"
    assert database.read_bytes() == b""
    assert run(tree, "--database", database).returncode == 0
    assert stored(database) == 4


@pytest.mark.slow
@pytest.mark.parametrize("word", ["", "  ", "\udcff"], ids=ascii)
def test_what_is_no_word_is_not_searched_for(tree: Path, database: Path, word: str) -> None:
    """Least of all is it taken for a wish to index."""
    assert run(tree, "--database", database).returncode == 0
    before = database.read_bytes()
    asked = run(tree, "--database", database, "--search", word)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.endswith(f"error: --search takes a word, not {word!r}\n")
    assert "Traceback" not in asked.stderr
    assert database.read_bytes() == before


def stored(database: Path) -> int:
    """Tell how many files are in the index; none while there is no index yet."""
    try:
        return int(rows(database, "SELECT count(*) FROM files")[0][0])  # type: ignore[call-overload]
    except sqlite3.OperationalError:
        return 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["--search", "tea", "--database", "nowhere.db"], "there is no nowhere.db yet"),
        (["--threads", "0"], "--threads takes a number from 1 on"),
        (["--backend", "curio"], "invalid choice: 'curio'"),
        ([".", "--database", str(EXAMPLE)], "file is not a database"),
    ],
)
@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_told_in_one_line(
    arguments: list[str], message: str
) -> None:
    """No traceback for what the user can put right."""
    done = run(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
