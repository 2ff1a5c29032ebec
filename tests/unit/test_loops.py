"""The event loop of tests skips waits for a time, and no others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from raycluster_cli.system.waiting import call_within
from tests.unit.loops import run_loop

LONG_S = 3600.0


def test_timers_fire_in_their_order_at_their_time() -> None:
    fired: list[tuple[str, float]] = []

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def one(name: str, wait_s: float) -> None:
            await asyncio.sleep(wait_s)
            fired.append((name, loop.time() - began))

        await asyncio.gather(one("b", LONG_S), one("a", 60.0), one("c", LONG_S + 0.5))

    began = time.monotonic()
    run_loop(wait())
    assert time.monotonic() - began < 60
    assert fired == [
        ("a", pytest.approx(60.0, abs=10)),
        ("b", pytest.approx(LONG_S, abs=10)),
        ("c", pytest.approx(LONG_S + 0.5, abs=10)),
    ]


async def in_a_thread() -> None:
    await call_within(LONG_S, time.sleep, 0.02)


async def in_a_pool() -> None:
    await asyncio.wait_for(asyncio.to_thread(time.sleep, 0.02), LONG_S)


async def in_a_child() -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, ended.set)
    with subprocess.Popen(["sleep", "0.02"]):  # noqa: ASYNC220  # Reaper does so too
        await asyncio.wait_for(ended.wait(), LONG_S)
    loop.remove_signal_handler(signal.SIGCHLD)


@pytest.mark.parametrize("work", [in_a_thread, in_a_pool, in_a_child])
def test_what_happens_outside_is_waited_for(work: Callable[[], Awaitable[None]]) -> None:
    async def wait() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await work()
        return loop.time() - began

    assert run_loop(wait()) < LONG_S


def test_a_pipe_is_waited_for() -> None:
    """By itself: the thread that writes is none of the loop's."""
    reads, writes = os.pipe()
    wanted = threading.Event()
    writer = threading.Thread(target=lambda: (wanted.wait(60), time.sleep(0.02), os.write(writes, b"x")))
    writer.start()

    async def wait() -> None:
        came = asyncio.Event()
        asyncio.get_running_loop().add_reader(reads, came.set)
        wanted.set()
        await asyncio.wait_for(came.wait(), LONG_S)
        asyncio.get_running_loop().remove_reader(reads)

    run_loop(wait())
    writer.join()
    for fd in (reads, writes):
        os.close(fd)


def test_a_call_that_hangs_times_out_as_in_any_loop() -> None:
    released = threading.Event()

    async def hang() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await call_within(0.01, released.wait, 60)

    began = time.monotonic()
    try:
        run_loop(hang())
    finally:
        released.set()
    assert 0.01 <= time.monotonic() - began < 60


def test_tasks_left_over_are_cancelled() -> None:
    cancelled = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async def leave() -> None:
        left.append(asyncio.ensure_future(forever()))
        await asyncio.sleep(0)

    left: list[asyncio.Future[None]] = []
    run_loop(leave())
    assert cancelled == [True]
