"""Counters and the small histogram that a run keeps for each stage.

Everything here is a plain number, changed by the one task that does the work and read by whoever asks
for a report. Law 6 is an identity of these counters: what was taken and has not ended is in hand.
"""

from __future__ import annotations

import math

_PER_OCTAVE = 8
_NANO = 1e9


class Histogram:
    """Durations in buckets of a geometric series, 8 to the octave: percentiles within 5 %."""

    __slots__ = ("buckets", "count", "high", "low", "total")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.low = math.inf
        self.high = 0.0

    def record(self, seconds: float, weight: int = 1) -> None:
        """Count a duration, standing for `weight` of its like."""
        key = int(math.log2(seconds * _NANO) * _PER_OCTAVE) if seconds > 1e-9 else 0
        self.buckets[key] = self.buckets.get(key, 0) + weight
        self.count += weight
        self.total += seconds * weight
        if seconds < self.low:
            self.low = seconds
        if seconds > self.high:
            self.high = seconds

    def percentile(self, share: float) -> float:
        """Give the duration that `share` (0 to 1) of the calls did not exceed, in seconds."""
        if not self.count:
            return 0.0
        rest = share * self.count
        for key in sorted(self.buckets):
            rest -= self.buckets[key]
            if rest <= 0:
                middle: float = 2.0 ** ((key + 0.5) / _PER_OCTAVE) / _NANO
                return min(max(middle, self.low), self.high)
        return self.high


class Tally:
    """The account of one stage."""

    __slots__ = (
        "blocked",
        "busy",
        "calls",
        "discarded",
        "done",
        "failed",
        "filtered",
        "given",
        "held_loop",
        "name",
        "retries",
        "sampled",
        "skipped",
        "taken",
        "waiting",
        "working",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken = self.done = self.filtered = self.skipped = 0
        self.failed = self.discarded = self.given = self.retries = 0
        self.waiting = self.blocked = self.busy = self.held_loop = 0.0
        self.calls = Histogram()
        self.sampled = False  # whether `calls` holds a sample of the calls, and busy an estimate
        self.working: dict[object, tuple[float, object]] = {}  # calls that may wait, by token

    @property
    def in_hand(self) -> int:
        """Items taken that have not ended."""
        ended = self.done + self.filtered + self.skipped + self.failed + self.discarded
        return self.taken - ended

    def let_go(self) -> int:
        """Count everything in hand as discarded."""
        count = self.in_hand
        self.discarded += count
        return count
