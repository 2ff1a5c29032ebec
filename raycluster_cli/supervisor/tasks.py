"""All background work of a run, so that no exception in it is lost and no cancellation is.

A *task* runs once.  A *guard* watches something for as long as the run lasts: it is started again when it
fails, and only a guard that goes on failing ends the run.  Python 3.10 has no TaskGroup, and the one of 3.11
ends everything at the first exception, which would end a cluster that works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

#: How often a guard may fail, and the rest before it is started again, doubled each time.
GUARD_TRIES, GUARD_REST_S = 4, 0.25

#: A guard that worked for this long may fail as often again.
GUARD_WORKED_S = 60.0

#: When a task that was cancelled and goes on is cancelled again.
CANCEL_AGAIN_S = 0.5

#: How long tasks get to end once they are cancelled.
CANCEL_WAIT_S = 10.0


async def cancel(tasks: Collection[asyncio.Future[Any]], timeout_s: float = CANCEL_WAIT_S) -> bool:
    """Cancel tasks and wait until all have ended; False when some have not after ``timeout_s``.

    A task can lose a cancellation: `asyncio.wait_for` of Python 3.10 and 3.11 returns its result instead when
    the future completes in the same moment.  So those that go on are cancelled again.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    left = {task for task in tasks if not task.done()}
    while left and loop.time() < deadline:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=min(CANCEL_AGAIN_S, max(deadline - loop.time(), 0.01)))
    return not left


class Tasks:
    """The background work of one run."""

    def __init__(
        self,
        on_failure: Callable[[str, Exception], None],
        on_restart: Callable[[str, Exception], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``on_failure(name, error)``: a task failed, or a guard for the last time.  ``on_restart``: a guard
        failed and is started again."""
        self._on_failure = on_failure
        self._on_restart = on_restart
        self._sleep = sleep
        self._running: dict[asyncio.Task[None], str] = {}
        self._closed = False

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run something once, in the background."""
        task = self._run(name, self._once(name, work))
        # Python warns of one that was cancelled before it began.
        task.add_done_callback(lambda _: work.close())
        return task

    def guard(
        self, name: str, watch: Callable[[], Coroutine[Any, Any, object]], *, vital: bool = True
    ) -> asyncio.Task[None]:
        """Run a guard: ``watch`` makes a new coroutine for each try.  A guard that returns is finished.

        A guard that is not ``vital`` never ends the run: it is started again for as long as it takes.
        """
        return self._run(name, self._watch(name, watch, vital))

    async def close(self) -> list[str]:
        """Cancel what runs and wait for it; nothing is started after this.  Returns what did not end."""
        self._closed = True
        await cancel(list(self._running))
        return sorted(self._running.values())

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._running[task] = name
        task.add_done_callback(self._ended)
        if self._closed:
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)

    async def _once(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except Exception as error:
            self._on_failure(name, error)

    async def _watch(self, name: str, watch: Callable[[], Coroutine[Any, Any, object]], vital: bool) -> None:
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            began = loop.time()
            try:
                await watch()
                return
            except Exception as error:
                tries = 1 if loop.time() - began > GUARD_WORKED_S else tries + 1
                if tries >= GUARD_TRIES and vital:
                    self._on_failure(name, error)
                    return
                self._on_restart(name, error)
            await self._sleep(min(GUARD_REST_S * 2 ** (tries - 1), GUARD_WORKED_S))
