"""Tells what was measured: as text, as Markdown, as data."""

from collections.abc import Iterator, Sequence

from attrs import frozen

from benchmarks.machine import caption
from benchmarks.measure import Outcome, Row
from benchmarks.model import Figure, Target

HEADS = ("program", "best", "median", "flowstage is")


@frozen
class Verdict:
    """A target and what was reached."""

    target: Target
    reached: float | None
    text: str

    @property
    def word(self) -> str:
        """``pass``, ``miss``, or why neither."""
        if self.reached is None:
            return "not measured"
        if self.reached <= self.target.at_most:
            return "pass"
        return "not yet" if self.target.wish else "MISS"


def verdicts(outcome: Outcome) -> list[Verdict]:
    """The targets that hold on the backend measured, with what was reached."""
    return [
        _verdict(outcome, target)
        for target in outcome.workload.targets
        if outcome.backend in target.backends
    ]


def _verdict(outcome: Outcome, target: Target) -> Verdict:
    reached = outcome.reached(target)
    figure = next(one for one in outcome.workload.figures if one.name == target.figure)
    subject = target.subject
    if len(outcome.workload.figures) > 1:
        subject += f" ({figure.name})"
    unit = figure.unit.split(",")[0].split()[0]
    limit, got = {
        "ratio": (f"{target.at_most:g} x {target.peer}", times(reached or 0)),
        "difference": (
            f"{target.at_most:g} {unit} above {target.peer}",
            f"{reached or 0:+.2f} {unit}",
        ),
        "value": (f"{target.at_most:g} {unit}", f"{short(reached or 0)} {unit}"),
    }[target.relation]
    wish = "moonshot" if target.wish else "target"
    is_at = "" if reached is None else f": {got}"
    return Verdict(target, reached, f"{wish}: {subject} at most {limit}{is_at}")


def headline(outcome: Outcome) -> str:
    """What a table is about."""
    rounds = "1 round" if outcome.rounds == 1 else f"best of {outcome.rounds} rounds"
    return f"{outcome.workload.what}; {outcome.items:,} items, {outcome.backend}, {rounds}"


def lines_of(outcome: Outcome, figure: Figure) -> list[tuple[str, str, str, str]]:
    """The rows of a table: program, best, median, ratio of flowstage to it."""
    return [_line(outcome, figure, row) for row in outcome.rows]


def _line(outcome: Outcome, figure: Figure, row: Row) -> tuple[str, str, str, str]:
    name = label(outcome, row)
    best, middle = row.best(figure.name), row.middle(figure.name)
    if best is None or middle is None:
        return name, "-", "-", row.error or row.absent or "not measured"
    ratio = ours_to(outcome, figure, row)
    return name, short(best), short(middle), "" if ratio is None else times(ratio)


def label(outcome: Outcome, row: Row) -> str:
    """A program's name, with the backend where it is not the one asked for."""
    if row.backend in (None, outcome.backend):
        return row.program.name
    return f"{row.program.name} ({row.backend})"


def ours_to(outcome: Outcome, figure: Figure, row: Row) -> float | None:
    """How many times as long flowstage took as this program, ``None`` for flowstage itself."""
    ours = outcome.row("flowstage")
    if ours is None or row.program.ours:
        return None
    mine, theirs = ours.best(figure.name), row.best(figure.name)
    return mine / theirs if mine is not None and theirs else None


def times(ratio: float) -> str:
    """A ratio."""
    return f"{ratio:.2f} x" if ratio >= 0.1 else f"{ratio:.3f} x"


def short(value: float) -> str:
    """Three figures, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def as_text(outcome: Outcome) -> str:
    """Tables for a terminal."""
    lines = [outcome.workload.name, headline(outcome)]
    for figure in outcome.workload.figures:
        rows = lines_of(outcome, figure)
        width = max(len(figure.unit), *(len(row[0]) for row in rows))
        lines += ["", f"  {figure.unit:<{width}}  {'best':>9} {'median':>9}  flowstage is"]
        lines += [
            f"  {name:<{width}}  {best:>9} {middle:>9}  {ratio}"
            for name, best, middle, ratio in rows
        ]
    lines.append("")
    lines += [f"  {verdict.text}  {verdict.word}" for verdict in verdicts(outcome)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_markdown(outcomes: Sequence[Outcome], found: dict[str, object]) -> str:
    """A section for each workload."""
    return "\n".join([f"Measured with {caption(found)}.", "", *_sections(outcomes)])


def _sections(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        yield f"### `{outcome.workload.name}` on {outcome.backend}\n"
        yield headline(outcome)[:1].upper() + headline(outcome)[1:] + ".\n"
        for figure in outcome.workload.figures:
            yield f"| {figure.unit} | best | median | flowstage is |"
            yield "|---|---:|---:|---:|"
            for line in lines_of(outcome, figure):
                yield "| " + " | ".join(line) + " |"
            yield ""
        for verdict in verdicts(outcome):
            yield f"- {verdict.text} - **{verdict.word}**"
        yield ""


def as_data(outcomes: Sequence[Outcome], found: dict[str, object]) -> dict[str, object]:
    """Everything, every sample included."""
    return {"machine": found, "workloads": [_data(outcome) for outcome in outcomes]}


def _data(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.workload.name,
        "what": outcome.workload.what,
        "backend": outcome.backend,
        "items": outcome.items,
        "rounds": outcome.rounds,
        "units": {figure.name: figure.unit for figure in outcome.workload.figures},
        "programs": [
            {
                "name": row.program.name,
                "backend": row.backend,
                "samples": row.samples,
                "best": {name: row.best(name) for name in row.samples},
                "absent": row.absent,
                "error": row.error,
            }
            for row in outcome.rows
        ],
        "targets": [
            {"text": verdict.text, "reached": verdict.reached, "verdict": verdict.word}
            for verdict in verdicts(outcome)
        ],
    }
