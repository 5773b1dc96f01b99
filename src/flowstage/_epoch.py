"""The epoch of a run and the work that belongs to it.

An interrupt ends one epoch and begins the next. Everything that works for an epoch does so inside a
`work()` scope, which the interrupt cancels, and looks at `number` after every wait: an item that was
taken in an older epoch is let go without a word, because the interrupt has settled its account.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from anyio import CancelScope


class Flushed(Exception):
    """The epoch changed during a wait; what was in hand is no longer wanted."""


class Epoch:
    """What an interrupt counts up and cancels."""

    def __init__(self) -> None:
        self.number = 0
        self.began = perf_counter()
        self._scopes: set[CancelScope] = set()

    def advance(self) -> None:
        """Begin the next epoch: everything at work for the last one is cancelled."""
        self.number += 1
        self.began = perf_counter()
        scopes, self._scopes = self._scopes, set()
        for scope in scopes:
            scope.cancel()

    @contextmanager
    def work(self, among: set[CancelScope] | None = None) -> Iterator[CancelScope]:
        """Enclose work that an interrupt cancels; leaves normally when one did.

        Args:
            among: where the scope is kept meanwhile, for somebody else who may cancel it.
        """
        with CancelScope() as scope:
            self._scopes.add(scope)
            if among is not None:
                among.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)
                if among is not None:
                    among.discard(scope)

    def check(self, number: int) -> None:
        """Let go of work that was begun in an older epoch.

        Raises:
            Flushed: `number` is not the running epoch's.
        """
        if number != self.number:
            raise Flushed
