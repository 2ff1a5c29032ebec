"""The log monitor, which a node starts while the driver runs."""

from __future__ import annotations

import asyncio
import contextlib
import os

from ..model.status import Role
from ..rayproc.failure import StartFailure
from ..rayproc.plan import NodePlan
from ..rayproc.started import Started
from ..system.report import Report
from ..system.waiting import done_within
from .background import OnFailure, in_background
from .companion import NodeCompanion
from .processes import NodeProcesses

#: How long the log monitor may take to start, the import of Ray included.
EXTRA_START_S = 120.0


#: How often the logs are looked at for those of a worker process that has not told its start: 30 µs.
LOOK_S = 2.0


class _Gate:
    """The FIFO to which a worker process writes when it starts."""

    def __init__(self, path: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._fd = -1
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                os.mkfifo(path, 0o600)
            # For reading and writing: the end of a writer is no end of file.
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._loop.add_reader(self._fd, self._written)

    def _written(self) -> None:
        self._loop.remove_reader(self._fd)
        if not self.opened.done():
            self.opened.set_result(None)

    def __enter__(self) -> _Gate:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def has_worker_log(session_dir: str) -> bool:
    """Whether a worker process has begun to log on this node."""
    try:
        with os.scandir(os.path.join(session_dir, "logs")) as entries:
            return any(entry.name.startswith("worker-") for entry in entries)
    except OSError:
        return False


class LogMonitor:
    """Ray's log monitor of one node, by which drivers show what tasks print; a fork of the companion."""

    def __init__(
        self,
        *,
        host: str,
        companion: NodeCompanion,
        processes: NodeProcesses,
        report: Report,
        on_failure: OnFailure,
    ) -> None:
        self._host = host
        self._companion = companion
        self._processes = processes
        self._report = report
        self._on_failure = on_failure
        self._starting: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[None] | None = None

    def start_with_work(self, plan: NodePlan, started: Started) -> None:
        """Start it as soon as the first worker process starts; until then there is nothing to show."""
        if self._waiting is None:
            self._waiting = in_background(
                "waiting for the first worker process", self._wait(plan, started), self._on_failure
            )

    async def _wait(self, plan: NodePlan, started: Started) -> None:
        with _Gate(plan.work_gate) as gate:
            # A process in a container does not reach the gate, but writes its log here.
            while not await done_within(gate.opened, LOOK_S) and not has_worker_log(started.session_dir):
                pass
        self.start(plan, started)

    def start(self, plan: NodePlan, started: Started) -> None:
        """Start it in the background, once for a start of the node."""
        if self._starting is None:
            self._starting = in_background(
                "starting the log monitor", self._start(plan, started), self._on_failure
            )

    def cancel(self) -> None:
        """The node ends; :meth:`start` starts another one."""
        for task in (self._waiting, self._starting):
            if task is not None:
                task.cancel()
        self._waiting = self._starting = None

    async def _start(self, plan: NodePlan, started: Started) -> None:
        """If it does not start, that is reported, and the cluster continues without it."""
        try:
            companion = self._companion.there()
            await companion.ready(EXTRA_START_S)
            done = await companion.start_extra("log_monitor", plan, started, EXTRA_START_S)
            for one in done["processes"]:
                self._processes.adopt(one["name"], one["pid"])
        except StartFailure as failed:
            self._report.warn(f"the log monitor did not start on {self._host}: {failed.message}")
        if plan.role is Role.WORKER:
            await self._companion.drop()
