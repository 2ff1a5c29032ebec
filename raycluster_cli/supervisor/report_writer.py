"""This node's status reports, and all else that a run asks of the record: in one thread, with deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from ..model.errors import RayclusterError, UsageError
from ..model.record import NodeReport
from ..model.status import NodePhase
from ..state.events import UNWRITTEN
from ..state.record import Record

T = TypeVar("T")

#: How long a step of the start waits for a record that does not answer.
RECORD_WAIT_S = 30.0

#: How long one look into the record may take where the work must go on without it.
RECORD_LOOK_S = 2.0


class ReportWriter:
    """Writes this node's status reports into the record, in a thread: a hung file system blocks nothing else.

    Reports are written in order; one for which there is a newer one already is left out.  In large jobs a
    node writes at most one in ``rest_s`` seconds, to spare the file server.
    """

    def __init__(
        self,
        record: Record | None,
        first: NodeReport,
        rest_s: float = 0.0,
        *,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``note`` is called with what :meth:`quietly` could not write."""
        self.record = record
        """The cluster's record; None where none can be kept, or while it belongs to another head."""
        self._note = note
        self._rest_s = rest_s
        self._next_at = 0.0
        self._later: asyncio.TimerHandle | None = None
        self.now = first
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="record")
        self._number = 0

    def phase(self, phase: NodePhase, message: str = "", **facts: Any) -> None:
        """Enter a phase (or say more about the one that we are in)."""
        phases = dict(self.now.phases)
        phases.setdefault(phase.value, time.time())
        self.now = replace(
            self.now, phase=phase.value, phases=phases, message=message, updated=time.time(), **facts
        )
        self._number += 1
        loop = asyncio.get_running_loop()
        if self._later is None and loop.time() >= self._next_at:
            self._write_soon()
        elif self._later is None:
            self._later = loop.call_at(self._next_at, self._write_soon)

    def _write_soon(self) -> None:
        self._later = None
        self._next_at = asyncio.get_running_loop().time() + self._rest_s
        self.submit(self._write, self._number, self.now)

    def stamp(self, steps: Mapping[str, float]) -> None:
        """Add the times of steps within phases to the next report; the first time of each counts."""
        self.now = replace(self.now, phases={**steps, **self.now.phases})

    def _write(self, number: int, report: NodeReport) -> None:
        if self.record is not None and number == self._number:
            with contextlib.suppress(RayclusterError, OSError):
                self.record.write_node(report)

    def submit(self, call: Any, *args: Any) -> asyncio.Future[Any]:
        """Run a call on the record after those already given."""
        return asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def quietly(self, call: Callable[..., object], *args: Any) -> asyncio.Future[Any]:
        """As :meth:`submit`, of a call whose failure is only noted.

        A record that cannot be written (a full disk) is no reason to end a cluster that works.  The result is
        the failure, or None.
        """
        loop = asyncio.get_running_loop()

        def work() -> RayclusterError | OSError | None:
            try:
                call(*args)
            except (RayclusterError, OSError) as error:
                text = f"{UNWRITTEN}: {error}"
                loop.call_soon_threadsafe(self._note, text)
                return error
            return None

        return self.submit(work)

    def add(self, **facts: Any) -> None:
        """Add facts to the next report."""
        self.now = replace(self.now, **facts)

    async def ask(self, call: Callable[..., T], *args: Any, timeout_s: float, default: T) -> T:
        """The answer of a call on the record, or ``default`` when the file system hangs."""
        answer = self.submit(call, *args)
        await asyncio.wait({answer}, timeout=timeout_s)
        if not answer.done():
            answer.cancel()  # a call that has not begun is never made: such calls must not pile up
            return default
        found: T = answer.result()
        return found

    def use(self, record: Record | None) -> None:
        """Write to this record from now on; None: to none, since it belongs to another head."""
        self.record = record

    async def close(self, timeout_s: float = 3.0) -> None:
        """Wait for the last report to be written, ``timeout_s`` at most."""
        if self._later is not None:
            self._later.cancel()
            self._write_soon()
        last = self.submit(lambda: None)
        last.add_done_callback(_forget)
        await asyncio.wait({last}, timeout=timeout_s)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def look(self, call: Callable[..., T], *args: Any, timeout_s: float, default: T) -> T:
        """As :meth:`ask`, and ``default`` too when the record cannot be read or written just now."""
        try:
            return await self.ask(call, *args, timeout_s=timeout_s, default=default)
        except (RayclusterError, OSError):
            return default

    async def need(self, call: Callable[..., T], *args: Any, where: object = "") -> T:
        """The answer of a call that the start needs.  Raises UsageError when none comes."""
        answer = await self.ask(call, *args, timeout_s=RECORD_WAIT_S, default=_NO_ANSWER)
        if answer is _NO_ANSWER:
            raise UsageError(
                f"{where or 'the state directory'} did not answer within {RECORD_WAIT_S:g} s.",
                "Is its file system available? Another shared directory can be given by --state-dir.",
            )
        return answer  # type: ignore[no-any-return]


_NO_ANSWER: Any = object()


def _forget(answer: asyncio.Future[Any]) -> None:
    """Mark an error as seen, of an answer for which no code waits any more."""
    if not answer.cancelled():
        answer.exception()
