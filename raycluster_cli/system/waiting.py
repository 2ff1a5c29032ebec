"""Waits with a deadline that never lose a cancellation.

On Python 3.10 and 3.11 :func:`asyncio.wait_for` returns the result, and drops the cancellation, when the
cancel arrives in the same iteration of the loop in which the awaited thing completes (python/cpython#86296,
fixed in 3.12).  The task that was cancelled then goes on, and whoever cancelled it waits for its end in vain.
These functions are built on :func:`asyncio.wait`, which raises the cancellation in every case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def within(timeout_s: float, awaitable: Awaitable[T]) -> T:
    """The result of ``awaitable``, which gets ``timeout_s`` seconds.

    Raises what it raises, and asyncio.TimeoutError when the time is over: it is then cancelled, and has ended
    when this function returns.  The same happens when the caller is cancelled; a result that came at that
    moment is dropped then, an exception goes to the loop's exception handler.  To wait for something that
    others use too, see :func:`done_within`.

    >>> asyncio.run(within(1.0, asyncio.sleep(0, "slept")))
    'slept'
    """
    future = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({future}, timeout=timeout_s)
        if future.done():
            return future.result()
    except asyncio.CancelledError:
        await _cancel(future)
        raise
    await _cancel(future)
    if future.cancelled():
        raise asyncio.TimeoutError
    return future.result()  # it ended all the same, while it was being cancelled


async def _cancel(future: asyncio.Future[Any]) -> None:
    """Cancel it and wait for its end."""
    if future.cancel():
        await asyncio.wait({future})


async def done_within(timeout_s: float, future: asyncio.Future[Any]) -> bool:
    """Whether ``future`` is done within ``timeout_s`` seconds; it is left alone if not."""
    await asyncio.wait({future}, timeout=timeout_s)
    return future.done()


async def set_within(timeout_s: float, event: asyncio.Event) -> bool:
    """Whether ``event`` is set within ``timeout_s`` seconds."""
    if event.is_set():
        return True
    try:
        return await within(timeout_s, event.wait())
    except asyncio.TimeoutError:
        return False
