"""The head's run: what its policy's actions are, in terms of Ray, the driver and the record."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..model.errors import RayclusterError, UsageError
from ..model.record import EndReport
from ..model.status import EndReason
from ..model.wording import count, duration
from ..node.processes import ESSENTIAL
from ..node.ray_node import RayNode
from ..policy import actions as do
from ..policy import events as on
from ..policy import head as policy
from ..policy.stopping import LOST_GRACE_S
from ..policy.values import End, Worker
from ..rayproc.failure import StartFailure
from ..rayproc.listed_node import NodeDeath
from ..slurm.job_calls import requeue
from ..system.keeper_link import KeeperNotes
from ..system.process import Child
from ..system.report import command_text
from .bundle_refresh import BundleRefresh
from .context import Context
from .driver import Driver, left_running_warning, uv_note, with_restarts
from .head_end import drain_workers, tell_oom_kills
from .head_guards import HeadGuards
from .head_rules import head_rules
from .head_start import HeadStart
from .losses import cause_of_loss
from .own_job import ask_time_limit, tell_output
from .record_watch import remove_old_records, watch_record
from .run import NodeRun
from .silent_hosts import cancel_step_without, limit_wait_for_hung, limit_wait_for_others_steps
from .tasks import cancel
from .worker_watch import WorkerWatch

if TYPE_CHECKING:
    from .autoscaler import Autoscaler
    from .server import Server

#: How long the end may take to be written into the record.
WRITE_END_S = 3.0


class HeadRun(NodeRun):
    """`raycluster head`, and rank 0 of `raycluster run`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rules = head_rules(context)
        self.state = policy.begin(self.rules, time.monotonic())
        self.begin = HeadStart(self.parts, self.rules)
        self.worker_watch = WorkerWatch(self.parts, self.rules, lambda: self.state)
        self.guards: HeadGuards
        """Once there is a node."""
        self.server = self._make_server() if context.settings.service else None
        """The driver's port, health checks and state, with --service."""
        self.driver: Driver | None = None
        self.workers_changed = asyncio.Event()
        self._recovery: asyncio.Task[None] | None = None
        self._bundle = BundleRefresh(self.report.note)
        self._lost: dict[str, str] = {}
        """The addresses of hosts that have lost a worker, by name."""
        self._stayed: dict[str, str] = {}
        """The same of hosts whose worker did not leave when it was drained at the end."""

    def _make_server(self) -> Server:
        from .server import Server  # other runs do not pay for it

        return Server(
            self.parts,
            self.begin.entry,
            state=lambda: self.state,
            node=lambda: self.node,
            driver=lambda: self.driver,
        )

    def step(self, event: object, now: float) -> list[do.Action]:
        before = self.state
        self.state, actions = policy.step(self.rules, self.state, event, now)
        if (self.state.workers, self.state.elastic) != (before.workers, before.elastic):
            self.workers_changed.set()
        return actions

    @property
    def end(self) -> End | None:
        return self.state.end

    def own_actions(self) -> dict[type, Callable[[Any], object]]:
        return {
            do.AnnounceReady: lambda _: self._announce_ready(),
            do.StartDriver: lambda action: self._start_driver(action.restarts),
            do.AskForDriver: lambda _: self.tasks.start(
                "the driver's connection", self.guards.ask_for_driver()
            ),
            do.TellDriver: lambda action: self.driver.tell(action.number) if self.driver else None,
            do.WriteEnd: lambda action: self._end_writes(action.end),
            do.StopDriver: lambda action: self.tasks.start("ending the driver", self._stop_driver(action)),
            do.ExplainLoss: lambda action: self.tasks.start("a lost worker", self._explain(action.worker)),
            do.ReadReports: lambda _: self.tasks.start(
                "reading the reports", self.worker_watch.read_reports()
            ),
            do.ShowDemand: lambda action: self.begin.entry.update(unplaceable=action.unplaceable),
            do.AskTimeLimit: lambda action: self.tasks.start(
                "the time limit", ask_time_limit(self.parts, self.begin.entry, action.now)
            ),
            do.RestartGcs: lambda action: self._recover(self._restart_gcs, action.delay_s),
            do.RestartHead: lambda action: self._recover(self._restart_head, action.delay_s),
            do.KillSilent: lambda a: self.tasks.start(f"ending {a.name}", self._kill(a.name)),
            **(self.server.actions() if self.server is not None else {}),
        }

    # -- the start -------------------------------------------------------------------------------

    async def startup(self) -> None:
        begin, tasks = self.begin, self.tasks
        record = await begin.take_lease()
        if record is not None:
            # From now on, since a stop may be asked for before Ray is up.
            watch = partial(watch_record, self.parts, record, lambda: self.state)
            tasks.guard("the watch over the record", watch)
            self.tell_keeper()
        self.post(on.LeaseTaken())
        await begin.read_groups()
        await begin.find_driver()
        node = await self.make_node()
        await begin.ray_up(node)
        self.parent.tell(event="up", address=begin.entry.info.address)
        self.guards = HeadGuards(
            self.parts,
            node,
            rules=self.rules,
            state=lambda: self.state,
            workers=self.worker_watch,
            recovery_over=self.recovery_over,
        )
        await self.guards.begin()
        tasks.guard("the watch over the node's files", self.watch_files)
        if begin.groups:
            tasks.guard("Ray's autoscaler", self._autoscaler(node).keep, vital=False)
        else:
            tasks.guard("what waits for resources", self.guards.watch_demand, vital=False)
        tasks.start("what Slurm says of the job", tell_output(self.parts, begin.entry))
        if self.server is not None:
            tasks.guard("the watch over the server", self.server.watch, vital=False)
        if record is not None:
            tasks.start("old records", remove_old_records(self.parts, record))
        self.post(on.RayStarted())

    def _autoscaler(self, node: RayNode) -> Autoscaler:
        from .autoscaler import Autoscaler  # other runs do not pay for it

        begin = self.begin
        return Autoscaler(self.parts, node, begin.entry.info.address, begin.groups, self.recovery_over)

    def ray_variables(self) -> Mapping[str, str]:
        return {**super().ray_variables(), **self.begin.ray_variables()}

    def keeper_notes(self) -> KeeperNotes:
        notes = super().keeper_notes()
        if not self.begin.groups:
            return notes
        from .worker_job_ends import crash_note  # other runs do not pay for it

        return notes.but(worker_jobs=crash_note(self.context.env))

    def process_died(self, child: Child, code: int) -> None:
        self.post(on.HeadProcessDied(child.name, code, self.node.log_of(child.name)))

    def _announce_ready(self) -> None:
        context, address = self.context, self.begin.entry.info.address
        nodes = count(len(self.state.workers) + 1, "node")
        took = duration(time.time() - context.launched)
        self.parent.tell(event="ready", address=address, environment=self.node.client_variables())
        if context.driver:
            more = f"; driver: {command_text(context.driver)}"
        elif context.allocation is None:
            more = ". Stop it with Ctrl-C."
        else:
            more = f". Stop it with `raycluster stop {context.key}`."
        self.report.say(f"{nodes} ready at {address} after {took}{more}")
        self.tasks.start("the bundle of modules", self._bundle.run(context.env))

    # -- the driver ------------------------------------------------------------------------------

    def _start_driver(self, restarts: int) -> None:
        env = with_restarts(self.node.driver_environment(), restarts)
        if not restarts and (note := uv_note(self.context.driver, env)):
            self.report.say(note)
        driver = self.context.driver
        if self.server is not None:
            driver, env = self.server.arguments(), {**env, **self.server.variables()}
            if not restarts:
                self.server.warn_of_open_port(env)
        try:
            self.driver = Driver.start([self.begin.program, *driver[1:]], env, self.reaper, self.signals)
        except OSError as error:
            text = f"the driver could not be started: {error.strerror or error}."
            hint = "Is it a program for this machine? A script needs a first line such as #!/bin/bash."
            self.post(on.StartEnded(self.end_of_error(UsageError(text, hint))))
            return
        self.driver.on_left_running = lambda commands: self.report.warn(left_running_warning(commands))
        self.tasks.start("the driver", self._watch_driver(self.driver))
        self.node.start_extras()

    async def _watch_driver(self, driver: Driver) -> None:
        # Shielded: cancelling this task must not cancel the future that others wait for too.
        code = await asyncio.shield(driver.child.exited)
        self.post(on.DriverExited(code, time.time() - driver.started))

    async def _stop_driver(self, action: do.StopDriver) -> None:
        if self.driver is None:
            self.post(on.DriverStopped(None))
            return
        stop = self.driver.stop(action.number, action.grace_s)
        self.post(on.DriverStopped(await self._kill_in_a_hurry(self.driver, stop)))

    async def _end_left_running(self) -> None:
        """Programs that a driver started and that still run after it ended by itself."""
        if self.driver is not None:
            stop = self.driver.stop_left_running(self.settings.grace)
            await self._kill_in_a_hurry(self.driver, stop)

    async def _kill_in_a_hurry(self, driver: Driver, stop: Coroutine[Any, Any, int | None]) -> int | None:
        """The result of a stop of the driver, which is killed when the end must come at once."""
        stopping = asyncio.ensure_future(stop)
        hurry = asyncio.ensure_future(self.hurry.wait())
        try:
            both: set[asyncio.Future[Any]] = {stopping, hurry}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await driver.kill()
            return await stopping
        finally:
            await cancel([stopping, hurry])

    # -- losses and recovery ---------------------------------------------------------------------

    async def _explain(self, worker: Worker) -> None:
        """Find out why a worker has left: its own report names the cause, the GCS only misses its answers."""
        death = self.worker_watch.deaths.pop(worker.node_id, NodeDeath())
        if not worker.job:
            self._lost[worker.host] = worker.ip
        cause = await cause_of_loss(worker, death, self.record, self.reports)
        self.post(on.WorkerLost(worker, cause))

    async def _kill(self, name: str) -> None:
        child = self.node.children.get(name)
        if child is not None and child.running:
            await child.stop(0.0)

    def _recover(self, work: Callable[[], Any], delay_s: float) -> None:
        """Start a recovery, in place of one that is under way."""
        earlier, self._recovery = self._recovery, None
        self._recovery = self.tasks.start("the recovery", self._recovering(earlier, work, delay_s))

    async def _recovering(
        self, earlier: asyncio.Task[None] | None, work: Callable[[], Any], delay_s: float
    ) -> None:
        if earlier is not None:
            await cancel([earlier])
        began = time.time()
        try:
            await asyncio.sleep(delay_s)
            await work()
        except (RayclusterError, StartFailure, OSError) as error:
            self.post(on.RecoveryFailed(str(error), self.node.log_of("gcs_server")))
            return
        # The policy ignores deaths during a recovery: one that has ended again by now makes it a failure.
        for name in ESSENTIAL:
            if not self.node.children[name].running:
                self.post(on.RecoveryFailed(f"{name} ended again", self.node.log_of(name)))
                return
        self.post(on.Recovered(time.time() - began))

    async def _restart_gcs(self) -> None:
        await self.node.restart_gcs()

    async def _restart_head(self) -> None:
        if self.driver is not None and self.driver.child.running:
            await self.driver.stop(signal.SIGTERM, LOST_GRACE_S)
        await self.begin.ray_up_again(self.node)

    async def recovery_over(self) -> None:
        """Returns when no recovery is under way."""
        while self._recovery is not None and not self._recovery.done():
            await asyncio.wait({self._recovery})

    # -- the end ---------------------------------------------------------------------------------

    async def shutdown(self, leave: do.Leave) -> None:
        end, began = leave.end, time.time()
        joined = [worker.job for worker in self.state.elastic.values()]
        self.begin.close()
        await self.try_to("ending what the driver left running", self._end_left_running())
        await self.try_to("writing the end", self._write_end(end))
        if self.has_node and not self.hurry.is_set():
            drain = drain_workers(
                self.parts, self.node, lambda: self.state, self.workers_changed, end.message
            )
            await self.try_to("draining the workers", drain)
            self._stayed = {worker.host: worker.ip for worker in self.state.members.values()}
            await self.try_to("waiting for the workers", self.after_drain())
            await self.try_to("keeping logs", self.archive_logs(end))
        await self._cancel_worker_jobs(joined)
        if self.has_node:
            await self.try_to("ending Ray", self.node.stop(self.hurry))
        if end.reason == EndReason.DRIVER.value and end.code == 0:
            self.report.say(f"{end.message}; ended {duration(time.time() - began)} later")
        elif end.reason != EndReason.ERROR.value:
            self.report.say(f"{end.message.rstrip('.')}; exit code {int(end.code)}")
        await self.try_to(
            "looking for killed processes", tell_oom_kills(self.parts, self.rules.expected, end)
        )
        if leave.requeue:
            await self.try_to("requeueing the job", self._requeue(end))
        await self._bundle.over()
        await self.try_to("cancelling the step", self._limit_wait_of_srun())

    async def _limit_wait_of_srun(self) -> None:
        stayed = {**self._lost, **self._stayed}
        if not self.context.symmetric:
            await limit_wait_for_others_steps(self.parts, stayed)
        elif not await cancel_step_without(self.parts, self._lost):
            await limit_wait_for_hung(self.parts, stayed)

    async def _cancel_worker_jobs(self, joined: list[str]) -> None:
        if self.begin.groups:
            from .worker_job_ends import end_worker_jobs  # other runs do not pay for it

            stayed = list(self.state.elastic.values())
            leaving = set(joined) - {worker.job for worker in stayed}
            await self.try_to("cancelling the worker jobs", end_worker_jobs(self.parts, leaving, stayed))

    async def _write_end(self, end: End) -> None:
        """Write the end before the first worker leaves: one that loses its raylet or its head reads why."""
        if writing := self._end_writes(end):
            await asyncio.wait(writing, timeout=WRITE_END_S)

    def _end_writes(self, end: End) -> list[asyncio.Future[Any]]:
        """Begin to write the end; the record's thread makes the writes in this order."""
        report = EndReport(time.time(), int(end.code), end.reason, end.failed_host, end.message, end.detail)
        writes: list[Callable[[], None]] = []
        if self.record is not None and self.begin.claimed:
            writes.append(partial(self.record.write_end, report))
        launch = self.context.launch
        record = self.record or self.begin.refused_by
        if self.context.symmetric and launch and record is not None and not self.begin.entry.named:
            writes.append(partial(record.write_refusal, launch, report))
        return [self.reports.quietly(write) for write in writes]

    async def after_drain(self) -> None:
        """Wait for workers that are children of this process: only `run --local` has them."""

    async def _requeue(self, end: End) -> None:
        allocation = self.context.allocation
        assert allocation is not None
        self.report.say(f"the driver asks for a requeue (code {end.code})")
        await requeue(allocation.own_id, self.context.env, self.reaper)
