"""What a benchmark is: a workload, its programs, its figures and the targets they are held to."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from attrs import frozen

Backend = Literal["asyncio", "uvloop", "trio"]
BACKENDS: tuple[Backend, ...] = ("asyncio", "uvloop", "trio")

Loop = Literal["any", "asyncio", "trio", "none"]
"""What a program runs on: either backend, asyncio only (uvloop included), trio only, or no loop."""


class WrongResult(Exception):
    """A program finished but what it gave is not what the workload asks for."""


@frozen
class Measured:
    """What a program gives that takes its own times.

    Attributes:
        figures: one value for each figure of the workload, in the unit of that figure.
        results: what the harness checks against ``Workload.expected``, if the workload has it.
    """

    figures: Mapping[str, float]
    results: Any = None


@frozen
class Figure:
    """One quantity a workload measures; the smaller the better.

    Attributes:
        name: the key in ``Measured.figures``; ``"time"`` is taken by the harness itself.
        unit: as printed.
        scale: what the harness multiplies seconds by.
        per_item: whether the harness divides by the number of items.
    """

    name: str = "time"
    unit: str = "µs an item"
    scale: float = 1e6
    per_item: bool = True


PER_ITEM = Figure()
SECONDS = Figure(unit="s", scale=1.0, per_item=False)


@frozen
class Program:
    """One way to do a workload.

    Attributes:
        name: as printed; the name of a target's ``subject`` or ``peer``.
        run: called with the number of items; a function or an async function.
        needs: modules that must be importable, else the program is reported as not installed.
        loop: what it can run on.
        share: the part of the workload's items that it gets; below 1 for programs so slow that
            all items would take minutes. Only for figures that are per item.
        ordered: whether its results come in the order of the items.
    """

    name: str
    run: Callable[[int], Any]
    needs: tuple[str, ...] = ()
    loop: Loop = "any"
    share: float = 1.0
    ordered: bool = True

    @property
    def ours(self) -> bool:
        """Whether this is flowstage."""
        return self.needs[:1] == ("flowstage",)

    def backend(self, wanted: Backend) -> Backend | None:
        """The backend it runs on when ``wanted`` is measured; ``None`` for no event loop."""
        if self.loop == "none":
            return None
        if self.loop == "asyncio" and wanted == "trio":
            return "asyncio"
        if self.loop == "trio":
            return "trio"
        return wanted


@frozen
class Target:
    """What a figure must reach.

    Attributes:
        at_most: the limit.
        peer: the program the subject is compared with; ``None`` holds the value itself.
        subject: the program that is held to the limit.
        figure: which figure.
        relation: ``"ratio"`` to the peer, ``"difference"`` to the peer, or the ``"value"``.
        backends: where the target holds.
        wish: a moonshot, reported but not demanded.
    """

    at_most: float
    peer: str | None = None
    subject: str = "flowstage"
    figure: str = "time"
    relation: Literal["ratio", "difference", "value"] = "ratio"
    backends: tuple[Backend, ...] = BACKENDS
    wish: bool = False


@frozen
class Workload:
    """A task that several programs do, measured side by side.

    Attributes:
        name: what the command line calls it.
        what: one line for the head of its table.
        items: how many in a full run.
        quick_items: how many with ``--quick``.
        programs: in the order of the table; a target's subject is usually the first.
        targets: what flowstage must reach.
        expected: gives the right results for a number of items; ``None`` where each program
            checks its own.
        figures: what is measured.
        warm_up: items of an unmeasured run of each program; 0 for none.
        most_rounds: where more rounds would tell nothing new, how many are enough.
        limit: seconds after which a run on an event loop is given up as hung.
    """

    name: str
    what: str
    items: int
    quick_items: int
    programs: tuple[Program, ...]
    targets: tuple[Target, ...] = ()
    expected: Callable[[int], list[Any]] | None = None
    figures: tuple[Figure, ...] = (PER_ITEM,)
    warm_up: int = 200
    most_rounds: int | None = None
    limit: float = 120.0
