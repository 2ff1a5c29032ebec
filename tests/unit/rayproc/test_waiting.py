"""Deadlines that lose no cancellation, and calls that hang in threads of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from raycluster_cli.rayproc.waiting import done_within, in_thread, within


@pytest.mark.parametrize("wait", [within, done_within])
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_cancellation_that_comes_with_the_result_is_not_lost(
    wait: Callable[[asyncio.Future[None], float], Awaitable[object]], turns: int
) -> None:
    async def scene() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            await wait(future, 60)
            await asyncio.Event().wait()  # for ever, unless it is cancelled

        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        future.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=30)
        assert task.cancelled()

    asyncio.run(scene())


def test_at_the_deadline_the_work_is_cancelled_and_cleans_up() -> None:
    async def scene() -> list[str]:
        seen: list[str] = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("cleaned up")

        with pytest.raises(asyncio.TimeoutError):
            await within(work(), 0.01)
        return seen

    assert asyncio.run(scene()) == ["cleaned up"]


def test_a_cancelled_wait_cancels_the_work() -> None:
    async def scene() -> None:
        work = asyncio.ensure_future(asyncio.Event().wait())
        task = asyncio.ensure_future(within(work, 60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task, work}, timeout=30)
        assert task.cancelled() and work.cancelled()

    asyncio.run(scene())


def test_results_and_errors_come_through() -> None:
    def fail() -> None:
        raise OSError("no disk")

    async def scene() -> None:
        assert await within(asyncio.sleep(0, "result"), 30) == "result"
        assert await within(in_thread(int, "7"), 30) == 7
        with pytest.raises(OSError, match="no disk"):
            await within(in_thread(fail), 30)

    asyncio.run(scene())


def test_a_call_that_hangs_holds_up_neither_the_wait_nor_the_next_calls_nor_the_end() -> None:
    ever = threading.Event()

    async def scene() -> None:
        hung = [in_thread(ever.wait) for _ in range(50)]  # more than a pool of threads has
        assert not await done_within(hung[0], 0.01)
        assert await within(in_thread(int, "7"), 30) == 7

    asyncio.run(scene())  # returns, though the threads are still there
    ever.set()
