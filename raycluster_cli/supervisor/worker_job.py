"""A worker in a job of its own (`raycluster worker --cluster JOB`): finds its cluster, and comes and goes.

It differs from a worker of the head's job: it finds the head by the record of another job, the head does not
wait for it, and its loss never ends the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..model.errors import RayclusterError, UsageError
from ..model.loss_policy import WorkerLossPolicy
from ..model.option_text import parse_pairs
from ..model.worker_group import NAME
from ..model.worker_job import instance_id, node_name
from ..node.labels import GROUP_LABEL, JOB_LABEL
from ..policy import actions as do
from ..policy import events as on
from ..policy.values import End
from ..rayproc.gcs_monitor import Loss
from ..slurm.allocation import Allocation
from ..slurm.cluster_name import LOCAL
from ..slurm.departures import grace_end
from ..slurm.job_calls import KnownJob, job_end_time, known_job
from ..state.catalogue import NoClusterError, NoRecordError, record_of
from ..state.notices import Notice, write_notice
from ..state.record import Record
from .cluster_of_worker import SILENT_S, dead_head, end_before, job_in, no_record_error
from .context import Context
from .run import Finished
from .silent_hosts import head_host_responds
from .tasks import cancel
from .worker import RECOVERY_WAIT_S, WorkerRun

#: How often the record of a cluster that has not started yet is looked for, and Slurm is asked for its job.
LOOK_S, ASK_S = 0.25, 10.0

#: How often Slurm is asked for a time limit that may have been changed, at most; and between two looks.
LIMIT_AGAIN_S, LIMIT_LOOK_S = 300.0, 1.0

#: How often at least it is asked where it does not say when the job ends.
LIMIT_UNKNOWN_S = 21600.0

#: How long Slurm may take to say how long a preempted job has left.
GRACE_ANSWER_S = 2.0

#: How often Slurm is asked for the job of a head that does not answer a worker that came.
ASK_AGAIN_S = 3.0

#: When a worker that has joined asks Slurm for the job of a head that recovers (--head-recovery) and is away,
#: and how often again: most are back sooner, and all workers of the cluster would ask.
AWAY_ASK_S, AWAY_AGAIN_S = 8.0, 10.0

#: How long the record is looked for where Slurm cannot say whether the job will still make one.
UNKNOWN_S = 10.0


#: Variables by which Ray's autoscaler knows which node a raylet is, and of which type: the worker group.
INSTANCE_ID, NODE_TYPE = "RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME"


def in_worker_job(context: Context) -> Context:
    """The context of a worker of --cluster: names that no other node of the cluster has.

    The cluster itself is known only once its record is found (WorkerJobRun).  Raises UsageError.
    """
    settings, allocation = context.settings, context.allocation
    if settings.group and not NAME.fullmatch(settings.group):
        raise UsageError(
            f"--group is {settings.group!r}; a worker group's name has lower-case letters, digits, - and _."
        )
    job = allocation.shown_id if allocation else str(os.getpid())
    number = allocation.number_of_node if allocation else 0
    labels = {**parse_pairs("--labels", settings.labels), JOB_LABEL: job}
    if settings.group:
        labels[GROUP_LABEL] = settings.group
    # Without a group they are empty: those of a raylet in whose tasks this job was submitted are not ours.
    identity = instance_id(job, number) if settings.group else ""
    return replace(
        context,
        settings=replace(settings, labels=json.dumps(labels)),
        ray_env={**context.ray_env, INSTANCE_ID: identity, NODE_TYPE: settings.group},
        host=node_name(context.host, job),
        worker_job=job,
    )


class WorkerJobRun(WorkerRun):
    """`raycluster worker --cluster JOB`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._away_ask_s = AWAY_ASK_S
        job = context.settings.cluster
        self.advice = (
            f"`raycluster status {job}` shows whether the cluster runs. Its host must be reachable from "
            "here: --interface and --network choose the network."
        )

    def loss_policy(self, heads: str) -> WorkerLossPolicy:
        """A raylet that died is not started again: for Ray's autoscaler the node is gone."""
        return WorkerLossPolicy.parse("fail")

    async def open_record(self) -> None:
        """Find the cluster.  Raises RayclusterError, and Finished where it has ended."""
        context = self.context
        record = await self._find_record()
        if context.allocation is not None and record.job_id == context.allocation.job_id:
            raise UsageError(
                f"--cluster {self.settings.cluster} names the job that this worker runs in.",
                "Leave --cluster out: without it a worker joins the head of its own job.",
            )
        end = await self.reports.need(record.read_end, where=record.path)
        head = await self.reports.need(record.read_head, where=record.path)
        if (over := end_before(end, head, record.path.name)) is not None:
            raise Finished(over)
        joins = replace(
            context,
            settings=replace(self.settings, name=record.name),
            slurm_cluster=record.slurm_cluster,
            key=record.key,
            state_dir=record.path.parent.parent,
        )
        self.parts = replace(self.parts, context=joins)
        record.hide(context.own_token)
        self.reports.add(job=context.worker_job, group=self.settings.group)
        self.reports.use(record)

    async def _find_record(self) -> Record:
        """The record; waited for while the job that makes it is in the queue or starts."""
        job, state_dir = self.settings.cluster, self.context.state_dir
        loop = asyncio.get_running_loop()
        began = ask_at = loop.time()
        told = False
        while True:
            try:
                return await self.reports.need(own_record, state_dir, job, where=state_dir)
            except NoClusterError:
                raise
            except NoRecordError as missing:
                waited_s = loop.time() - began
                if waited_s >= self.settings.timeout:
                    raise
                if loop.time() >= ask_at:
                    ask_at = loop.time() + ASK_S
                    wait_for = await self._may_still_come(missing, waited_s)
                    if not told:
                        told = True
                        self.report.say(f"{wait_for}; waiting {self.settings.timeout:g} s for its cluster")
            await asyncio.sleep(LOOK_S)

    async def _may_still_come(self, missing: NoRecordError, waited_s: float) -> str:
        """What is waited for, in words.  Raises ``missing``, or what Slurm says instead."""
        job = job_in(self.settings.cluster)
        if job is None:
            raise missing
        try:
            known = await known_job(job, self.context.env, self.reaper)
        except RayclusterError as error:
            if waited_s >= UNKNOWN_S:
                raise missing from error
            return f"there is no record of {job} yet, and Slurm cannot be asked for the job"
        if (refusal := no_record_error(job, known, os.geteuid())) is not None:
            raise refusal if refusal.message else missing
        assert known is not None
        return f"job {job} is {known.state.lower()}"

    async def startup(self) -> None:
        """Join.  Raises Finished as soon as it is known that the head will not come back."""
        joining = asyncio.ensure_future(super().startup())
        head_dead = asyncio.ensure_future(self._until_head_is_dead())
        try:
            await asyncio.wait({joining, head_dead}, return_when=asyncio.FIRST_COMPLETED)
            if not joining.done():
                raise Finished(head_dead.result())
            joining.result()
        finally:
            await cancel([joining, head_dead])

    async def _until_head_is_dead(self) -> End:
        """Returns how the cluster ended once its head, which does not answer, is known to be dead."""
        loop = asyncio.get_running_loop()
        ask_at = 0.0
        known: KnownJob | None = None
        asked = False
        while True:
            await asyncio.sleep(LOOK_S)
            since = self.discovery.missed_since if self.discovery is not None else None
            record = self.record
            if since is None or record is None:
                continue
            if record.slurm_cluster != LOCAL and loop.time() >= ask_at:
                with contextlib.suppress(RayclusterError):  # Slurm may be busy: it is asked again later
                    known, asked = await known_job(record.job_id, self.context.env, self.reaper), True
                ask_at = loop.time() + ASK_AGAIN_S
            silent_s = loop.time() - since
            may_return = silent_s >= SILENT_S and await self._may_recover(record)
            limit_s = RECOVERY_WAIT_S if may_return else SILENT_S
            end = dead_head(
                record.key, record.restart, known, asked=asked, silent_s=silent_s, limit_s=limit_s
            )
            if end is not None:
                return end

    async def _may_recover(self, record: Record) -> bool:
        """Whether a silent head can start its GCS again: with --head-recovery, on a host that runs."""
        head = await self.reports.ask(record.read_head, timeout_s=GRACE_ANSWER_S, default=None)
        return head is not None and head.head_recovery and await head_host_responds(head.address_ip, head)

    async def head_is_gone(self, loss: Loss, away_s: float) -> str:
        """As for other workers; Slurm is asked too: a head that was killed at once has written no end."""
        gone = await super().head_is_gone(loss, away_s)
        record = self.record
        if away_s < AWAY_ASK_S:
            self._away_ask_s = AWAY_ASK_S
        if gone or record is None or record.slurm_cluster == LOCAL or away_s < self._away_ask_s:
            return gone
        self._away_ask_s = away_s + AWAY_AGAIN_S
        try:
            known = await known_job(record.job_id, self.context.env, self.reaper)
        except RayclusterError:
            return ""
        end = dead_head(record.key, record.restart, known, asked=True, silent_s=0.0)
        return end.message if end is not None else ""

    @property
    def head_allocation(self) -> Allocation | None:
        """None: the head is in another job."""
        return None

    def joined(self) -> None:
        super().joined()
        self.rules = self.rules.but(elastic=True)
        if self.settings.drain_before > 0:
            self.tasks.guard("the job's time limit", self._watch_time_limit, vital=False)
        self.report.say(f"{self.context.host} joined cluster {self.context.key} at {self.rules.head_address}")

    def own_actions(self) -> dict[type, Callable[[Any], object]]:
        return {
            **super().own_actions(),
            do.GiveNotice: self._give_notice,
            do.AskGraceTime: lambda _: self.tasks.start("the GraceTime", self._ask_grace_time()),
        }

    def _give_notice(self, action: do.GiveNotice) -> None:
        if self.record is not None and self.node.started is not None:
            notice = Notice(self.node.started.node_id, time.time() + action.left_s, action.why)
            self.reports.quietly(write_notice, self.record.path, notice)

    async def _ask_grace_time(self) -> None:
        """An answer is posted in any case."""
        allocation, end = self.context.allocation, None
        if allocation is not None:
            end = await grace_end(allocation.job_id, self.context.env, self.reaper, timeout_s=GRACE_ANSWER_S)
        self.post(on.GraceTimeKnown(None if end is None else end - time.time()))

    async def _watch_time_limit(self) -> None:
        """Give notice --drain-before seconds before the job's time limit, which may be changed meanwhile."""
        allocation, before_s = self.context.allocation, self.settings.drain_before
        if allocation is None:
            return
        is_first = bool(self.settings.group)
        unknown = 0
        while True:
            end_time = await job_end_time(allocation.job_id, self.context.env, self.reaper)
            end_time = end_time or allocation.end_time
            if end_time is None:  # no limit, or Slurm did not answer
                await asyncio.sleep(ask_again_s(unknown))
                unknown += 1
                continue
            left_s = end_time - time.time()
            before_s = notice_s(before_s, left_s) if is_first else before_s
            is_first, unknown = False, 0
            if left_s <= before_s:
                self.post(on.NodeGoes(f"the time limit of job {self.context.worker_job} is near", left_s))
                return
            await asyncio.sleep(look_again_s(left_s, before_s))

    async def shutdown(self, leave: do.Leave) -> None:
        await super().shutdown(leave)
        if leave.end.on_purpose:
            self.report.say(leave.end.message)  # this job's output has no other line that says why it ended


