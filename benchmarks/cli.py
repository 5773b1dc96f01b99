"""The command: which workloads, where, how often, and what to write."""

import argparse
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.bars import Bar, Chart, draw
from benchmarks.checkout import use_checkout
from benchmarks.machine import caption, machine
from benchmarks.measure import Outcome, measure
from benchmarks.model import BACKENDS, Program, Workload
from benchmarks.tell import as_data, as_markdown, as_text, label, short, verdicts
from benchmarks.workloads import GROUPS, WORKLOADS

ROUNDS, QUICK_ROUNDS = 5, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and tell; 1 if a program failed or gave wrong results, or, strictly, was too slow."""
    wishes = _parser().parse_args(arguments)
    if wishes.list:
        print("\n".join(f"{one.name:<28} {one.what}" for one in WORKLOADS))
        return 0
    use_checkout()
    found = machine()
    print(caption(found) + "\n")
    outcomes = []
    for backend in wishes.backend or ["asyncio"]:
        for workload in _chosen(wishes.workload):
            outcome = measure(
                workload,
                backend,
                rounds=wishes.rounds or (QUICK_ROUNDS if wishes.quick else ROUNDS),
                quick=wishes.quick,
                wanted=lambda program: _matches(program, wishes.only),
                tell=_progress,
            )
            _progress("")
            if outcome.rows:
                outcomes.append(outcome)
                print(as_text(outcome), flush=True)
    if wishes.json:
        wishes.json.write_text(json.dumps(as_data(outcomes, found), indent=1) + "\n")
    if wishes.markdown:
        wishes.markdown.write_text(as_markdown(outcomes, found))
    if wishes.svg:
        wishes.svg.write_text(draw([chart for one in outcomes for chart in _charts(one)]))
    return _status(outcomes, strict=wishes.strict)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "workload",
        nargs="*",
        type=_name,
        metavar="workload",
        help=f"which, or a group of them ({', '.join(GROUPS)}); all by default",
    )
    parser.add_argument("--list", action="store_true", help="name the workloads and end")
    parser.add_argument(
        "--backend", action="append", choices=BACKENDS, help="asyncio by default; repeatable"
    )
    parser.add_argument("--rounds", type=_count, help=f"{ROUNDS} by default, quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="fewer items and rounds")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="only programs whose name matches, such as 'flowstage*'; repeatable",
    )
    parser.add_argument("--strict", action="store_true", help="a missed target is a failure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write bar charts")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    return parser


def _name(text: str) -> str:
    if text not in GROUPS and all(text != one.name for one in WORKLOADS):
        raise argparse.ArgumentTypeError(f"no workload or group is called {text!r}; see --list")
    return text


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("rounds are at least one")
    return number


def _chosen(names: Sequence[str]) -> list[Workload]:
    """The workloads named, alone or by group, each once."""
    if not names:
        return list(WORKLOADS)
    wanted = {one.name for name in names for one in GROUPS.get(name, ())} | set(names)
    return [one for one in WORKLOADS if one.name in wanted]


def _matches(program: Program, patterns: Sequence[str] | None) -> bool:
    return not patterns or any(fnmatch(program.name, pattern) for pattern in patterns)


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _charts(outcome: Outcome) -> list[Chart]:
    title = f"{outcome.workload.name}: {outcome.workload.what} ({outcome.backend})"
    return [
        Chart(
            title,
            figure.unit,
            [
                Bar(label(outcome, row), best, short(best), row.program.ours)
                for row in outcome.rows
                if (best := row.best(figure.name)) is not None
            ],
        )
        for figure in outcome.workload.figures
    ]


def _status(outcomes: Sequence[Outcome], *, strict: bool) -> int:
    failed = any(row.error for outcome in outcomes for row in outcome.rows)
    missed = any(verdict.word == "MISS" for outcome in outcomes for verdict in verdicts(outcome))
    return int(failed or (strict and missed))
