"""What a node starts while the driver runs and its start need not wait for: the log monitor."""

from __future__ import annotations

import asyncio

from ..model.status import Role
from ..rayproc.companion_client import Started
from ..rayproc.failure import StartFailure
from ..rayproc.plan import NodePlan
from ..system.report import Report
from .background import OnFailure, in_background
from .companion import NodeCompanion
from .processes import NodeProcesses

#: How long the log monitor may take to start, the import of Ray included.
EXTRA_START_S = 120.0


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

    def start(self, plan: NodePlan, started: Started) -> None:
        """Start it in the background, once for a start of the node."""
        if self._starting is None:
            self._starting = in_background(
                "starting the log monitor", self._start(plan, started), self._on_failure
            )

    def cancel(self) -> None:
        """The node ends; :meth:`start` starts another one."""
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None

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
