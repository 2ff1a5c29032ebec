"""Monitors the GCS of a cluster from any node: does it run, does it answer?

Three things can happen to a GCS.  Its process dies: the kernel there closes the connection and
refuses the next one; that is known within half a second.  Its host or the network fails:
the connection stays open, and checks go unanswered.  It is only slow, or stopped for some
seconds: one check goes unanswered, and the next is answered.  So one failed check has no consequence,
and after FAILED_CHECKS in a row the GCS counts as lost: at worst the interval and two time-outs (12 s)
after a cable was cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ..model.value import Value
from ..system.jitter import between
from ..system.network import why_not_connected
from .failure import StartFailure
from .health import HealthChannel

if TYPE_CHECKING:
    import ssl

#: How long the GCS may take to answer a check; a GCS stopped for 5 s misses one at most.
CHECK_TIMEOUT_S = 4.0

#: Checks that must fail, one after the other, before the GCS counts as lost.
FAILED_CHECKS = 2

#: Pause after a connection that failed.
RETRY_S = 0.2

#: A start that takes no longer is not watched: nearly all of them.
START_PATIENCE_S = 5.0

T = TypeVar("T")


class Loss(Value):
    """Why the GCS counts as lost."""

    why: str
    silent: bool
    """Nothing answers: its host or the network to it has failed.  False: its host refuses connections."""


async def gcs_lost(
    ip: str,
    port: int,
    *,
    interval_s: float,
    patience_s: float = 0.0,
    on_change: Callable[[str], None] | None = None,
    gone: Callable[[Loss, float], Awaitable[str]] | None = None,
    context: ssl.SSLContext | None = None,
) -> Loss:
    """Returns when the GCS at ``ip:port`` is lost.

    ``patience_s``: how long a lost GCS may take to come back (a head that recovers).  ``on_change``
    is called with the reason when that wait begins, and with an empty text when the GCS is back.
    ``gone``: asked again and again during that wait, with the last failure and the seconds since the first,
    why the GCS cannot come back; empty: it may.
    """
    loop = asyncio.get_running_loop()
    failed = 0
    lost_since: float | None = None

    def answered() -> None:
        nonlocal lost_since
        if lost_since is not None and on_change is not None:
            on_change("")
        lost_since = None

    while True:
        failed, loss = await _check_on_one_connection(ip, port, failed, interval_s, answered, context)
        if failed >= FAILED_CHECKS:
            if lost_since is None:
                lost_since = loop.time()
                if patience_s > 0 and on_change is not None:
                    on_change(loss.why)
            if loop.time() - lost_since >= patience_s:
                return loss
            if gone is not None and (why := await gone(loss, loop.time() - lost_since)):
                return loss.but(why=why)
        await asyncio.sleep(RETRY_S)


async def while_gcs_answers(
    start: Coroutine[Any, Any, T],
    ip: str,
    port: int,
    *,
    interval_s: float,
    patience_s: float = START_PATIENCE_S,
    context: ssl.SSLContext | None = None,
) -> T:
    """The result of ``start``, which starts this GCS; it is cancelled when the GCS no longer answers.

    Raises StartFailure then.  A GCS that refuses connections is not there yet, or has ended: the start itself
    notices that.
    """

    async def silence() -> Loss:
        await asyncio.sleep(patience_s)
        while not (loss := await gcs_lost(ip, port, interval_s=interval_s, context=context)).silent:
            await asyncio.sleep(interval_s)
        return loss

    starting, silent = asyncio.ensure_future(start), asyncio.ensure_future(silence())
    try:
        await asyncio.wait({starting, silent}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            return starting.result()
        raise StartFailure("timed out", f"the GCS was started and does not answer: {silent.result().why}")
    finally:
        for one in (starting, silent):
            one.cancel()
        await asyncio.wait({starting, silent})


async def _check_on_one_connection(
    ip: str,
    port: int,
    failed: int,
    interval_s: float,
    answered: Callable[[], None],
    context: ssl.SSLContext | None,
) -> tuple[int, Loss]:
    """Check again and again until the connection ends or too many checks have failed.

    Takes and returns how many checks have failed in a row, and returns the last failure.
    """
    try:
        channel = await HealthChannel.connect(ip, port, timeout_s=CHECK_TIMEOUT_S, context=context)
    except OSError as error:
        return failed + 1, Loss(why_not_connected(error), silent=not isinstance(error, ConnectionError))
    try:
        while True:
            if await channel.check(timeout_s=CHECK_TIMEOUT_S):
                failed = 0
                answered()
                pause_s = interval_s * between(0.8, 1.0)  # not all nodes in the same moment
                if await channel.closed_within(pause_s):
                    return 0, Loss(channel.error, silent=False)
            elif channel.closed.is_set():
                return failed + 1, Loss(channel.error, silent=False)
            else:
                failed += 1
                if failed >= FAILED_CHECKS:
                    return failed, Loss(f"no answer to {failed} checks of {CHECK_TIMEOUT_S:g} s", silent=True)
    finally:
        channel.close()
