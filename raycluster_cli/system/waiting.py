"""Waits with a deadline that never lose a cancellation; calls that may hang, each in a thread of its own.

On Python 3.10 and 3.11 :func:`asyncio.wait_for` returns the result, and drops the cancellation, when the
cancel arrives in the same iteration of the loop in which the awaited thing completes (python/cpython#86296,
fixed in 3.12).  The cancelled task then goes on, and the one that cancelled it waits forever.
These functions are built on :func:`asyncio.wait`, which raises the cancellation in every case.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ..model.errors import RayclusterError
from .programs import find_program

#: How long the file systems of PATH may take to say which file a program is.
FIND_S = 30.0

T = TypeVar("T")


async def within(awaitable: Awaitable[T], timeout_s: float) -> T:
    """The result of ``awaitable``, which gets ``timeout_s`` seconds.

    Raises what it raises, and asyncio.TimeoutError when the time is over: it is then cancelled, and has ended
    when this function returns.  The same happens when the caller is cancelled; a result that came at that
    moment is dropped then, an exception goes to the loop's exception handler.  To wait for something that
    others use too, see :func:`done_within`.

    >>> asyncio.run(within(asyncio.sleep(0, "slept"), 1.0))
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


async def done_within(future: asyncio.Future[Any], timeout_s: float) -> bool:
    """Whether ``future`` is done within ``timeout_s`` seconds; it is left alone if not."""
    await asyncio.wait({future}, timeout=max(timeout_s, 0.0))
    return future.done()


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether ``event`` is set within ``timeout_s`` seconds."""
    if event.is_set():
        return True
    try:
        return await within(event.wait(), timeout_s)
    except asyncio.TimeoutError:
        return False


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


async def call_within(timeout_s: float, call: Callable[..., T], *args: Any) -> T:
    """The result of a call that may hang.  Raises asyncio.TimeoutError when it has not returned in time.

    The thread then stays until the call returns; it does not keep the process from ending.
    """
    return await within(in_thread(call, *args), timeout_s)


async def find_within(
    name: str,
    env: Mapping[str, str],
    *,
    timeout_s: float = FIND_S,
    find: Callable[[str, Mapping[str, str]], str | None] = find_program,
) -> str | None:
    """The file that a shell runs for ``name`` (:func:`.programs.find_program`); None when there is none.

    Raises RayclusterError when a file system does not respond.
    """
    try:
        return await call_within(timeout_s, find, name, env)
    except asyncio.TimeoutError:
        raise RayclusterError(
            f"{name} was not found within {timeout_s:g} s: a directory in PATH does not respond."
        ) from None
