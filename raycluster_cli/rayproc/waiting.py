"""Waits that end at a deadline and never lose a cancellation; calls that may hang, each in its own thread.

asyncio.wait_for does lose one before Python 3.12: a task that is cancelled in the same turn of the loop in
which its future completes goes on with the result, and whoever cancelled it waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def within(awaitable: Awaitable[T], timeout_s: float) -> T:
    """The result of ``awaitable``.  Raises asyncio.TimeoutError at the deadline, after cancelling it.

    A coroutine gets to clean up before that.  For a future that others wait for, see :func:`done_within`.
    """
    future = asyncio.ensure_future(awaitable)
    try:
        if not await done_within(future, timeout_s):
            future.cancel()
            await asyncio.wait({future})
            if future.cancelled():
                raise asyncio.TimeoutError
        return future.result()
    finally:
        future.cancel()  # when we are cancelled ourselves; nothing happens to one that is done


async def done_within(future: asyncio.Future[Any], timeout_s: float) -> bool:
    """Whether the future is done within the time.  It goes on if not, and its exception is not raised."""
    await asyncio.wait({future}, timeout=max(timeout_s, 0.0))
    return future.done()


def in_thread(call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """The result of a call that may hang: on a file system, a name server.  For a running event loop.

    In a thread of its own, which nothing waits for: a hung call takes no place in a pool of threads, and does
    not keep the process from ending.  It takes 0.1 ms.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def report(settle: Callable[[Any], None], value: object) -> None:
        def now() -> None:
            if not future.done():  # nobody waits for it any longer
                settle(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(now)

    def work() -> None:
        try:
            result = call(*args)
        except BaseException as error:
            report(future.set_exception, error)
        else:
            report(future.set_result, result)

    threading.Thread(target=work, name=getattr(call, "__name__", "call"), daemon=True).start()
    return future
