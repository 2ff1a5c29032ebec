"""What a head watches while it runs: its nodes, its GCS, the record, the job's time limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..model.errors import RayclusterError, error_text
from ..model.record import NodeReport
from ..model.status import Role
from ..node.labels import JOB_LABEL
from ..policy import events as on
from ..policy.values import Phase, Worker, WorkerReport
from ..rayproc.failure import StartFailure
from ..rayproc.gcs_monitor import gcs_lost
from ..rayproc.listed_node import ListedNode, NodeDeath
from ..slurm.job_calls import job_end_time, job_facts, requeue_problem
from ..slurm.task_probe import TaskProbe, hosts_without_task
from ..state.catalogue import prune
from ..state.lease import HEARTBEAT_S
from ..state.record import Record
from ..system.proctree import let_tree_go_on
from .usage import tell_usage

if TYPE_CHECKING:
    from .head import HeadRun

T = TypeVar("T")

#: How often the workers' reports are read while the head waits for them; less often the more there are.
REPORTS_S = 0.5

#: How long a look into the record may take where the work must go on without it.
RECORD_LOOK_S = 2.0

#: How often the head looks into the record for what others leave there: a stop, a lost raylet.
RECORD_POLL_S = 0.5

#: Slurm is asked for the tasks of at most this many silent nodes: their cause is usually the same.
MOST_ASKED = 64

#: Reports that are older than the head by more than this are an earlier cluster's; clocks may differ.
OLD_REPORT_S = 300.0

#: Pause before the watch over the nodes is started again after its process has ended.
REWATCH_DELAY_S = 0.5

#: Pause between two checks of a GCS whose process has ended, which its parent has noticed.
GCS_REST_S = 1.0

#: How often the head looks whether its companion and what that has started are stopped.
STOPPED_LOOK_S = 10.0

#: How long the GCS may take to say whether a driver has connected; the end of a run waits for it.
DRIVER_ANSWER_S = 1.0

#: How often the GCS is asked for what waits for resources (3 ms); less often in large clusters.
DEMAND_S = 5.0

#: When Slurm is asked where the job's output goes; it remembers a job for minutes after its end (MinJobAge).
ASK_AFTER_S = 5.0


class HeadGuards:
    """Puts what it sees into the run's queue as events."""

    def __init__(self, run: HeadRun) -> None:
        self._run = run
        self.deaths: dict[str, NodeDeath] = {}
        """What the GCS says of lost nodes, by node id."""
        self._reports: dict[str, NodeReport] = {}
        self._probe: TaskProbe | None = None
        self._unanswered: set[str] = set()
        self._notices = False

    async def begin(self) -> None:
        """Start them all, once Ray is up."""
        run = self._run
        watching = await run.node.watch(self._nodes_changed, run.rules.expected + 1)
        guard, start = run.tasks.guard, run.tasks.start
        guard("the watch over the nodes", _Watch(self, watching).keep)
        guard("the watch over the GCS", self._watch_gcs)
        guard("the wait for the workers", self._watch_reports)
        guard("the watch over the node's files", run.watch_files)
        guard("stopped processes", self._watch_stopped, vital=False)
        if run.groups:
            from .autoscaler import Autoscaler  # other runs do not pay for it

            guard("Ray's autoscaler", Autoscaler(run).keep, vital=False)
        else:
            guard("what waits for resources", self._watch_demand, vital=False)
        start("what Slurm says of the job", self._ask_slurm())
        if run.server is not None:
            guard("the watch over the server", run.server.watch, vital=False)
        if run.record is not None:
            guard("what is in use", lambda: tell_usage(run, run.rules.expected + 1), vital=False)
            start("old records", self._prune())

    def watch_record(self, record: Record) -> None:
        """Look from now on for what others leave in the record: a stop may be asked for before the start."""
        self._run.tasks.guard("the watch over the record", lambda: self._watch_record(record))

    async def _prune(self) -> None:
        run = self._run
        await asyncio.wait({run.record_quietly(prune, run.context.state_dir)})
        if run.record is not None:
            await asyncio.wait({run.record_quietly(run.record.remove_earlier)})

    # -- workers ---------------------------------------------------------------------------------

    def _nodes_changed(self, nodes: Sequence[ListedNode]) -> None:
        for node in nodes:
            if node.is_head or node.node_id == self._own_node_id():
                self._head_changed(node)
                continue
            job = node.labels.get(JOB_LABEL, "")
            worker = Worker(node.node_id, node.name, node.ip, job)
            if job and not self._notices:
                self._notices = True
                self._run.tasks.guard("notices of worker jobs", self._watch_notices, vital=False)
                if self._run.context.allocation is not None:
                    self._run.tasks.guard("what Slurm takes away", self._watch_departures, vital=False)
            if node.alive:
                self._run.post(on.WorkerJoined(worker))
            else:
                self.deaths.setdefault(worker.node_id, node.death or NodeDeath())
                self._run.post(on.WorkerLeft(worker))

    def _own_node_id(self) -> str:
        started = self._run.node.started
        return started.node_id if started is not None else ""

    def _head_changed(self, node: ListedNode) -> None:
        """Post that the head's raylet runs and does not respond.  Its parent notices when it ends."""
        raylet = self._run.node.children.get("raylet")
        own = node.node_id == self._own_node_id()  # not that of a head before a recovery
        if own and not node.alive and raylet is not None and raylet.running:
            why = (node.death.message if node.death else "") or "the GCS has marked its node as dead"
            self._run.post(on.HeadRayletSilent(why, self._run.node.log_of("raylet")))

    async def _watch_reports(self) -> None:
        """Read the reports while workers are waited for; ask Slurm which of the silent ones have no task."""
        run = self._run
        self._probe = TaskProbe(self._hosts_without_task)
        try:
            while run.state.phase in (Phase.STARTING, Phase.WAITING, Phase.RECOVERING):
                await self.read_reports()
                await asyncio.sleep(REPORTS_S + run.rules.expected / 1000)
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
        self._run.post(on.ReportsRead(told, tuple(without)))

    async def _read(self) -> dict[str, NodeReport]:
        run = self._run
        if run.record is None:
            return {}
        reports = await run.reports.look(run.record.read_nodes, timeout_s=RECORD_LOOK_S, default=None)
        if reports is not None:
            since = run.context.launched - OLD_REPORT_S
            self._reports = {
                host: report
                for host, report in reports.items()
                if report.role == Role.WORKER.value and report.updated >= since
            }
        return self._reports

    def _silent(self, reports: Mapping[str, NodeReport]) -> list[str]:
        """Hosts that have neither joined nor reported anything; the first of them."""
        joined = {worker.host for worker in self._run.state.workers.values()}
        hosts = self._run.rules.hosts
        return [host for host in hosts if host not in joined and host not in reports][:MOST_ASKED]

    async def _hosts_without_task(self, hosts: Sequence[str]) -> list[str]:
        """Those of the silent nodes that will not join any more.  Slurm can tell for tasks of this step."""
        context = self._run.context
        if context.allocation is None or not context.symmetric:
            return []
        return await hosts_without_task(hosts, context.allocation, context.env, self._run.reaper)

    # -- the head's own GCS ----------------------------------------------------------------------

    async def _watch_gcs(self) -> None:
        """Post that the GCS runs but no longer answers: it counts as lost, for the workers too."""
        run = self._run
        while True:
            loss = await gcs_lost(
                run.node.address.ip,
                run.node.gcs_port,
                interval_s=run.settings.check_interval,
                context=run.node.tls_context,
            )
            gcs = run.node.children.get("gcs_server")
            if loss.silent and gcs is not None and gcs.running:
                run.post(on.GcsSilent(loss.why, run.node.log_of("gcs_server")))
                await asyncio.wait({gcs.exited}, timeout=run.settings.check_interval)
            await asyncio.sleep(GCS_REST_S)
            await run.recovery_over()

    async def _watch_demand(self) -> None:
        """Post what waits for resources that no node has: Ray itself does not report it."""
        run = self._run
        while True:
            await asyncio.sleep(DEMAND_S + run.rules.expected / 50)
            if run.state.phase is not Phase.RUNNING or run.node.companion is None:
                continue
            waiting = await self._asked("which tasks no node can run", run.node.companion.unplaceable())
            if waiting is not None:
                run.post(on.DemandKnown(waiting))

    async def ask_for_driver(self) -> None:
        """Whether a driver has connected to the GCS; an answer is posted in any case."""
        companion, connected = self._run.node.companion, None
        if companion is not None:
            connected = await self._asked(
                "whether a driver has connected", companion.had_driver(DRIVER_ANSWER_S)
            )
        self._run.post(on.DriverKnown(connected))

    async def _asked(self, what: str, answer: Awaitable[T]) -> T | None:
        """What Ray answers; None when it does not, which is logged once, since only messages depend on it."""
        try:
            return await answer
        except (RayclusterError, StartFailure, OSError) as error:
            if what not in self._unanswered:
                self._unanswered.add(what)
                self._run.report.note(f"Ray did not say {what}: {error_text(error)}")
            return None

    # -- the record ------------------------------------------------------------------------------

    async def _watch_record(self, record: Record) -> None:
        """Post requests to stop, and raylets whose workers report their death.

        The head's lease is renewed here too.
        """
        run = self._run
        beat_at = 0.0
        while True:
            lost: list[str] = await run.reports.look(
                record.lost_node_ids, timeout_s=RECORD_LOOK_S, default=[]
            )
            for node_id in lost:
                if (worker := run.state.members.get(node_id)) is not None:  # the GCS has not noticed it yet
                    run.post(on.WorkerLeft(worker))
            stop = await run.reports.look(record.stop_requested, timeout_s=RECORD_LOOK_S, default=None)
            if stop is not None:
                run.post(on.StopRequested(stop.by))
                return
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + HEARTBEAT_S
                run.record_quietly(record.leases.beat)
            await asyncio.sleep(RECORD_POLL_S)

    async def _watch_notices(self) -> None:
        """Act on the notices of workers in jobs of their own; only in a cluster that has had one."""
        from .notices import watch_notices  # other runs do not pay for it

        await watch_notices(self._run)

    async def _watch_departures(self) -> None:
        """Ask Slurm which nodes of worker jobs it drains, and which worker jobs it preempts."""
        from .departures import watch_departures  # other runs do not pay for it

        await watch_departures(self._run)

    async def _watch_stopped(self) -> None:
        """Companion, watcher or autoscaler were stopped (SIGSTOP): they would miss every loss."""
        run = self._run
        while True:
            await asyncio.sleep(STOPPED_LOOK_S)
            companion = run.node.companion
            for pid in let_tree_go_on(companion.child.ref) if companion is not None else ():
                run.report.note(f"process {pid} of raycluster was stopped (SIGSTOP): it is continued")

    async def _ask_slurm(self) -> None:
        """Find out where the job's output goes, for `raycluster logs` once Slurm has forgotten the job.

        And whether Slurm will requeue the job: its owner can still change that while it runs.
        """
        run, allocation = self._run, self._run.context.allocation
        if allocation is None:
            return
        await asyncio.sleep(ASK_AFTER_S)  # not during the start, which it would slow down
        facts = await job_facts(allocation.job_id, run.context.env, run.reaper)
        if facts is None:
            return
        if facts.output:
            run.begin.entry.update(output=facts.output, errors=facts.errors)
        if run.settings.requeue_on_preempt and (problem := requeue_problem(allocation.job_id, facts)):
            run.report.warn(problem)

    # -- the time limit --------------------------------------------------------------------------

    async def ask_time_limit(self, now: bool) -> None:
        """Post how much time the job has left: as known from its start, or (``now``) as Slurm says now."""
        run, allocation = self._run, self._run.context.allocation
        if allocation is None:
            return
        end_time = None if now else allocation.end_time
        asked = end_time is None
        if end_time is None:
            end_time = await job_end_time(allocation.job_id, run.context.env, run.reaper)
            if end_time is not None and end_time != run.begin.entry.info.end_time:
                run.begin.entry.update(end_time=end_time)
        left_s = None if end_time is None else end_time - time.time()
        run.post(on.TimeLimitKnown(left_s, asked_now=asked))


class _Watch:
    """The subscription to the GCS's nodes, started again whenever its process has ended."""

    def __init__(self, guards: HeadGuards, over: asyncio.Future[None]) -> None:
        self._guards = guards
        self._over = over

    async def keep(self) -> None:
        run = self._guards._run
        while True:
            await asyncio.wait({self._over})
            run.report.note("the watch over the nodes ended; starting it again")
            while self._over.done():
                await asyncio.sleep(REWATCH_DELAY_S)
                await run.recovery_over()
                try:
                    self._over = await run.node.watch(self._guards._nodes_changed, run.rules.expected + 1)
                except (RayclusterError, OSError) as error:
                    run.report.note(f"the nodes cannot be watched: {error}")
