"""The head's run: start Ray's head, wait for the workers, run the driver, end everything."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .._version import __version__
from ..model.errors import ExitCode, HeadStartError, RayclusterError, UsageError
from ..model.record import EndReport, HeadInfo, NodeReport
from ..model.settings import parse_worker_loss
from ..model.status import HeadState, NodePhase, Role
from ..node.ray_node import is_loopback
from ..rayproc.companion_client import Started
from ..rayproc.gcs_monitor import gcs_lost
from ..rayproc.plan import StartFailure
from ..slurm.allocation import format_hostlist
from ..slurm.job_calls import TaskProbe, hosts_without_task, job_end_time, job_output, requeue
from ..state.catalogue import prune
from ..state.lease import HEARTBEAT_S
from ..state.record import Record
from ..system.process import Child, describe_code, shell_code
from ..system.report import command_text, count, duration
from .driver import Driver, find_program
from .lifecycle import RESERVE_S, Context, End, NodeRun, archive_logs, python_version, quietly
from .usage import tell_usage
from .worker_wait import Members, WorkerWait

#: How often the head looks into the record for what others leave there: a stop, a lost raylet.
RECORD_POLL_S = 0.5

#: When Slurm is asked where the job's output goes; it remembers a job for minutes after its end (MinJobAge).
OUTPUT_AFTER_S = 5.0

#: How long a look into the record may take where the work must go on without it.
RECORD_LOOK_S = 2.0

#: How long a lost worker's own word is waited for: it names the cause, the GCS only sees silence.
LAST_REPORT_S = 0.8

#: How far apart nodes may hear of the same signal from Slurm.
SAME_SIGNAL_S = 1.5

#: How long the driver gets to end once the head is lost: it can no longer do anything with Ray.
LOST_GRACE_S = 2.0

#: Rest before the head's Ray is started again (--head-recovery), doubled each time.
RECOVERY_DELAY_S = 0.3

#: Rest before the watch over the nodes is taken up again after its process has ended.
REWATCH_DELAY_S = 0.5

#: First version of Ray whose GCS can keep its state on disk.
RECOVERY_SINCE = (2, 58)

#: Signals that are handed on to the driver.
HANDED_ON = (signal.SIGUSR1, signal.SIGUSR2)

#: What a drained raylet is given to leave before its supervisor ends it: an idle one needs 20 ms, one that
#: holds a detached actor never leaves by itself.
DRAIN_S = 1.0

#: So many workers that are slow to leave are looked after one by one.
FEW = 32


class HeadRun(NodeRun):
    """`raycluster head`, and rank 0 of `raycluster run`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.expected = _expected_workers(context)
        self.quorum = (
            context.settings.min_workers if context.settings.min_workers is not None else self.expected
        )
        self.loss = parse_worker_loss(context.settings.on_worker_loss)
        self.identity = context.own_identity or secrets.token_hex(16)
        self.members = Members()
        self.driver: Driver | None = None
        self.head: HeadInfo
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        self._told = False
        """Whether the driver was told to end or to save its work: only then may it ask for a requeue."""
        self._last_reports: dict[str, NodeReport] = {}
        self._claimed = False
        """Whether the record is ours: until then it may be another head's, whose end is not ours to write."""
        self._refused_by: Record | None = None
        """The record that is another head's."""
        self._named = False
        """Whether the record names this head: from then on workers look for the end there."""
        self._recoveries = 0
        self._recovery: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        if context.driver and context.allocation is None:
            find_program(context.driver, context.env)

    # -- startup ---------------------------------------------------------------------------------

    async def startup(self) -> None:
        context, settings = self.context, self.settings
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + settings.timeout
        if self.record is not None:
            await self._claim(self.record)
            self.keep()
        if context.driver:  # in a job not earlier: other tasks wait for this one, and are told by the record
            find_program(context.driver, context.env)
        self.node = await self.make_node(self._process_died)
        self.node.on_dashboard = self._dashboard_is_up
        self.keep(node_root=str(self.node.root.path))
        self.node.begin_import()
        self.node.token = await self._make_token()
        self._warn_of_open_dashboard()
        await self.node.measure(route_to=_another_host(context))
        self.node.claim_ports({"gcs": settings.master_port} if settings.master_port else {})
        if settings.tls:
            await self._make_keys()
        self.head = HeadInfo(
            host=context.host,
            address_ip=self.node.address.ip,
            port=self.node.gcs_port,
            identity=self.identity,
            python_version=python_version(),
            raycluster_version=__version__,
            auth=settings.auth,
            tls=settings.tls,
            started=context.launched,
            pid=self.reports.now.pid,
            create_time=self.reports.now.create_time,
            expected_workers=self.expected,
            driver=context.driver,
            ports=self.node.port_map(),
            aliases=_aliases(context),
            node_root=str(self.node.root.path),
            end_time=(context.allocation.end_time or 0.0) if context.allocation else 0.0,
            state=HeadState.STARTING.value,
            step=context.step or "",
            on_worker_loss=settings.on_worker_loss,
            head_recovery=settings.head_recovery,
            with_dashboard=settings.dashboard,
            worker_hosts=format_hostlist(_worker_hosts(context)),
            min_workers=self.quorum,
            grace_s=settings.grace,
        )
        # Written before Ray is up: workers then knock at the port itself and not at the file server.
        self._write_head()
        self.reports.phase(NodePhase.STARTING, ip=self.node.address.ip, node_root=str(self.node.root.path))
        self.report.on_event = self._to_event_log
        try:
            if settings.head_recovery:
                _refuse_recovery(await self.node.version(settings.start_timeout))
            started = await self._start_ray()
        except StartFailure as failed:
            raise HeadStartError(
                f"the head did not start on {context.host}: {failed.message}",
                self._where_the_logs_are(),
            ) from failed
        self.head = replace(
            self.head,
            session=started.session,
            cluster_id=started.cluster_id,
            ray_version=self.node.ray_version,
            state=HeadState.UP.value,
        )
        self._write_head()
        self.reports.stamp(self.node.steps)
        self.reports.phase(NodePhase.JOINED, node_id=started.node_id)
        self._parent.tell(event="up", address=self.head.address)

    def _where_the_logs_are(self) -> str:
        """The node's directory goes with the node; what was kept of it is in the record."""
        if self.record is None or self.settings.keep_logs == "never":
            return ""
        return f"`raycluster why {self.context.key}` shows the logs, which are in {self.record.path}/logs."

    async def _claim(self, record: Record) -> None:
        """Become the head of this record, or leave it alone: it is another head's then."""

        def claim() -> None:
            record.take_lease(host=self.context.host)
            self._claimed = True  # here, since a signal can end the wait below before it returns

        try:
            await self.on_record(claim)
        except RayclusterError:
            self._refused_by, self.record = self.record, None
            self.reports.use(None)
            raise

    async def _start_ray(self, session_name: str | None = None) -> Started:
        """The head's GCS and raylet; again, after they died, with the session that they had."""
        recovers = self.settings.head_recovery
        return await self.node.start(
            self.settings.start_timeout,
            expected_nodes=self.expected + 1,
            identity=self.identity,
            storage=self.node.root.path / "gcs" if recovers else None,
            session_name=session_name,
        )

    def _warn_of_open_dashboard(self) -> None:
        settings = self.settings
        if settings.dashboard and not is_loopback(settings.dashboard_host):
            key = (
                "only the token keeps them out" if settings.auth else "and nothing keeps them out (--no-auth)"
            )
            self.report.warn(
                f"--dashboard-host {settings.dashboard_host}: others reach the dashboard, which runs code as "
                f"you; {key}. `raycluster dashboard` needs only the default, 127.0.0.1."
            )

    async def _make_keys(self) -> None:
        """The cluster's authority, into the record for the workers; and this node's certificate."""
        if self.record is None and self.expected:
            raise UsageError(
                "--tls needs a record, from which workers take the cluster's authority; none can be kept.",
                "Give a directory that all nodes share by --state-dir.",
            )
        authority = await self.node.make_authority()
        if self.record is not None:
            await self.on_record(self.record.write_authority, authority)
        await self.node.certify(authority)

    async def _make_token(self) -> str:
        """The cluster's token: the user's own (RAYCLUSTER_TOKEN), or a new one in the record."""
        if not self.settings.auth:
            self.report.warn(
                "--no-auth: whoever reaches this cluster's ports runs code as you. Leave it out unless a "
                "client cannot send a token."
            )
            return ""
        own = self.context.own_token
        if own or self.record is None:
            return own or secrets.token_hex(32)
        return await self.on_record(self.record.make_token)

    def _write_head(self) -> None:
        if self.record is not None:
            self._named = True
            self.reports.submit(self._ignore_errors, self.record.write_head, self.head)

    def _dashboard_is_up(self, url: str) -> None:
        self.head = replace(self.head, dashboard=url)
        self._write_head()

    async def _note_output(self) -> None:
        """Where the job's output goes: for `raycluster logs`, once Slurm has forgotten the job."""
        allocation = self.context.allocation
        if allocation is None:
            return
        await asyncio.sleep(OUTPUT_AFTER_S)  # the start has better things to do
        if path := await job_output(allocation.job_id, self.context.env, self.reaper):
            self.head = replace(self.head, output=path)
            self._write_head()

    def _ignore_errors(self, call: Any, *args: Any) -> None:
        """A record that cannot be written (a full disk) is no reason to end a cluster that works.

        Runs in the record's thread; what it says is said by the loop's.
        """
        try:
            call(*args)
        except (RayclusterError, OSError) as error:
            text = f"the record could not be written: {error}"
            self._loop.call_soon_threadsafe(self.report.note, text)

    def _to_event_log(self, when: float, text: str) -> None:
        if self.record is not None:
            self.reports.submit(self.record.append_event, text, when)

    # -- main ------------------------------------------------------------------------------------

    async def main(self) -> End:
        context = self.context
        watching = await self.node.watch(self._nodes_changed, self.expected + 1)
        self._background(self._keep_watching(watching))
        self._background(self._watch_gcs())
        self._background(self._watch_time_limit())
        if self.record is not None:
            self._background(self._watch_record(self.record))
            self._background(self._note_output())
            self._background(asyncio.to_thread(self._ignore_errors, prune, context.state_dir))
            self._background(tell_usage(self, self.expected + 1))
        await self._wait_for_workers()
        self.reports.phase(NodePhase.READY)
        nodes = count(len(self.members.alive) + 1, "node")
        took = duration(time.time() - context.launched)
        self._parent.tell(event="ready", address=self.head.address, environment=self.node.client_variables())
        if not context.driver:
            self.report.say(f"{nodes} ready at {self.head.address} after {took}. {self._how_to_stop()}")
            self.node.start_extras()
            await asyncio.Event().wait()
        self.report.say(
            f"{nodes} ready at {self.head.address} after {took}; driver: {command_text(context.driver)}"
        )
        self.reports.phase(NodePhase.DRIVING)
        self.node.start_extras()
        code = await self._drive()
        assert self.driver is not None
        ran = duration(time.time() - self.driver.started)
        text = f"the driver {describe_code(code)} after {ran}"
        failed_host = context.host if code else ""
        if code and (loss := await self._loss_behind()):
            text, failed_host = f"{text}; {loss[1]}", loss[0]
        self.report.note(text)
        return End(shell_code(code), text, reason="driver", failed_host=failed_host)

    async def _drive(self) -> int:
        """Run the driver to its end; again, after a recovery of the head that took it along."""
        restarts = 0
        while True:
            env = self.node.client_environment()
            if restarts:
                env["RAYCLUSTER_DRIVER_RESTARTS"] = str(restarts)
            self.driver = Driver.start(self.context.driver, env, self.reaper, self.signals)
            # Shielded: cancelling this task must not cancel what the shutdown waits for.
            code = await asyncio.shield(self.driver.child.exited)
            if code and self.settings.head_recovery:
                await asyncio.sleep(0.2)  # it may have seen the raylet's end before we did
            if self._recovery is None or self._recovery.done():
                return code
            await self._recovery
            restarts += 1
            self.report.say(f"starting the driver again ({restarts})")

    async def _loss_behind(self) -> tuple[str, str] | None:
        """A worker that was lost just before a driver failed: (host, what it said).  One look."""
        for word in (await self._words()).values():
            if word.phase in (NodePhase.STOPPING.value, NodePhase.FAILED.value):
                return word.host, word.message
        return None

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that goes on beside the driver, until the end."""
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.ensure_future(work))

    async def _keep_watching(self, over: asyncio.Future[None]) -> None:
        """Take up the watch over the nodes again whenever its process has ended."""
        while True:
            await over
            self.report.note("the watch over the nodes ended; taking it up again")
            while over.done():
                await asyncio.sleep(REWATCH_DELAY_S)
                if self._recovery is not None:
                    await asyncio.wait({self._recovery})
                try:
                    over = await self.node.watch(self._nodes_changed, self.expected + 1)
                except (RayclusterError, OSError) as error:
                    self.report.note(f"the nodes cannot be watched: {error}")

    async def _watch_gcs(self) -> None:
        """A GCS that runs but no longer answers is lost as well; workers come to the same conclusion."""
        while True:
            loss = await gcs_lost(
                self.node.address.ip,
                self.node.gcs_port,
                interval_s=self.settings.check_interval,
                context=self.node.tls_context,
            )
            if not loss.silent:  # its process has ended: _process_died hears of that
                await asyncio.sleep(1.0)
                continue
            gcs = self.node.children["gcs_server"]
            text = f"the head's GCS on {self.context.host} does not answer ({loss.why})"
            if self.settings.head_recovery and gcs.running:
                self.report.warn(f"{text}; ending it")
                await gcs.stop(0.0)
                continue
            self._head_lost(text, "gcs_server")

    async def _watch_time_limit(self) -> None:
        """Know the job's end, tell it to those who ask, and stop the driver in time (--stop-before)."""
        allocation, before_s = self.context.allocation, self.settings.stop_before
        if allocation is None:
            return
        end_time = allocation.end_time
        if end_time is None:
            end_time = await job_end_time(allocation.job_id, self.context.env, self.reaper)
            if end_time is not None:
                self.head = replace(self.head, end_time=end_time)
                self._write_head()
        if before_s <= 0:
            return
        while end_time is not None:
            left_s = end_time - before_s - time.time()
            if left_s > 0:
                await asyncio.sleep(min(left_s, 60.0))
                continue
            # Asked again: the limit may have been raised meanwhile.
            now = await job_end_time(allocation.job_id, self.context.env, self.reaper)
            if now is None or now - before_s <= time.time():
                left = duration(max(end_time - time.time(), 0))
                code = ExitCode.SIGTERM if self.context.driver else ExitCode.OK
                self.end_with(End(code, f"the job's time limit is {left} away", reason="time-limit"))
                return
            end_time = now
        self.report.warn("--stop-before has no effect: Slurm does not say when this job ends")

    def _how_to_stop(self) -> str:
        if self.context.allocation is None:
            return "Stop it with Ctrl-C."
        return f"Stop it with `raycluster stop {self.context.key}`."

    async def _wait_for_workers(self) -> None:
        """Wait until the workers are in.  Raises WorkersMissingError."""
        task_probe = TaskProbe(self._hosts_without_task)
        muster = WorkerWait(
            self.members,
            self.settings,
            expected=self.expected,
            quorum=self.quorum,
            hosts=_worker_hosts(self.context),
            launched=self.context.launched,
            words=self._words,
            task_probe=task_probe,
            report=self.report,
        )
        try:
            await muster.wait(self._deadline)
        finally:
            task_probe.close()

    async def _hosts_without_task(self, hosts: Sequence[str]) -> list[str]:
        """Those of silent nodes that will not come any more, where Slurm can tell: in a step of our own."""
        allocation = self.context.allocation
        if allocation is None or not self.context.symmetric:
            return []
        return await hosts_without_task(hosts, allocation, self.context.env, self.reaper)

    async def _words(self) -> dict[str, NodeReport]:
        if self.record is None:
            return {}
        words = await self.reports.ask(self.record.read_nodes, timeout_s=RECORD_LOOK_S, default=None)
        if words is not None:
            self._last_reports = {
                host: word
                for host, word in words.items()
                if word.role == Role.WORKER.value and word.updated >= self.context.launched - 300
            }
        return self._last_reports

    # -- what can happen meanwhile ---------------------------------------------------------------

    def _process_died(self, child: Child, code: int) -> None:
        """The GCS or the head's raylet has ended, and not because we wanted it to."""
        self.died(child, code)
        if self._stopping or self.ended.done():
            return
        text = f"the head's {child.name} on {self.context.host} {describe_code(code)}"
        up = hasattr(self, "driver") and self.node.started is not None
        if self.settings.head_recovery and up and self._recoveries < self.settings.max_restarts:
            if self._recovery is None or self._recovery.done():
                self._recovery = asyncio.ensure_future(self._recover(text))
            return
        again = f" after {count(self._recoveries, 'recovery', 'recoveries')}" if self._recoveries else ""
        if code in (0, -signal.SIGTERM):  # told to end: by the signal, perhaps, that is on its way to us
            self._loop.call_later(SAME_SIGNAL_S / 5, self._head_lost, text + again, child.name)
        else:
            self._head_lost(text + again, child.name)

    def _head_lost(self, text: str, name: str) -> None:
        self.end_with(
            End(
                ExitCode.UNHEALTHY,
                text,
                reason="head-lost",
                failed_host=self.context.host,
                log=self.node.log_of(name),
            )
        )

    async def _recover(self, text: str) -> None:
        """--head-recovery: bring the head's Ray back at the same address; see docs/reliability.md.

        A GCS that died alone is started again: raylet, driver and workers connect to it again.  If
        the head's raylet is gone, driver and tasks of this node are gone with it, and all of the
        head is started again; then the driver is.
        """
        delay_s = RECOVERY_DELAY_S * 2**self._recoveries
        self._recoveries += 1
        self.report.warn(f"{text}; recovering ({self._recoveries} of {self.settings.max_restarts})")
        began = time.time()
        try:
            await asyncio.sleep(delay_s)
            if self.node.children["raylet"].running:
                await self.node.restart_gcs()
                what = "the GCS is back; the driver goes on"
            else:
                await self._restart_head()
                what = "the head is back"
        except (RayclusterError, StartFailure, OSError) as error:
            self._head_lost(f"{text}, and could not be recovered: {error}", "gcs_server")
            return
        self.report.say(f"{what} ({duration(time.time() - began)})")

    async def _restart_head(self) -> None:
        assert self.node.started is not None
        session = self.node.started.session
        if self.driver is not None and self.driver.child.running:
            await self.driver.stop(signal.SIGTERM, LOST_GRACE_S)
        await self.node.reset()
        with contextlib.suppress(OSError):
            (self.node.root.ray_dir / "ray_current_cluster").unlink()
        self.node.begin_import()
        started = await self._start_ray(session)
        self.head = replace(self.head, session=started.session, cluster_id=started.cluster_id)
        self._write_head()

    def _nodes_changed(self, nodes: list[Mapping[str, Any]]) -> None:
        joined, lost = self.members.update(nodes)
        for node in joined:
            self.report.note(f"worker {node['name']} joined ({node['ip']})")
        for node in lost:
            if not self._stopping:
                self._background(self._lose(node))

    async def _lose(self, node: Mapping[str, Any]) -> None:
        """A worker is lost: say why, and do what --on-worker-loss says."""
        name = str(node["name"])
        word = await self._last_report_of(name)
        death = node.get("death") or {}
        deaths = word.deaths if word else ()
        if deaths:
            why = f"its {deaths[-1].name} {describe_code(deaths[-1].code)}"
        else:
            said = word.message if word else ""
            why = said or death.get("message") or death.get("reason") or "no reason given"
        if why.startswith("ended by SIG"):
            # scancel, the time limit: that node heard it first, and it is on its way to this one.
            await asyncio.sleep(SAME_SIGNAL_S)
        text = f"worker {name} ({node['ip']}) is lost: {why}"
        driving = self.reports.now.phase in (NodePhase.READY.value, NodePhase.DRIVING.value)
        if self.loss.kind == "fail" and (driving or self.quorum == self.expected):
            self.end_with(End(ExitCode.UNHEALTHY, text, reason="worker-lost", failed_host=name))
            return
        self.report.warn(f"{text}; {len(self.members.alive)} of {self.expected} left")
        if driving:
            await self._outlast(text, name)

    async def _last_report_of(self, host: str) -> NodeReport | None:
        """What a lost node says of its end, if it still can: by the record, since Ray has lost it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LAST_REPORT_S
        while self.record is not None and loop.time() < deadline:
            left_s = max(deadline - loop.time(), 0.05)
            word = await self.reports.ask(self.record.read_node, host, timeout_s=left_s, default=None)
            if word is not None and (
                word.deaths
                or word.phase in (NodePhase.FAILED.value, NodePhase.STOPPING.value, NodePhase.GONE.value)
            ):
                return word
            await asyncio.sleep(0.1)
        return None

    async def _outlast(self, text: str, host: str) -> None:
        """--on-worker-loss continue or wait: end only when too few are left for too long."""
        enough = self.quorum if self.loss.kind == "wait" else (self.settings.min_workers or 0)
        deadline = asyncio.get_running_loop().time() + self.loss.wait_s
        while len(self.members.alive) < enough:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                waited = f" and no other came within {self.loss.wait_s:g} s" if self.loss.wait_s else ""
                self.end_with(
                    End(
                        ExitCode.UNHEALTHY,
                        f"{text}{waited}; {len(self.members.alive)} left, {enough} needed",
                        reason="worker-lost",
                        failed_host=host,
                    )
                )
                return
            self.members.changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.members.changed.wait(), left_s)

    async def _watch_record(self, record: Record) -> None:
        """What others leave in the record: `raycluster stop` its request, a worker that its raylet died.

        And the head's claim is touched now and then.
        """
        beat_at = 0.0
        while True:
            for node_id in await self.reports.submit(record.lost_node_ids):
                if node_id in self.members.alive:  # the GCS has not missed it yet
                    self._nodes_changed([{**self.members.alive[node_id], "alive": False}])
            stop = await self.reports.submit(record.stop_requested)
            if stop is not None:
                self.end_with(
                    End(
                        ExitCode.SIGTERM if self.driver else ExitCode.OK,
                        f"stopped by `raycluster stop`{f' ({stop.by})' if stop.by else ''}",
                        reason="stop",
                    )
                )
                return
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + HEARTBEAT_S
                self.reports.submit(record.leases.beat)
            await asyncio.sleep(RECORD_POLL_S)

    def on_signal(self, number: int, count: int) -> None:
        if number in HANDED_ON:
            if self.driver is not None:
                self._told = True
                self.driver.tell(number)
            else:
                self.report.note(f"{signal.Signals(number).name} ignored: no driver is running")
            return
        super().on_signal(number, count)

    # -- shutdown --------------------------------------------------------------------------------

    async def shutdown(self, end: End) -> End:
        self._stopping = True
        began = time.time()
        for task in (*self._tasks, self._recovery):
            if task is not None:
                task.cancel()
        if self.driver is not None and self.driver.child.running:
            await quietly(self.report, "ending the driver", self._end_driver(end))
            end = self._end_after_driver(end)
        await quietly(self.report, "writing the end", self._write_end(end))
        if hasattr(self, "node"):
            if not self.hurry.is_set():
                await quietly(self.report, "draining the workers", self._drain(end))
                await quietly(self.report, "waiting for the workers", self.after_drain())
                await quietly(self.report, "keeping logs", archive_logs(self, end))
            await quietly(self.report, "ending Ray", self.node.stop(self.hurry))
        if end.reason in ("driver",) and end.code == 0:
            self.report.say(f"{end.message}; ended {duration(time.time() - began)} later")
        elif end.reason != "error":
            self.report.say(f"{end.message}; exit code {int(end.code)}")
        if self._asks_for_requeue(end):
            await quietly(self.report, "requeueing the job", self._requeue())
        return end

    async def _write_end(self, end: End) -> None:
        """Before the first worker goes: a worker that sees its raylet end, or no head at all, reads why."""
        word = EndReport(time.time(), int(end.code), end.reason, end.failed_host, end.message)
        writes: list[Callable[[], None]] = []
        if self.record is not None and self._claimed:
            writes.append(partial(self.record.write_end, word))
        step = self.context.step
        record = self.record or self._refused_by
        if self.context.symmetric and step and record is not None and not self._named:
            writes.append(partial(record.write_refusal, step, word))
        for write in writes:
            await self.reports.ask(self._ignore_errors, write, timeout_s=3.0, default=None)

    def _end_after_driver(self, end: End) -> End:
        """What the driver's answer to being told to end makes of the end.

        Before the time limit its code counts.  After a signal it is 128 + N, but for a driver
        that asks for a requeue.
        """
        assert self.driver is not None
        if not self.driver.child.exited.done():
            return end
        code = shell_code(self.driver.child.exited.result())
        if end.reason == "time-limit" or (
            code == self.settings.requeue_code and self.settings.requeue_on_preempt
        ):
            return replace(end, code=code, message=f"{end.message}; the driver ended with code {code}")
        return end

    def _asks_for_requeue(self, end: End) -> bool:
        wanted = self.settings.requeue_on_preempt and end.code == self.settings.requeue_code
        return wanted and self._told and self.driver is not None and self.context.allocation is not None

    async def _requeue(self) -> None:
        allocation = self.context.allocation
        assert allocation is not None
        self.report.say(f"the driver asks for a requeue (code {self.settings.requeue_code})")
        await requeue(allocation.job_id, self.context.env, self.reaper)

    async def _end_driver(self, end: End) -> None:
        assert self.driver is not None
        self._told = True
        number = signal.SIGINT if end.code == ExitCode.SIGINT else signal.SIGTERM
        grace_s = self.settings.grace
        if end.reason == "head-lost":
            grace_s = min(grace_s, LOST_GRACE_S)
        elif end.reason == "time-limit":
            grace_s = max(grace_s, self.settings.stop_before - RESERVE_S)
        stop = asyncio.ensure_future(self.driver.stop(number, grace_s))
        hurry = asyncio.ensure_future(self.hurry.wait())
        await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not stop.done():
            self.driver.child.send(signal.SIGKILL)
            await stop

    async def after_drain(self) -> None:
        """A place to wait for workers that are this process's own children."""

    async def _drain(self, end: End) -> None:
        """Tell every worker to go, with the reason; idle ones leave within milliseconds."""
        gcs = self.node.children.get("gcs_server")
        if not self.members.alive or gcs is None or not gcs.running:
            return
        await self.node.drain(list(self.members.alive), end.message, DRAIN_S)
        deadline = asyncio.get_running_loop().time() + DRAIN_S
        while self.members.alive and not self.hurry.is_set():
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or not gcs.running:
                return
            self.members.changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.members.changed.wait(), min(left_s, 0.1))
                continue
            await self._forget_those_that_have_gone(left_s)

    async def _forget_those_that_have_gone(self, left_s: float) -> None:
        """Take their own word for it: a node that ended while it joined has killed its raylet.

        The GCS would wait for such a raylet for a second; short drivers end before all nodes have
        noticed that they are in.
        """
        if self.record is None or len(self.members.alive) > FEW:
            return
        for node_id, node in list(self.members.alive.items()):
            word = await self.reports.ask(
                self.record.read_node, str(node["name"]), timeout_s=left_s, default=None
            )
            if word is not None and word.phase in (NodePhase.GONE.value, NodePhase.FAILED.value):
                self.members.alive.pop(node_id, None)


