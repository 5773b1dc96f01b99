"""Tuples of the latest item of every flow."""

from __future__ import annotations

from flowstage import Input, Sentinel, zip_latest

from .accounts import check_accounts, settle, soon


async def test_whenever_one_changes() -> None:
    a, b = Input[int]("a"), Input[str]("b")
    with soon():
        async with zip_latest(a, b).open() as run:
            for to, item in [(a, 1), (a, 2), (b, "x"), (a, 3), (b, "y")]:
                await run.send(item, to=to)
                await settle()
            run.finish(to=a)
            await settle()
            await run.send("z", to=b)
            run.finish()
            assert [row async for row in run] == [(2, "x"), (3, "x"), (3, "y"), (3, "z")]
        check_accounts(run.report(), over=True)


async def test_nothing_before_all_have_given_something() -> None:
    a, b = Input[int]("a"), Input[int]("b")
    assert await zip_latest(a, b).collect({a: range(5), b: []}) == []


async def test_an_interrupt_forgets_what_was_latest() -> None:
    a, b = Input[int]("a"), Input[int]("b")
    with soon():
        async with zip_latest(a, b).open() as run:
            await run.send(1, to=a)
            await settle()
            run.interrupt()
            await run.send(2, to=b)
            await settle()
            await run.send(3, to=a)
            run.finish()
            assert [row async for row in run] == [(3, 2)]


async def test_sentinels_are_aligned() -> None:
    a, b = Input[int]("a"), Input[int]("b")
    with soon():
        async with zip_latest(a, b).open() as run:
            await run.send(1, to=a)
            await run.send(1, to=b)
            await run.send_sentinel("s")
            await run.send(2, to=b)
            run.finish()
            assert [event async for event in run.events()] == [(1, 1), Sentinel("s"), (1, 2)]
