"""From a record, and what Slurm says, to a ClusterStatus.  Reads only; never raises for what is not there.

A record tells nearly all by itself, also where Slurm is not reachable, has no accounting, or has
forgotten the job.  Slurm adds what it alone knows: that a job still waits in its queue or is suspended,
the time limit where the job was not told it, and that a job has ended whose head did not report it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace

from ..model.cluster_status import ClusterPhase, ClusterStatus, NodeStatus, Usage
from ..model.errors import UsageError
from ..model.group_status import GroupStatus
from ..model.hostlist import natural
from ..model.record import ClusterUsage, EndReport, HeadInfo, NodeReport, NodeUsage
from ..model.status import FINAL, MEMBER, EndDetail, EndReason, NodePhase, Role
from ..model.worker_job import WorkerJobState
from ..slurm.hostlist import parse_hostlist
from ..slurm.pending import Wait, wait_of
from ..slurm.queue import Job
from ..state.lease import HEARTBEAT_S
from ..state.record import Record
from .groups import left_in_slurm, read_groups
from .next_run import as_next_run, is_another_run

#: A head touches its lease every 30 s.  After this long without it counts as lost, where Slurm cannot say.
SILENT_S = 180.0

#: A heartbeat that is older than this is late, by the next one and half of a period.
LATE_S = 1.5 * HEARTBEAT_S

#: The same when Slurm does not know the job any more.
SILENT_UNKNOWN_S = 75.0

#: Usage older than this says nothing of now.
USAGE_FRESH_S = 15.0
NODE_USAGE_FRESH_S = 90.0

#: After the end was written, nodes have this long to report theirs.
ENDING_S = 45.0

#: A worker may report this much later that it joined than its head that all have.
JOIN_REPORT_S = 5.0

#: A file of a record that cannot be read for this long is not just being written.
UNREADABLE_S = 5.0


def read_cluster(
    record: Record,
    jobs: Mapping[str, Job] | None = None,
    *,
    now: float | None = None,
    events: int = 200,
    brief: bool = False,
) -> ClusterStatus:
    """The status of one cluster.

    ``jobs`` is query_jobs()'s answer: None when Slurm was not asked or did not answer.
    ``events``: how many of the event log's last lines to read; 0 saves opening it.  ``brief``: of a cluster
    that ended some time ago leave out the nodes, each of which is a file.
    """
    when = time.time() if now is None else now
    # The end first: a head that starts anew under the same key moves head.json away before end.json.
    end = record.read_end() or _unreadable_end(record, when)
    head = record.read_head()
    past = brief and end is not None and when - end.when > ENDING_S
    reports = {} if past else record.read_nodes()
    if head is not None:
        # Not those of an earlier cluster of this key; workers may have started before their head did.
        reports = {host: one for host, one in reports.items() if one.updated >= head.started - 300}
    job = _job_of(record, jobs)
    usage = record.read_usage() if end is None else None
    if usage is not None and (when - usage.when > USAGE_FRESH_S or (head and usage.when < head.started)):
        usage = None
    nodes = (
        ()
        if brief and not reports
        else _nodes(head, reports, usage, record.read_node_usages() if usage else {}, when)
    )
    grew = head is not None and head.worker_groups
    groups = read_groups(record.path) if grew and end is None else ()
    left = left_in_slurm(record.path, jobs, end.when, when) if jobs and grew and end is not None else ()
    nodes = _with_jobs(nodes, groups)
    stop = record.stop_requested() if end is None else None
    service = record.read_service() if end is None and head is not None and head.service else None
    status = ClusterStatus(
        job=record.key,
        name=record.name,
        phase=ClusterPhase.STARTING,
        nodes=nodes,
        expected_nodes=head.expected_workers + 1 + sum(one.is_member for one in nodes if one.job)
        if head
        else 0,
        started=head.started if head else min((one.updated for one in reports.values()), default=0.0),
        read_at=when,
        ended=end.when if end else None,
        end_time=_time_limit(head, job),
        address=head.address if head else "",
        head_host=head.host if head else "",
        dashboard=head.dashboard if head else "",
        driver=head.driver if head else (),
        is_service=head.service if head else False,
        service=service,
        exit_code=end.exit_code if end else None,
        reason=end.reason if end else "",
        failed_host=end.failed_host if end else "",
        message=end.message if end else "",
        slurm_cluster=record.slurm_cluster,
        slurm_state=job.state if job else "",
        job_name=job.name if job else "",
        record=str(record.path),
        stop_asked_by=stop.by if stop else "",
        versions=_versions(head),
        auth=head.auth if head else True,
        tls=head.tls if head else False,
        pending_tasks=usage.pending if usage else 0,
        unplaceable=head.unplaceable if head and end is None else (),
        groups=groups,
        left_in_slurm=left,
        usage_at=usage.when if usage else None,
        events=tuple((event.when, event.text) for event in record.read_events(events)) if events else (),
    )
    return _with_phase(status, record, end, job, jobs is not None)


def waiting_message(job: Job, now: float) -> str:
    """Why a job waits, and until when as far as Slurm knows."""
    message = f"waiting in Slurm's queue ({job.reason or job.state.lower()})"
    wait = wait_of(job.reason)
    if wait is Wait.NEVER:
        return f"{message}; it will never start: `raycluster why {job.id}` says what to change"
    if job.start_time and job.start_time > now and wait is not Wait.HELD:
        clock = time.strftime("%H:%M", time.localtime(job.start_time))
        message += f"; Slurm expects it to start at {clock}"
    return message


def _unreadable_end(record: Record, now: float) -> EndReport | None:
    """An end that is there but cannot be read, by another version or broken; None when there is none.

    A file that is new may not be whole yet on a network file system.
    """
    try:
        found = os.lstat(record.path / "end.json")
    except OSError:
        return None
    if now - found.st_mtime < UNREADABLE_S:
        return None
    return EndReport(
        found.st_mtime, 1, message="it has ended, but how cannot be read (end.json in its record)"
    )


def _job_of(record: Record, jobs: Mapping[str, Job] | None) -> Job | None:
    return jobs.get(record.job_id) if jobs and record.slurm_cluster != "local" else None


def _time_limit(head: HeadInfo | None, job: Job | None) -> float | None:
    """When the time limit ends the job, in Unix seconds: as Slurm says now, since it can be changed."""
    if job is not None and not (job.is_ended or job.is_waiting) and job.end_time:
        return job.end_time
    return (head.end_time if head else 0.0) or (job.end_time if job else None)


def _versions(head: HeadInfo | None) -> dict[str, str]:
    if head is None:
        return {}
    return {
        "raycluster": head.raycluster_version,
        "ray": head.ray_version,
        "python": head.python_version,
    }


def hosts_of(text: str) -> list[str]:
    if not text:
        return []
    try:
        return parse_hostlist(text)
    except UsageError:
        return []


def _nodes(
    head: HeadInfo | None,
    reports: Mapping[str, NodeReport],
    usage: ClusterUsage | None,
    node_usages: Mapping[str, NodeUsage],
    now: float,
) -> tuple[NodeStatus, ...]:
    """The head, then the workers by name; also hosts that are expected and have not reported."""
    nodes = [_node(one, usage, node_usages.get(host), now) for host, one in reports.items()]
    if head is not None:
        expected = hosts_of(head.worker_hosts)
        nodes += [
            NodeStatus(host, Role.WORKER, NodePhase.NOT_REPORTED, since=head.started)
            for host in expected
            if host not in reports
        ]
        if head.host not in reports:
            nodes.append(NodeStatus(head.host, Role.HEAD, NodePhase.NOT_REPORTED, since=head.started))
    return tuple(sorted(nodes, key=lambda node: (node.role is not Role.HEAD, natural(node.host))))


def _node(report: NodeReport, usage: ClusterUsage | None, own: NodeUsage | None, now: float) -> NodeStatus:
    try:
        phase = NodePhase(report.phase)
    except ValueError:  # a phase of a later version
        phase = NodePhase.LAUNCHED
    try:
        role = Role(report.role)
    except ValueError:
        role = Role.WORKER
    alive = None
    if usage is not None and report.node_id and phase in MEMBER and report.updated < usage.when:
        alive = report.node_id in usage.nodes
    return NodeStatus(
        host=report.host,
        role=role,
        phase=phase,
        since=report.phases.get(report.phase, report.updated),
        alive=alive,
        address=report.ip,
        message=report.message,
        updated=report.updated,
        node_id=report.node_id,
        exit_code=report.exit_code,
        node_root=report.node_root,
        log_path=report.log_path,
        usage=_usage(usage.nodes.get(report.node_id), own, now) if usage is not None else None,
        phases=report.phases,
        job=report.job,
        group=report.group,
    )


def _with_jobs(nodes: tuple[NodeStatus, ...], groups: tuple[GroupStatus, ...]) -> tuple[NodeStatus, ...]:
    """With what is known of their worker jobs, and without nodes of jobs that are over.

    A cluster that shrinks has lost nothing.
    """
    jobs = {job.job_id: job for group in groups for job in group.jobs}
    found = []
    for node in nodes:
        job = jobs.get(node.job)
        is_over = job is not None and job.state == WorkerJobState.ENDED
        if node.job and (node.phase in FINAL or node.is_lost or is_over):
            continue
        is_idle = job is not None and job.state == WorkerJobState.IDLE
        found.append(replace(node, idle_since=job.since) if job is not None and is_idle else node)
    return tuple(found)


def _usage(found: object, own: NodeUsage | None, now: float) -> Usage | None:
    if not isinstance(found, dict):
        return None
    total, used = _amounts(found.get("total")), _amounts(found.get("used"))
    fresh = own if own is not None and now - own.when < NODE_USAGE_FRESH_S else None
    store_used = int(used.get("object_store_memory", 0))
    return Usage(
        cpus_total=total.get("CPU", 0.0),
        cpus_used=used.get("CPU", 0.0),
        gpus_total=total.get("GPU", 0.0),
        gpus_used=used.get("GPU", 0.0),
        object_store_total_bytes=int(total.get("object_store_memory", 0)),
        object_store_used_bytes=store_used,
        memory_total_bytes=fresh.memory_total_bytes if fresh else 0,
        memory_used_bytes=fresh.memory_used_bytes if fresh else None,
        worker_processes=fresh.worker_processes if fresh else None,
    )


def _amounts(resources: object) -> dict[str, float]:
    """Amounts by resource; without those that are no numbers."""
    if not isinstance(resources, dict):
        return {}
    return {name: float(amount) for name, amount in resources.items() if isinstance(amount, (int, float))}


def _with_phase(
    status: ClusterStatus,
    record: Record,
    end: EndReport | None,
    job: Job | None,
    slurm_answered: bool,
) -> ClusterStatus:
    """The state of the whole, the most certain first: how it ended, that it is lost, what nodes report."""
    head_node = next((node for node in status.nodes if node.role is Role.HEAD), None)
    if job is not None and is_another_run(status, record, end, job):
        return as_next_run(status, end, job, waiting_message(job, status.read_at))
    if end is not None:
        over = (
            head_node is None
            or head_node.phase in FINAL
            or end.reason == "supervisor-killed"  # written by others, when all was over
            or end.detail == EndDetail.BY_STOP.value
            or status.read_at - end.when > ENDING_S
            or record.leases.head_runs_here() is False
        )
        if not over:
            return replace(_without_lost(status, end), phase=ClusterPhase.STOPPING, ended=None)
        status = _not_current(_without_lost(status, end))
        if end.exit_code == 0:
            return replace(status, phase=ClusterPhase.ENDED)
        stopped = end.reason in ("stop", "signal")
        return replace(status, phase=ClusterPhase.STOPPED if stopped else ClusterPhase.FAILED)
    if job is not None and job.is_suspended:
        message = "Slurm has suspended the job: its processes are stopped until it is resumed"
        if job.state == "STOPPED":
            message = "the job's processes are stopped (scancel --signal=STOP) until they get SIGCONT"
        return replace(status, phase=ClusterPhase.SUSPENDED, message=message)
    lost = _why_lost(status, record, job, slurm_answered)
    if lost:
        last = max((node.updated for node in status.nodes), default=status.started)
        return replace(_not_current(status), phase=ClusterPhase.LOST, message=lost, ended=last or None)
    if job is not None and job.is_waiting and status.started == 0:
        return replace(status, phase=ClusterPhase.PENDING, message=waiting_message(job, status.read_at))
    if status.stop_asked_by:
        return replace(status, phase=ClusterPhase.STOPPING)
    if head_node is not None and head_node.phase in (NodePhase.STOPPING, *FINAL):
        return replace(status, phase=ClusterPhase.STOPPING, message=head_node.message)
    status = replace(status, message=status.message or _late(status, record))
    if head_node is None or head_node.phase not in (NodePhase.READY, NodePhase.DRIVING):
        return status
    fewer = status.ready_nodes < status.expected_nodes
    coming = sum(node.phase is NodePhase.STARTING for node in status.nodes)
    if (
        fewer
        and status.ready_nodes + coming >= status.expected_nodes
        and status.read_at - head_node.since < JOIN_REPORT_S
    ):
        return status
    return replace(status, phase=ClusterPhase.DEGRADED if fewer else ClusterPhase.RUNNING)


def _late(status: ClusterStatus, record: Record) -> str:
    """That the head's heartbeat is late, as when its host has just lost its power; empty when it is not."""
    heard = record.leases.last_heartbeat()
    if heard is None or status.read_at - heard <= LATE_S or record.leases.head_runs_here():
        return ""
    where = status.head_host or "its node"
    return f"the head on {where} has not been heard from for {status.read_at - heard:.0f} s"


