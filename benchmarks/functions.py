"""What the trivial workloads compute: three steps, plain and async, and their right results."""

from collections.abc import Awaitable, Callable


def plus_one(number: int) -> int:
    """The first step."""
    return number + 1


def double(number: int) -> int:
    """The second step."""
    return number * 2


def minus_three(number: int) -> int:
    """The third step."""
    return number - 3


async def plus_one_async(number: int) -> int:
    """The first step, as an async function; does not checkpoint."""
    return number + 1


async def double_async(number: int) -> int:
    """The second step, as an async function; does not checkpoint."""
    return number * 2


async def minus_three_async(number: int) -> int:
    """The third step, as an async function; does not checkpoint."""
    return number - 3


def after_three(items: int) -> list[int]:
    """The results of the three steps for the numbers below ``items``."""
    return [(number + 1) * 2 - 3 for number in range(items)]


Step = Callable[[int], Awaitable[int]]
STEPS: tuple[Step, ...] = (plus_one_async, double_async, minus_three_async)
