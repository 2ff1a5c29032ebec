"""A deadline for calls that can block: on a file system, a name server or a lock.

Such a call cannot be interrupted, so it runs in a thread of its own, and the caller stops waiting.  Not in
the event loop's executor: that has few threads, and some hanging calls would keep all others from running;
nor does Python end while one of its threads is busy.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *args: Any, timeout_s: float) -> T:
    """What ``call(*args)`` returns or raises, called in a thread of its own.

    Raises TimeoutError when it has not returned after ``timeout_s`` seconds.  The thread then stays until the
    call returns; it does not keep the process from ending.  Cancelling the caller has the same effect.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        if not result.done():
            setter(value)

    def work() -> None:
        try:
            answer = call(*args)
        except BaseException as error:
            outcome: tuple[Any, ...] = (settle, result.set_exception, error)
        else:
            outcome = (settle, result.set_result, answer)
        try:
            loop.call_soon_threadsafe(*outcome)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    threading.Thread(target=work, name=getattr(call, "__name__", "call"), daemon=True).start()
    try:
        # asyncio.wait, since wait_for can lose a cancellation that arrives as its future completes.
        await asyncio.wait({result}, timeout=timeout_s)
    finally:
        if not result.done():
            result.cancel()
    if result.cancelled():
        raise TimeoutError(f"{getattr(call, '__name__', 'a call')} did not return within {timeout_s:g} s")
    return result.result()