def _refuse_recovery(ray_version: str) -> None:
    """Raise UsageError when this Ray cannot keep the GCS's state on disk.

    >>> _refuse_recovery("2.60.0")
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", ray_version)[:2])
    if numbers < RECOVERY_SINCE:
        needed = ".".join(str(number) for number in RECOVERY_SINCE)
        raise UsageError(
            f"--head-recovery needs Ray {needed} or newer, whose GCS keeps its state in RocksDB; "
            f"this is Ray {ray_version}.",
            "Update Ray, or leave the option out: the job then ends when its head is lost.",
        )


def _aliases(context: Context) -> tuple[str, ...]:
    """Other words by which a person may call this cluster: the array's task, the job's name."""
    allocation = context.allocation
    if allocation is None:
        return ()
    array = f"{allocation.array_job_id}_{allocation.array_task_id}" if allocation.array_job_id else ""
    return tuple(word for word in (array, allocation.job_name) if word)


def _expected_workers(context: Context) -> int:
    """How many workers to wait for: as told, or the nodes that Slurm gave less the head's."""
    if context.settings.expected_workers is not None:
        return context.settings.expected_workers
    hosts = _worker_hosts(context)
    if context.allocation is None or not context.allocation.job_nodes:
        raise UsageError(
            "the number of workers is not known: there is no Slurm job here and no --expected-workers.",
            "Run it in an sbatch script or under srun, or give --expected-workers N.",
        )
    return len(hosts)


def _worker_hosts(context: Context) -> list[str]:
    """The hosts from which workers are expected, where Slurm tells."""
    allocation = context.allocation
    if allocation is None:
        return []
    nodes = allocation.job_nodes
    if context.symmetric and allocation.step_nodes:
        nodes = allocation.step_nodes
    return [node for node in nodes if node != (allocation.node_name or context.host)]


def _another_host(context: Context) -> str | None:
    """Some other host of the job: the route to it tells which of our addresses is the right one."""
    hosts = _worker_hosts(context)
    return hosts[0] if hosts else None
