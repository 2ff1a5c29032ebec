"""Waits with a deadline: results, time-outs, and a cancel that arrives at the worst moment."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.system.waiting import done_within, find_within, set_within, within
from tests.unit.loops import in_loop

Wait = Callable[["asyncio.Future[str]"], Awaitable[Any]]

WAITS: dict[str, Wait] = {
    "within": lambda future: within(future, 5.0),
    "done_within": lambda future: done_within(future, 5.0),
}


async def outcome_of_race(wait: Wait) -> str:
    """Complete what a task waits for and cancel the task, in one iteration of the loop."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waiter() -> str:
        await wait(future)
        return "went on"

    task = asyncio.ensure_future(waiter())
    for _ in range(5):  # until it waits
        await asyncio.sleep(0)
    future.set_result("done")
    await asyncio.sleep(0)  # its callbacks have run; the task has not
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5.0)
    return "hangs" if not done else "cancelled" if task.cancelled() else task.result()


@pytest.mark.parametrize("name", WAITS)
@in_loop
async def test_a_cancel_that_comes_with_the_result_is_not_lost(name: str) -> None:
    assert await outcome_of_race(WAITS[name]) == "cancelled"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="fixed in Python 3.12")
@in_loop
async def test_the_race_is_real() -> None:
    assert await outcome_of_race(lambda future: asyncio.wait_for(future, 5.0)) == "went on"


@in_loop
async def test_results_and_errors_are_handed_on() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    assert await within(asyncio.sleep(0, 7), 5.0) == 7
    with pytest.raises(ValueError, match="broken"):
        await within(fail(), 5.0)


@in_loop
async def test_after_the_time_the_work_is_cancelled_and_has_ended() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    with pytest.raises(asyncio.TimeoutError):
        await within(work(), 0.0)
    assert steps == ["cleaned up"]


@in_loop
async def test_a_result_that_comes_while_it_is_being_cancelled_counts() -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "just in time"
        return ""

    assert await within(work(), 0.0) == "just in time"


@in_loop
async def test_a_cancelled_caller_leaves_no_work_behind() -> None:
    started, steps = asyncio.Event(), []

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    task = asyncio.ensure_future(within(work(), 5.0))
    await started.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert steps == ["cleaned up"]


@in_loop
async def test_done_within_leaves_the_future_alone() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert not await done_within(future, 0.0)
    assert not future.done()
    future.set_result(None)
    assert await done_within(future, 0.0)


@in_loop
async def test_set_within() -> None:
    event = asyncio.Event()
    assert not await set_within(event, 0.0)
    asyncio.get_running_loop().call_soon(event.set)
    assert await set_within(event, 5.0)
    assert await set_within(event, 0.0)


@in_loop
async def test_a_directory_in_path_that_does_not_respond() -> None:
    released = threading.Event()
    try:
        with pytest.raises(RayclusterError, match=r"squeue was not found within 0.01 s: a directory in PATH"):
            await find_within("squeue", {}, timeout_s=0.01, find=lambda name, env: str(released.wait(60)))
    finally:
        released.set()
    assert await find_within("sh", {"PATH": "/bin"}) == "/bin/sh"
