"""Several calls at once: counter-examples that were found."""

from __future__ import annotations

import pytest

from flowstage import source


async def same(item: int) -> int:
    return item


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
async def test_workers_that_all_run_dry_are_called_again(ordered: bool) -> None:
    """Workers that were all busy while the inlet ran empty do not leave it unread."""
    for _ in range(3):
        found = await source(range(3000)).map(same, concurrency=100, ordered=ordered).collect()
        assert sorted(found) == list(range(3000))
