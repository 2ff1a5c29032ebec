"""A worker's run: join the head, watch it and our own raylet, end with the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ..model.errors import RayclusterError, UsageError
from ..model.loss_policy import WorkerLossPolicy
from ..model.record import EndReport
from ..model.status import EndReason, NodePhase
from ..policy import actions as do
from ..policy import events as on
from ..policy import worker as policy
from ..policy.values import End
from ..policy.worker import WorkerRules, WorkerState
from ..rayproc.gcs_monitor import Loss, gcs_lost
from ..slurm.allocation import Allocation
from ..state.record import Record
from ..system.process import Child
from .context import Context
from .discovery import AttemptFailed, ClusterKey, Discovery
from .head_record import HeadRecord, head_task_probe
from .joining import ADVICE, FEW_NODES, Joined, Joiner
from .losses import LAST_REPORT_S, end_by_report, end_without_report
from .run import Finished, NodeRun
from .silent_hosts import cancel_step_without, head_host_responds, refuses
from .template_wait import may_be_described
from .usage import tell_usage

#: How long a head with --head-recovery gets to come back.  Less than Ray's raylets wait for it
#: (rayproc.plan: 60 s), so that this process shuts the node down, and not the raylet by itself.
RECOVERY_WAIT_S = 50.0

#: How often the record is asked again for an end that is waited for.
LOOK_S = 0.1

#: A head that has written into the record within this time before this node's report of its loss responds:
#: two checks of 4 s have to fail before a loss is reported.
WROTE_BEFORE_S = 5.0


class WorkerRun(NodeRun):
    """`raycluster worker`, and the ranks above 0 of `raycluster run`."""

    advice = ADVICE
    """What to do next when no head is found."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        check_head_known(context)
        settings = context.settings
        self.rules = WorkerRules(
            host=context.host,
            loss=settings.worker_loss,
            max_restarts=settings.max_restarts,
            grace_s=settings.grace,
        )
        self.state = WorkerState()
        self.discovery: Discovery | None = None
        """The search for our head, once it has begun."""
        self.joiner: Joiner
        self.cluster: Joined
        """The head that we joined, and the record of its cluster."""

    def step(self, event: object, now: float) -> list[do.Action]:
        self.state, actions = policy.step(self.rules, self.state, event, now)
        return actions

    @property
    def end(self) -> End | None:
        return self.state.end

    def own_actions(self) -> dict[type, Callable[[Any], object]]:
        start = self.tasks.start
        return {
            do.ReportLoss: lambda _: self._report_loss(),
            do.LookForEnd: lambda action: start("the cluster's end", self._look_for_end(action.wait_s)),
            do.RestartRaylet: lambda action: start("starting Ray again", self._restart(action)),
        }

    # -- the start -------------------------------------------------------------------------------

    async def startup(self) -> None:
        context, settings = self.context, self.settings
        deadline = asyncio.get_running_loop().time() + settings.timeout
        head_record = self.make_head_record()
        self.discovery = self.make_discovery(head_record)
        try:
            await head_record.remember_ended_cluster()
            node = await self.make_node()
            described = may_be_described(settings) and self.record is not None
            if not described or (await node.templates.accelerators()).doubt:
                node.begin_import()  # else the head's template may make it unnecessary
            self.enter_phase(NodePhase.WAITING, node_root=str(node.root.path))
            self.joiner = Joiner(
                self.discovery,
                node,
                settings=settings,
                host=context.host,
                symmetric=context.symmetric,
                own_token=context.own_token,
                reports=self.reports,
                report=self.report,
                deadline=deadline,
                speaks=context.nodes_in_job <= FEW_NODES
                or (context.allocation is not None and context.allocation.nodeid == 1),
                advice=self.advice,
            )
            self.cluster = await self.joiner.join()
        finally:
            head_record.close()
        self.joined()
        self.parent.tell(
            event="ready", address=self.cluster.target.address, environment=node.client_variables()
        )
        self.tasks.guard("the watch over the head", self._watch_head)
        self.tasks.guard("the watch over the node's files", self.watch_files)
        usage = partial(tell_usage, self.parts, node, context.nodes_in_job)
        self.tasks.guard("what is in use", usage, vital=False)

    @property
    def head_allocation(self) -> Allocation | None:
        """The allocation that our head is in, as far as Slurm's variables tell: our own."""
        return self.context.allocation

    def make_head_record(self) -> HeadRecord:
        """The reader of what the record says of our head."""
        context, allocation = self.context, self.head_allocation
        task_probe = None
        if context.symmetric:
            task_probe = head_task_probe(allocation, context.host, context.env, self.reaper)
        return HeadRecord(
            self.record,
            reports=self.reports,
            report=self.report,
            allocation=allocation,
            symmetric=context.symmetric,
            nodes=context.nodes_in_job,
            task_probe=task_probe,
        )

    def make_discovery(self, head_record: HeadRecord) -> Discovery:
        """The search for our head."""
        context, settings, allocation = self.context, self.settings, self.head_allocation
        certain = allocation is not None or context.key_given or bool(settings.cluster)
        return Discovery(
            head_record,
            reports=self.reports,
            key=ClusterKey(context.slurm_cluster, context.key, settings.name, certain),
            allocation=allocation,
            state_dir=context.state_dir,
            own_token=context.own_token,
            auth=settings.auth,
            master_ip=settings.master_ip,
            master_port=settings.master_port,
        )

    def loss_policy(self, heads: str) -> WorkerLossPolicy:
        """The policy for this worker's own raylet; ``heads`` is the head's --on-worker-loss."""
        return WorkerLossPolicy.parse(heads) if heads else self.settings.worker_loss

    def joined(self) -> None:
        """Our raylet is registered: from now on the head's settings apply, not our own."""
        node, target, settings = self.node, self.cluster.target, self.settings
        head = target.head
        self.rules = WorkerRules(
            host=self.context.host,
            loss=self.loss_policy(head.on_worker_loss if head else ""),
            max_restarts=settings.max_restarts,
            grace_s=settings.grace,
            head_host=head.host if head else target.ip,
            head_address=target.address,
            has_record=self.record is not None,
        )
        self.reports.stamp(node.steps)
        self.reports.add(
            node_id=node.started.node_id if node.started else "",
            ip=node.address.ip,
            restarts=self.state.restarts,
        )
        self.post(on.Joined())
        raylet = node.children.get("raylet")
        if raylet is not None and not raylet.running:  # it has ended again by now
            self.process_died(raylet, raylet.exited.result())
            return
        node.start_extras()

    # -- while it runs ---------------------------------------------------------------------------

    def process_died(self, child: Child, code: int) -> None:
        self.tasks.start("the death of the raylet", self._raylet_died(code))

    async def _raylet_died(self, code: int) -> None:
        drained = await self.node.drain_message() if code == 0 else None
        self.post(on.RayletDied(code, drained, self.node.log_of("raylet")))

    async def _watch_head(self) -> None:
        """Returns when the GCS is lost; a head that recovers gets the time to come back."""
        target = self.cluster.target
        recovers = target.head is not None and target.head.head_recovery

        def changed(why: str) -> None:
            self.post(on.GcsAway(why) if why else on.GcsBack())

        loss = await gcs_lost(
            target.ip,
            target.port,
            interval_s=self.settings.check_interval,
            patience_s=RECOVERY_WAIT_S if recovers else 0.0,
            on_change=changed,
            gone=self.head_is_gone,
            context=self.node.tls_context,
        )
        self.post(on.GcsLost(loss.why, loss.silent))

    async def head_is_gone(self, loss: Loss, away_s: float) -> str:
        """Why a head that recovers (--head-recovery) cannot come back; empty: it may.

        A GCS that hangs does not answer, but its host does.  A host that has failed takes the head with it.
        """
        target = self.cluster.target
        if not loss.silent or await head_host_responds(target.ip, target.head):
            return ""
        return f"{loss.why}, and its host does not respond"

    async def _look_for_end(self, wait_s: float) -> None:
        record = self.cluster.record or self.record
        end = await self.find_end(record, wait_s)
        if end is None and record is not None and self.state.lost is not None and not self.state.drained:
            end = await self._end_by_report(record)
        self.post(on.EndLookedUp(end))

    async def _end_by_report(self, record: Record) -> EndReport | None:
        """The end of a head that was killed before it could write one; it is written for it."""
        head = self.cluster.target.head
        if head is None:
            return None
        report = await self.reports.ask(record.read_node, head.host, timeout_s=LAST_REPORT_S, default=None)
        end = end_by_report(report, head.started)
        if end is None and await refuses(head.address_ip, head.port):
            end = end_without_report(head.host, time.time())
        if end is not None:
            self.reports.quietly(record.write_end, end)
        return end

    async def find_end(self, record: Record | None, wait_s: float) -> EndReport | None:
        """How the head says that the cluster ended; waits a little for a slow file server."""
        if record is None:
            return None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            left_s = max(deadline - loop.time(), LOOK_S)
            end = await self.reports.look(record.read_end, timeout_s=left_s, default=None)
            if end is not None or loop.time() >= deadline:
                return end
            await asyncio.sleep(LOOK_S)

    def _report_loss(self) -> None:
        record = self.cluster.record or self.record
        if record is not None and self.node.started is not None:
            self.reports.quietly(record.tell_loss, self.node.started.node_id)

    async def _restart(self, action: do.RestartRaylet) -> None:
        """Start Ray again on this node."""
        await self.node.reset()
        self.node.begin_import()
        await asyncio.sleep(action.delay_s)
        try:
            await self.joiner.start_again(self.cluster.target)
        except AttemptFailed as failed:
            self.post(on.RestartFailed(str(failed), failed.log))
        except RayclusterError as error:
            self.post(on.RestartFailed(str(error)))
        except Finished as finished:
            self.post(on.StartEnded(finished.end))
        else:
            self.joined()

    # -- the end ---------------------------------------------------------------------------------

    async def shutdown(self, leave: do.Leave) -> None:
        end = leave.end
        if self.has_node:
            await self.try_to("keeping logs", self.archive_logs(end))
            await self.try_to("ending Ray", self.node.stop(self.hurry))
        silent = (EndReason.ERROR.value, EndReason.SIGNAL.value)
        if end.reason == EndReason.RAYLET_LOST.value or (not end.on_purpose and end.reason not in silent):
            self.report.say(f"{end.message.rstrip('.')}; exit code {int(end.code)}")
        if end.reason == EndReason.HEAD_LOST.value and self._is_first_without_head():
            target = self.cluster.target
            lost = {self.rules.head_host: target.ip}
            await self.try_to(
                "cancelling the step", cancel_step_without(self.parts, lost, lives=self._head_lives)
            )

    def _head_lives(self) -> bool:
        """Whether the head still writes into the record: then only this node cannot reach it."""
        record, me = self.record, self.context.host
        own = record.read_node(me) if record is not None else None
        if record is None or own is None or own.phase != NodePhase.STOPPING.value:
            return False  # our report of the loss is not there yet
        return record.head_wrote_since(me, WROTE_BEFORE_S)

    def _is_first_without_head(self) -> bool:
        """Whether the head stopped responding, and this node is the first of those that are left."""
        allocation = self.context.allocation
        nodes = (allocation.step_nodes if allocation else None) or ()
        left = [node for node in nodes if node != self.rules.head_host]
        lost = self.state.lost
        return lost is not None and lost.silent and left[:1] == [self.context.host]


def check_head_known(context: Context) -> None:
    """Raise UsageError when nothing says which head is meant."""
    settings = context.settings
    named = settings.master_ip or settings.name or settings.cluster
    known = named or context.allocation is not None or context.key_given
    if not known:
        raise UsageError(
            "the head is not known: there is no Slurm job here and no --master-ip.",
            "Run it under srun in the head's job, or give --master-ip and --master-port.",
        )
