"""What happens to one worker job: its new state and what to do, decided from what Slurm and Ray say of it.

A pure function, `next_of`.  The table in docs/guides/elastic.md is its contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..model.errors import UsageError
from ..model.value import Value
from ..model.worker_job import WorkerJob, WorkerJobState
from ..slurm.hostlist import parse_hostlist
from ..slurm.pending import Wait, advice_for, wait_of
from ..slurm.worker_queue import QueueLine

#: How long a job may run before its nodes have joined.
START_TIMEOUT_S = 300.0

#: How long a job may run on after its nodes have left the cluster: a worker ends by itself before.
LEFT_TIMEOUT_S = 30.0

#: A node without work for less than this counts as at work: short tasks come in bursts.
IDLE_SHOWN_S = 5.0

#: After this time scancel is called again for a job that still runs.
CANCEL_AGAIN_S = 30.0

#: A job that Slurm has been ending for so long (COMPLETING), without nodes in the cluster, is over for it: an
#: epilog runs, or its host does not respond, which can take minutes.
COMPLETING_S = 10.0

#: States in which the nodes of a job have joined.
IN_CLUSTER = (WorkerJobState.READY, WorkerJobState.IDLE)

#: Reasons, for people, of a job whose nodes Ray drains, and of one that was suspended before it joined.
RAY_DRAINS = "Ray drains it"
SUSPENDED = "it is suspended"
LEFT = "its nodes have left the cluster"

#: How a job ended, by its state in Slurm.
END_WORDS: Mapping[str, str] = {
    "BOOT_FAIL": "its nodes did not boot",
    "CANCELLED": "it was cancelled",
    "COMPLETING": "Slurm has ended it",
    "COMPLETED": "its worker exited with 0",
    "DEADLINE": "it missed its deadline",
    "FAILED": "its worker failed",
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "it ran out of memory",
    "PREEMPTED": "it was preempted",
    "REVOKED": "it was revoked",
    "TIMEOUT": "its time limit was reached",
}

#: Ends of a job before it joined that say nothing of its group or hosts.
_NOT_ITS_FAULT = ("PREEMPTED", "REVOKED")


class RayNode(Value):
    """What the GCS says of a node of the cluster that runs in a worker job."""

    node_id: str
    """Ray's id of it, in hex."""
    idle_since: float | None = None
    """Unix seconds since when it has had no work; None while it has some."""
    draining: bool = False
    host: str = ""
    """Its name in Slurm, where known."""


class Next(Value):
    """The outcome of a step."""

    job: WorkerJob
    cancel: str = ""
    """Why the job is to be cancelled now; empty: it is not."""
    failed_start: str = ""
    """Why its start failed; empty: it did not, or not yet."""
    never: str = ""
    """Why no job of its group can start: Slurm's reason and what to change."""


def needs_queue(job: WorkerJob, nodes: Sequence[RayNode]) -> bool:
    """Whether squeue has to be asked for a job; ``nodes`` are those of its nodes that the GCS has.

    A job whose nodes are all in the cluster runs, unless it was cancelled; only its hosts, or the
    number of an array's task, may not be known.
    """
    if job.is_cancelled:
        return True
    is_known = bool(job.hosts) and ("_" not in job.job_id or bool(job.number))
    return job.state != WorkerJobState.ENDED and (len(nodes) < job.nodes or not is_known)


def next_of(
    job: WorkerJob, line: QueueLine | None, asked: bool, nodes: Sequence[RayNode], now: float
) -> Next:
    """One step of a job.

    ``line``: what squeue says of it; None with ``asked``: squeue does not know it any more, without:
    squeue was not asked.  ``now``: Unix seconds.
    """
    if job.state == WorkerJobState.ENDED:
        return Next(job)
    if line is not None and not line.is_pending:
        number = line.number if line.number != job.job_id else ""
        job = replace(job, hosts=_hosts(line) or job.hosts, number=number or job.number)
    if line is not None and line.is_ended:
        return _ended(job, line.state, line.reason, now)
    if len(nodes) >= job.nodes:
        job = _in_cluster(job, nodes, now)
        if line is None or job.state != WorkerJobState.DRAINING:
            return Next(job)
    if line is None:
        return _ended(job, "", "", now) if asked else Next(job)
    if line.state == "COMPLETING" and not nodes:
        job = replace(job, completing_since=job.completing_since or now)
        if now - job.completing_since >= COMPLETING_S:
            # Slurm puts one back into the queue whose script it could not launch; scancel prevents that.
            cancel = "" if job.is_cancelled else END_WORDS[line.state]
            return _ended(job, line.state, "", now).but(cancel=cancel)
    if nodes and (job.state in IN_CLUSTER or job.drained_by_ray):
        return Next(_in_cluster(job, nodes, now))  # the others of a job of several nodes have left
    if job.state == WorkerJobState.DRAINING:
        again = now - job.since >= CANCEL_AGAIN_S and line.state != "COMPLETING"
        return Next(replace(job, since=now) if again else job, cancel=job.reason if again else "")
    if line.is_pending:
        return _pending(job, line, now)
    if line.is_suspended:
        return _suspended(job, now)
    if job.state in (WorkerJobState.WANTED, WorkerJobState.PENDING) or job.suspended:
        return Next(moved(job, WorkerJobState.STARTING, now))
    if job.state == WorkerJobState.STARTING:
        if now - job.since < START_TIMEOUT_S:
            return Next(replace(job, reason=""))
        why = f"it did not join within {START_TIMEOUT_S:g} s"
        return Next(moved(job, WorkerJobState.DRAINING, now, why), cancel=why, failed_start=why)
    if not job.reason:  # its nodes have just left, and the worker ends by itself
        return Next(moved(job, WorkerJobState(job.state), now, LEFT))
    if now - job.since < LEFT_TIMEOUT_S:
        return Next(job)
    return _cancelled(job, LEFT, now)


