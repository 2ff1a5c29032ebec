"""Background work: no exception is lost, guards come back, a cancellation that got lost is repeated."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from raycluster_cli.supervisor.tasks import GUARD_TRIES, Tasks, cancel
from tests.unit.loops import run_loop


class Seen:
    """What a Tasks tells, and the rests that it takes."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []
        self.restarted: list[tuple[str, str]] = []
        self.rests: list[float] = []

    def tasks(self) -> Tasks:
        return Tasks(
            lambda name, error: self.failed.append((name, repr(error))),
            lambda name, error: self.restarted.append((name, repr(error))),
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        await asyncio.sleep(0)


def play(test: Callable[[Seen], Awaitable[None]]) -> Seen:
    seen = Seen()

    async def bounded() -> None:
        task = asyncio.ensure_future(test(seen))
        await asyncio.wait({task}, timeout=30)
        assert task.done(), "it hangs"
        task.result()

    run_loop(bounded())
    return seen


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_task_that_fails_is_told_by_name() -> None:
    async def fail() -> None:
        raise ValueError("no")

    async def test(seen: Seen) -> None:
        seen.tasks().start("reading", fail())
        await until(lambda: seen.failed)

    assert play(test).failed == [("reading", "ValueError('no')")]


def test_a_guard_is_started_again_and_told_each_time() -> None:
    calls = []

    async def watch() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            raise OSError(f"call {len(calls)}")

    async def test(seen: Seen) -> None:
        await seen.tasks().guard("the watch", watch)

    seen = play(test)
    assert calls == [0, 1, 2]
    assert seen.restarted == [("the watch", "OSError('call 1')"), ("the watch", "OSError('call 2')")]
    assert seen.rests == [0.25, 0.5]
    assert seen.failed == []


def test_a_guard_that_goes_on_failing_fails_for_good() -> None:
    calls = []

    async def watch() -> None:
        calls.append(None)
        raise OSError("always")

    async def test(seen: Seen) -> None:
        await seen.tasks().guard("the watch", watch)

    seen = play(test)
    assert len(calls) == GUARD_TRIES
    assert seen.failed == [("the watch", "OSError('always')")]
    assert len(seen.restarted) == GUARD_TRIES - 1


def test_a_guard_that_is_not_vital_ends_nothing() -> None:
    calls = []

    async def watch() -> None:
        calls.append(None)
        if len(calls) <= GUARD_TRIES + 2:
            raise OSError("for long")

    async def test(seen: Seen) -> None:
        await seen.tasks().guard("what is in use", watch, vital=False)

    seen = play(test)
    assert len(calls) == GUARD_TRIES + 3
    assert seen.failed == []
    assert len(seen.restarted) == GUARD_TRIES + 2


def test_close_cancels_all_and_starts_nothing_more() -> None:
    ended = []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def test(seen: Seen) -> None:
        tasks = seen.tasks()
        tasks.start("one", forever("one"))
        tasks.guard("two", lambda: forever("two"))
        await asyncio.sleep(0)
        assert await tasks.close() == []
        late = tasks.start("late", forever("late"))
        await asyncio.wait({late})

    assert sorted(name for name in play(test).failed) == []
    assert sorted(ended) == ["one", "two"]


def test_what_is_cancelled_before_it_begins_leaves_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    """Python would write one into the job's output: a coroutine was never awaited."""
    began = []

    async def work() -> None:
        began.append(None)

    async def test(seen: Seen) -> None:
        tasks = seen.tasks()
        tasks.start("work", work())
        await tasks.close()
        tasks.start("more work", work())
        await tasks.close()

    play(test)
    gc.collect()
    assert began == []
    assert [str(warning.message) for warning in recwarn] == []


def test_a_lost_cancellation_is_repeated() -> None:
    """As asyncio.wait_for of Python 3.10 and 3.11 loses one: the first is swallowed."""
    cancelled = []

    async def swallows_one() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
        await asyncio.Event().wait()

    async def test(seen: Seen) -> None:
        task = asyncio.ensure_future(swallows_one())
        await asyncio.sleep(0)
        assert await cancel([task], timeout_s=20)
        assert task.cancelled()

    play(test)
    assert cancelled == [1]


def test_what_cannot_be_cancelled_is_named() -> None:
    async def stubborn(stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                continue

    async def test(seen: Seen) -> None:
        stop = asyncio.Event()
        task = asyncio.ensure_future(stubborn(stop))
        await asyncio.sleep(0)
        assert not await cancel([task], timeout_s=0.05)
        stop.set()
        await asyncio.wait({task})

    play(test)


def test_cancel_of_what_has_ended() -> None:
    async def test(seen: Seen) -> None:
        task = asyncio.ensure_future(asyncio.sleep(0))
        await task
        assert await cancel([task])
        assert await cancel([])

    play(test)
