"""The graph of a run, drawn with the figures of the moment."""

from __future__ import annotations

from typing import Any

from ._account import report_of
from ._draw import Drawing
from ._live import Live
from ._report import Report, StageReport


class RunGraph:
    """A view of a live graph: each drawing carries the figures of the moment at which it is made.

    Beside a stage stands how many results a second it has given on average (a `gather` gives rows, a
    `batch` batches), and how many items failed or were skipped, if any; beside an edge, how many items
    it holds of how many it can hold. When the run is over, the figures are those of the whole run.
    """

    def __init__(self, live: Live) -> None:
        self._live = live

    def __repr__(self) -> str:
        return f"<RunGraph of {len(self._live.topology.nodes)} stages>"

    @property
    def bound(self) -> int:
        """The most items that this run can hold at once, with the `buffer` it was opened with."""
        return self._live.plan.bound

    def __str__(self) -> str:
        return self._drawing().tree()

    def to_mermaid(self) -> str:
        """Draw as Mermaid source."""
        return self._drawing().mermaid()

    def to_dot(self) -> str:
        """Draw as Graphviz source."""
        return self._drawing().dot()

    def to_svg(self) -> str:
        """Draw as an SVG picture that suits light and dark pages."""
        return self._drawing().svg()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": str(self), "image/svg+xml": self.to_svg()}

    def _drawing(self) -> Drawing:
        return Drawing(self._live.topology, figures_of(self._live, report_of(self._live)))


def figures_of(live: Live, report: Report) -> dict[str | int, str]:
    """Give what to write beside the stages, by name, and beside the edges, by number."""
    figures: dict[str | int, str] = {
        stage.name: _stage(stage, report.elapsed) for stage in report.stages
    }
    for planned, edge in live.edges.items():
        figures[planned.edge.index] = f"{edge.inside}/{edge.capacity}"
    return figures


def _stage(stage: StageReport, elapsed: float) -> str:
    given = stage.given / elapsed if elapsed > 0 else 0.0
    parts = [f"{rate(given)}/s"]
    parts += [f"{stage.failed} failed"] if stage.failed else []
    parts += [f"{stage.skipped} skipped"] if stage.skipped else []
    return ", ".join(parts)


def rate(value: float) -> str:
    """Write a number of items a second in few characters."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
