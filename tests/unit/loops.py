"""Event loops of tests: a wait for a time costs none."""

from __future__ import annotations

import asyncio
import functools
import os
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures.thread import _threads_queues as _threads_of_pools
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: No test of the unit suite takes as long; one that hangs fails by this.
DEADLINE_S = 60.0


#: How often it is looked whether a thread or child process still runs: not all that end wake the loop.
AGAIN_S = 0.005


class _Selector(selectors.DefaultSelector):
    """Waits only for what can happen: without anything outside the loop, the time to wait for is skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped_s = 0.0
        self.calls = 0
        """Under way in pools of threads."""
        self.own_files = 0
        self._threads_before = set(threading.enumerate())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or self._is_watched():
            return super().select(timeout)
        if self._threads() or _children():
            return super().select(min(timeout, AGAIN_S))
        found = super().select(0)
        if not found:
            self.skipped_s += timeout
        return found

    def _is_watched(self) -> bool:
        """Whether something is waited for that wakes the loop: a connection, a pipe, a call in a pool."""
        return self.calls > 0 or len(self.get_map()) > self.own_files

    def _threads(self) -> bool:
        return any(
            thread not in self._threads_before and thread not in _threads_of_pools
            for thread in threading.enumerate()
        )


def _children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when only timers are waited for.

    While something outside the loop may still happen (a call in a thread, a connection, a child process), it
    waits as any loop does.  So what a test sees depends neither on the machine's load nor on the length of
    its waits, which can be those of real use.
    """

    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)
        self._waits.own_files = len(self._waits.get_map())

    def time(self) -> float:
        return super().time() + self._waits.skipped_s

    def skip(self, seconds: float) -> None:
        """Let so much time have passed, for a time-out of what is waited for outside."""
        self._waits.skipped_s += seconds

    @property
    def is_calling(self) -> bool:
        """Whether a call in a pool of threads is under way."""
        return self._waits.calls > 0

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        self._waits.calls += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._returned)
        return future

    def _returned(self, future: asyncio.Future[Any]) -> None:
        self._waits.calls -= 1


def skip(seconds: float) -> None:
    """:meth:`SkippingLoop.skip` of the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.skip(seconds)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in a :class:`SkippingLoop`."""
    loop = SkippingLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def in_loop(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a test in an event loop of its own, with a deadline."""

    @functools.wraps(test)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        async def within_deadline() -> T:
            task = asyncio.ensure_future(test(*args, **kwargs))
            done, _ = await asyncio.wait({task}, timeout=DEADLINE_S)
            assert done, f"still running after {DEADLINE_S:g} s"
            return await task

        return run_loop(within_deadline())

    return limited