def own_record(state_dir: Path, job: str) -> Record:
    """The record of a cluster of this user: anyone who can write it decides what runs here.

    Root finds the records of others, to look at them.  Raises NoRecordError, and UsageError for one of them.
    """
    return Record.open(record_of(state_dir, job).path)


def notice_s(before_s: float, left_s: float) -> float:
    """How long before its time limit a worker of a group gives notice that joined with so much time left.

    Half of its time at most: Ray's autoscaler would replace one that leaves at once, by another that does.

    >>> notice_s(60.0, 3600.0), notice_s(60.0, 80.0)
    (60.0, 40.0)
    """
    return min(before_s, max(left_s, 0.0) / 2)


def look_again_s(left_s: float, before_s: float) -> float:
    """When Slurm is asked again for a time limit: a thousand workers ask each for themselves.

    A limit that is made longer is noticed in time, one that is made shorter with a delay.

    >>> look_again_s(60.5, 60.0), look_again_s(400.0, 60.0), look_again_s(86400.0, 60.0)
    (1.0, 300.0, 21600.0)
    """
    return min(max(left_s - before_s, LIMIT_LOOK_S), max(LIMIT_AGAIN_S, min(left_s, 86400.0) / 4))


def ask_again_s(unknown: int) -> float:
    """When Slurm is asked again that has not said ``unknown`` times before when the job ends.

    Its controller may be away for a while; a job without a limit asks more and more seldom.

    >>> ask_again_s(0), ask_again_s(1), ask_again_s(99)
    (300.0, 600.0, 21600.0)
    """
    return min(LIMIT_AGAIN_S * 2.0 ** min(unknown, 20), LIMIT_UNKNOWN_S)
