"""Ray's processes on this node: adopted when their starter ends, watched, ended in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from ..model.wording import describe_code
from ..system.process import Child, Reaper, end_tree
from ..system.proctree import Stat, descendants
from ..system.report import Report
from ..system.shared_memory import files, made_since, mapped_by, remove_unmapped
from ..system.waiting import done_within, in_thread
from .background import in_background
from .stopped import continue_stopped

#: Processes without which the node is lost.
ESSENTIAL = ("gcs_server", "raylet")

#: After SIGTERM a raylet needs some 50 ms to end its worker processes and itself; then it is killed.
RAYLET_GRACE_S = 1.0

#: How long the rest (agents, orphans of the driver) get between SIGTERM and SIGKILL.
REST_GRACE_S = 0.5

#: A signal that Slurm sends to all processes of a job reaches the last of them within this time
#: (proctrack/linuxproc).
SIGNAL_SPREAD_S = 0.5

#: How long an end waits for a look at shared memory, where there is some.
SHARED_MEMORY_S = 2.0


class NodeProcesses:
    """The processes that Ray runs on this node, all children of this process."""

    def __init__(
        self,
        *,
        host: str,
        reaper: Reaper,
        report: Report,
        note: Callable[[str, int], None],
        on_death: Callable[[Child, int], None],
        got_signal: Callable[[int], bool] = lambda number: False,
    ) -> None:
        """``note(name, pid)`` writes a process down, so that a later start can end it if we are killed.

        ``got_signal``: whether this process got a signal too, which ends it or its driver.
        """
        self.children: dict[str, Child] = {}
        """By name; the newest of a name."""
        self._host = host
        self._reaper = reaper
        self._report = report
        self._note = note
        self._on_death = on_death
        self._got_signal = got_signal
        self._ending = False
        self._shared_before = files()

    def adopt(self, name: str, pid: int) -> Child:
        """Watch a daemon that has become our child when its starter ended."""
        child = self._reaper.adopt(name, pid)
        self.add(child)
        self.watch(child)
        return child

    def add(self, child: Child) -> None:
        """Add a process that was spawned here; :meth:`watch` it once its end would be a loss."""
        self.children[child.name] = child
        self._note(child.name, child.pid)

    def watch(self, child: Child) -> None:
        """Report its end from now on, and call ``on_death`` if the node needs it."""
        child.exited.add_done_callback(lambda exited: self._died(child, exited.result()))

    def _died(self, child: Child, code: int) -> None:
        if self._ending or self.children.get(child.name) is not child:
            return
        self._report.note(f"{child.name} on {self._host} {describe_code(code)}")
        if child.name in ESSENTIAL:
            self._on_death(child, code)
        else:
            asyncio.get_running_loop().call_later(SIGNAL_SPREAD_S, self._lost, child, code)

    def _lost(self, child: Child, code: int) -> None:
        """Warn that the cluster continues without a process, unless Slurm has signalled all processes."""
        if not self._ending and not (code < 0 and self._got_signal(-code)):
            self._report.warn(f"{child.name} on {self._host} {describe_code(code)}; the cluster continues")

    @contextlib.asynccontextmanager
    async def continued(self) -> AsyncIterator[None]:
        """While Ray starts: what was stopped (SIGSTOP) below this process is continued after some seconds."""

        def tell(stat: Stat) -> None:
            what = f"{stat.name} (process {stat.pid}) on {self._host}"
            self._report.say(f"{what} was stopped (SIGSTOP) while Ray starts: it is continued")

        def failed(what: str, error: BaseException) -> None:
            self._report.note(f"{what} on {self._host} failed: {error!r}")

        continuing = in_background("looking for stopped processes", continue_stopped(tell), failed)
        try:
            yield
        finally:
            continuing.cancel()
            await asyncio.wait({continuing})

    def expect_end(self) -> None:
        """From now on the end of a process is expected, and not reported."""
        self._ending = True

    def start_again(self) -> None:
        """After :meth:`end`: watch the processes of the next start."""
        self.children.clear()
        self._ending = False

    async def end(self, hurry: asyncio.Event, spare: Sequence[int] = ()) -> None:
        """End all below this process but ``spare`` and what is below those; ``hurry``: without a grace.

        The raylet first: it ends its worker processes and signs off from the GCS.  The GCS last, by
        SIGKILL: on SIGTERM it waits a minute for raylets that are still connected.  Shared memory that these
        processes have left is removed.
        """
        self.expect_end()
        shared = await self._shared_memory(spare)
        raylet, gcs = self.children.get("raylet"), self.children.get("gcs_server")
        if raylet is not None and raylet.running:
            await raylet.stop(0.0 if hurry.is_set() else RAYLET_GRACE_S)
        skip = [*spare, *([gcs.pid] if gcs is not None and gcs.running else [])]
        left = await end_tree(os.getpid(), skip=skip, grace_s=0.0 if hurry.is_set() else REST_GRACE_S)
        if gcs is not None and gcs.running:
            gcs.send(signal.SIGKILL)
            left += await end_tree(os.getpid(), skip=spare, grace_s=0.0)
        await done_within(in_thread(self._remove_shared_memory, shared, bool(spare)), SHARED_MEMORY_S)
        for stat in left:
            self._report.warn(f"{self._host}: {stat.name} (process {stat.pid}) did not end, even by SIGKILL")

    async def _shared_memory(self, spare: Sequence[int]) -> dict[str, int]:
        """The files in /dev/shm that are mapped by the processes that are about to end."""

        def ending() -> Iterator[int]:  # asked for only where there are such files
            yield from (stat.pid for stat in descendants(os.getpid(), skip=spare))

        looking = in_thread(mapped_by, ending())
        return looking.result() if await done_within(looking, SHARED_MEMORY_S) else {}

    def _remove_shared_memory(self, mapped: dict[str, int], something_goes_on: bool) -> None:
        """Remove what was mapped, and what was made meanwhile unless something else can have made it."""
        made = {} if something_goes_on else made_since(self._shared_before, pid=os.getpid())
        remove_unmapped(mapped | made)
