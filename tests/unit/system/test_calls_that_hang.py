"""Calls that can block, with a deadline: their results, their errors, and threads that hang."""

from __future__ import annotations

import asyncio
import threading

import pytest

from raycluster_cli.system.waiting import call_within

LONG_S = 60.0


def test_results_and_errors_come_back() -> None:
    def fails() -> None:
        raise ValueError("no")

    async def work() -> None:
        assert await call_within(LONG_S, divmod, 7, 2) == (3, 1)
        with pytest.raises(ValueError, match="no"):
            await call_within(LONG_S, fails)

    asyncio.run(work())


def test_a_call_that_hangs_is_left_alone_and_others_still_run() -> None:
    gate = threading.Event()

    async def work() -> None:
        hanging = [asyncio.ensure_future(call_within(0.05, gate.wait, LONG_S)) for _ in range(50)]
        assert await call_within(LONG_S, divmod, 7, 2) == (3, 1)
        for one in hanging:
            with pytest.raises(asyncio.TimeoutError):
                await one

    try:
        asyncio.run(work())
    finally:
        gate.set()


def test_cancelling_ends_the_wait_at_once() -> None:
    gate = threading.Event()

    async def work() -> None:
        waiting = asyncio.ensure_future(call_within(LONG_S, gate.wait, LONG_S))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    try:
        asyncio.run(work())
    finally:
        gate.set()
