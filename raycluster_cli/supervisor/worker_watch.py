"""What a head sees of its workers: which join and leave, what they report, and which of them have no task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from ..model.record import NodeReport
from ..model.status import Role
from ..node.labels import JOB_LABEL
from ..policy import events as on
from ..policy.head_state import HeadRules, HeadState
from ..policy.values import Phase, Worker, WorkerReport
from ..rayproc.listed_node import ListedNode, NodeDeath
from ..slurm.task_probe import TaskProbe, hosts_without_task
from .parts import Parts
from .report_writer import RECORD_LOOK_S

#: How often the workers' reports are read while the head waits for them; less often the more there are.
REPORTS_S = 0.5

#: Slurm is asked for the tasks of at most this many silent nodes: their cause is usually the same.
MOST_ASKED = 64

#: A worker that has not joined, and whose report has not changed for so long, may have been killed with its
#: keeper: nothing there reports it.
UNCHANGED_S = 8.0

#: Reports that are older than the head by more than this are an earlier cluster's; clocks may differ.
OLD_REPORT_S = 300.0


class WorkerWatch:
    """Posts what is seen of the workers."""

    def __init__(self, parts: Parts, rules: HeadRules, state: Callable[[], HeadState]) -> None:
        self._parts = parts
        self._rules = rules
        self._state = state
        self.deaths: dict[str, NodeDeath] = {}
        """What the GCS says of lost nodes, by node id."""
        self._reports: dict[str, NodeReport] = {}
        self._unchanged: dict[str, tuple[NodeReport, float]] = {}
        """Each worker's last report, and since when it is that, by the loop's clock."""
        self._probe: TaskProbe | None = None

    def changed(self, node: ListedNode) -> Worker:
        """The GCS says that a worker's node has joined or left."""
        worker = Worker(node.node_id, node.name, node.ip, node.labels.get(JOB_LABEL, ""))
        if node.alive:
            self._parts.post(on.WorkerJoined(worker))
        else:
            self.deaths.setdefault(worker.node_id, node.death or NodeDeath())
            self._parts.post(on.WorkerLeft(worker))
        return worker

    async def watch_reports(self) -> None:
        """Read the reports while workers are waited for; ask Slurm which of the silent ones have no task."""
        self._probe = TaskProbe(self._hosts_without_task)
        try:
            while self._state().phase in (Phase.STARTING, Phase.WAITING, Phase.RECOVERING):
                await self.read_reports()
                await asyncio.sleep(REPORTS_S + self._rules.expected / 1000)
        finally:
            self._probe.close()

    async def read_reports(self) -> None:
        """Read the workers' reports; an answer is posted in any case."""
        reports = await self._read()
        now = time.time()
        told = {
            host: WorkerReport(report.phase, report.message, max(now - report.updated, 0.0))
            for host, report in reports.items()
        }
        silent = self._silent(reports)
        without = self._probe.ended(silent) if self._probe is not None else []
        self._parts.post(on.ReportsRead(told, tuple(without)))

    async def _read(self) -> dict[str, NodeReport]:
        record = self._parts.reports.record
        if record is None:
            return {}
        reports = await self._parts.reports.look(record.read_nodes, timeout_s=RECORD_LOOK_S, default=None)
        if reports is not None:
            since = self._parts.context.launched - OLD_REPORT_S
            self._reports = {
                host: report
                for host, report in reports.items()
                if report.role == Role.WORKER.value and report.updated >= since
            }
        return self._reports

    def _silent(self, reports: Mapping[str, NodeReport]) -> list[str]:
        """Hosts that have not joined and have reported nothing, or nothing new; the first of them."""
        joined = {worker.host for worker in self._state().workers.values()}
        now = asyncio.get_running_loop().time()
        silent = []
        for host in self._rules.hosts:
            report = reports.get(host)
            if report is not None and (host not in self._unchanged or self._unchanged[host][0] != report):
                self._unchanged[host] = report, now
            if host in joined or (report is not None and report.has_ended):
                continue
            if report is None or now - self._unchanged[host][1] >= UNCHANGED_S:
                silent.append(host)
        return silent[:MOST_ASKED]

    async def _hosts_without_task(self, hosts: Sequence[str]) -> list[str]:
        """Those of the silent nodes that will not join any more.  Slurm can tell for tasks of this step."""
        context = self._parts.context
        if context.allocation is None or not context.symmetric:
            return []
        return await hosts_without_task(hosts, context.allocation, context.env, self._parts.reaper)