def moved(job: WorkerJob, state: WorkerJobState, now: float, reason: str = "") -> WorkerJob:
    """The job in another state."""
    return replace(
        job,
        state=state.value,
        since=now,
        reason=reason,
        expected_start=0.0,
        drained_by_ray=False,
        suspended=False,
    )


def _hosts(line: QueueLine) -> tuple[str, ...]:
    try:
        return tuple(parse_hostlist(line.nodes)) if line.nodes else ()
    except UsageError:
        return ()


def _in_cluster(job: WorkerJob, nodes: Sequence[RayNode], now: float) -> WorkerJob:
    """Its nodes are in the cluster: ``nodes``, of a job of several those that have not left."""
    hosts = tuple(node.host for node in nodes)
    job = replace(
        job, node_ids=tuple(node.node_id for node in nodes), hosts=hosts if all(hosts) else job.hosts
    )
    is_draining = any(node.draining for node in nodes)
    if job.is_cancelled or (job.drained_by_ray and is_draining):
        return job
    if is_draining:
        return replace(moved(job, WorkerJobState.DRAINING, now, RAY_DRAINS), drained_by_ray=True)
    idle = [node.idle_since for node in nodes if node.idle_since is not None]
    if len(idle) == len(nodes) and now - max(idle) >= IDLE_SHOWN_S:
        return moved(job, WorkerJobState.IDLE, max(idle))
    if job.state == WorkerJobState.READY and not job.reason:
        return job
    return moved(job, WorkerJobState.READY, now)


def _pending(job: WorkerJob, line: QueueLine, now: float) -> Next:
    if line.state == "CONFIGURING":
        return Next(replace(job, reason="its nodes boot", expected_start=0.0))
    if job.state not in (WorkerJobState.WANTED, WorkerJobState.PENDING) or line.state != "PENDING":
        return _cancelled(job, "Slurm has requeued it, and a worker job starts only once", now)
    wait = wait_of(line.reason)
    # Slurm's first reason can be a preliminary one (22.05: PartitionConfig before PartitionTimeLimit).
    if wait is Wait.NEVER and line.reason == job.reason:
        why = f"its jobs can never start: Slurm's reason is {line.reason}."
        ended = moved(job, WorkerJobState.DRAINING, now, f"it can never start: {line.reason}")
        return Next(ended, cancel=ended.reason, never=f"{why} {advice_for(line.reason)}".strip())
    began = job.since if job.state == WorkerJobState.PENDING else now
    return Next(
        replace(
            job,
            state=WorkerJobState.PENDING.value,
            since=began,
            reason=line.reason,
            expected_start=line.start_time or 0.0,
        )
    )


def _suspended(job: WorkerJob, now: float) -> Next:
    """A job that had joined is cancelled, since Ray has given up its nodes; one that had not waits."""
    if job.state in IN_CLUSTER:
        return _cancelled(job, "it was suspended, and Ray has given up its nodes", now)
    return Next(replace(moved(job, WorkerJobState.STARTING, now, SUSPENDED), suspended=True))


def _cancelled(job: WorkerJob, why: str, now: float) -> Next:
    return Next(moved(job, WorkerJobState.DRAINING, now, why), cancel=why)


def _ended(job: WorkerJob, state: str, reason: str, now: float) -> Next:
    """Slurm has ended the job; ``state`` is empty when Slurm has forgotten it."""
    ours = job.reason if job.is_cancelled else ""
    words = END_WORDS.get(state, "Slurm does not know it any more")
    ended = moved(job, WorkerJobState.ENDED, now, ours or words)
    if job.state not in (WorkerJobState.WANTED, WorkerJobState.PENDING, WorkerJobState.STARTING):
        return Next(ended)
    if wait_of(reason) is Wait.NEVER:  # Slurm ends some such jobs by itself, as FAILED
        why = f"its jobs can never start: Slurm's reason is {reason}."
        return Next(ended, never=f"{why} {advice_for(reason)}".strip())
    if state in _NOT_ITS_FAULT:
        return Next(ended)
    when = "while it was pending" if state == "CANCELLED" and not job.hosts else "before it joined"
    return Next(replace(ended, reason=f"{words} {when}"), failed_start=f"{words} {when}")