def _without_lost(status: ClusterStatus, end: EndReport) -> ClusterStatus:
    """The worker whose loss ended the cluster is lost, also where nobody asks the GCS any more."""
    if end.reason != EndReason.WORKER_LOST.value:
        return status
    nodes = (replace(node, alive=False) if node.host == end.failed_host else node for node in status.nodes)
    return replace(status, nodes=tuple(nodes))


def _not_current(status: ClusterStatus) -> ClusterStatus:
    """Reports of nodes that have not reported their end say nothing about a cluster that is over.

    Nodes of worker jobs are left out: those that were lost before the end reported nothing either.
    """
    own = [node for node in status.nodes if not node.job]
    return replace(status, nodes=tuple(replace(node, is_current=False) for node in own))


def _why_lost(status: ClusterStatus, record: Record, job: Job | None, slurm_answered: bool) -> str:
    """Why a cluster that has not reported its end no longer runs; empty when it may run."""
    here = record.leases.head_runs_here()
    where = status.head_host or "its head's node"
    is_over = here is False or (here is None and job is not None and job.is_ended)
    if is_over and (unwritten := record.unwritten_end()):
        return unwritten
    if here is False:
        return f"raycluster on {where} exited without reporting: it was killed together with its keeper"
    if here:
        return ""
    if job is not None and job.is_ended:
        return f"Slurm ended the job ({job.state.lower()}) before the head reported why"
    heard = record.leases.last_heartbeat()
    if heard is None:
        with contextlib.suppress(OSError):
            heard = record.path.stat().st_mtime
    silent_s = status.read_at - heard if heard is not None else 0.0
    unknown = slurm_answered and job is None and record.slurm_cluster != "local"
    if unknown and silent_s > SILENT_UNKNOWN_S:
        return f"Slurm no longer knows the job, and its head ({where}) exited without reporting"
    if silent_s > SILENT_S:
        minutes = int(silent_s // 60)
        return f"the head on {where} has not reported for {minutes} min"
    return ""
