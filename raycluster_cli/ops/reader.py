"""From a record, and what Slurm says, to a ClusterStatus.  Reads only; never raises for what is not there.

A record tells nearly all by itself, also where Slurm is not reachable, has no accounting, or has
forgotten the job.  Slurm adds three things: a job that still waits in its queue, the time limit
where the job was not told it, and the certainty that a cluster whose head is silent is lost.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..model.errors import UsageError
from ..model.record import ClusterUsage, EndReport, HeadInfo, NodeReport, NodeUsage
from ..model.status import MEMBER, ClusterPhase, ClusterStatus, NodePhase, NodeStatus, Role, Usage
from ..slurm.hostlist import parse_hostlist
from ..slurm.queue import Job
from ..state.catalogue import list_records, record_of
from ..state.record import Record

#: A head touches its claim every 30 s: after so long without, and nobody else to ask, it is lost.
SILENT_S = 180.0

#: The same when Slurm does not know the job any more.
SILENT_UNKNOWN_S = 75.0

#: Usage older than this says nothing of now.
USAGE_FRESH_S = 15.0
NODE_USAGE_FRESH_S = 90.0

#: After the end was written, nodes have so long to say good-bye.
ENDING_S = 45.0

_FINAL = (NodePhase.GONE, NodePhase.FAILED)


def read_cluster(
    record: Record,
    jobs: Mapping[str, Job] | None = None,
    *,
    now: float | None = None,
    events: int = 200,
    brief: bool = False,
) -> ClusterStatus:
    """The status of one cluster.

    ``jobs`` is slurm_jobs.query_jobs()'s answer: None when Slurm was not asked or did not answer.
    ``events``: how many of the event log's last lines to read; 0 saves opening it.  ``brief``: of a cluster
    that ended some time ago leave out the nodes, each of which is a file.
    """
    when = time.time() if now is None else now
    # The end first: a head that starts anew under the same key moves head.json away before end.json.
    end = record.read_end()
    head = record.read_head()
    past = brief and end is not None and when - end.when > ENDING_S
    words = {} if past else record.read_nodes()
    if head is not None:
        # Words of an earlier cluster of this key; its workers may have started before its head did.
        words = {host: word for host, word in words.items() if word.updated >= head.started - 300}
    job = _job_of(record, jobs)
    usage = record.read_usage() if end is None else None
    if usage is not None and (when - usage.when > USAGE_FRESH_S or (head and usage.when < head.started)):
        usage = None
    nodes = (
        ()
        if brief and not words
        else _nodes(head, words, usage, record.read_node_usages() if usage else {}, when)
    )
    stop = record.stop_requested() if end is None else None
    status = ClusterStatus(
        job=record.key,
        name=record.name,
        phase=ClusterPhase.STARTING,
        nodes=nodes,
        expected_nodes=head.expected_workers + 1 if head else 0,
        started=head.started if head else min((word.updated for word in words.values()), default=0.0),
        read_at=when,
        ended=end.when if end else None,
        end_time=(head.end_time if head and head.end_time else None) or (job.end_time if job else None),
        address=head.address if head else "",
        head_host=head.host if head else "",
        dashboard=head.dashboard if head else "",
        driver=head.driver if head else (),
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
        usage_at=usage.when if usage else None,
        events=tuple((event.when, event.text) for event in record.read_events(events)) if events else (),
    )
    return _with_phase(status, record, words, end, job, jobs is not None)


def waiting_job(job: Job, now: float | None = None) -> ClusterStatus:
    """A job that has no record yet: it waits in Slurm's queue, or its script has not come to raycluster."""
    when = time.time() if now is None else now
    phase = ClusterPhase.PENDING if job.is_waiting else ClusterPhase.STARTING
    if job.is_waiting:
        message = f"waiting in Slurm's queue ({job.reason or job.state.lower()})"
        if job.start_time and job.start_time > when:
            message += (
                f"; Slurm expects it to start at {time.strftime('%H:%M', time.localtime(job.start_time))}"
            )
    else:
        message = f"Slurm says {job.state.lower()}; no head has written its record yet"
    nodes = len(_hosts(job.nodes))
    return ClusterStatus(
        job=job.id,
        name="",
        phase=phase,
        nodes=(),
        expected_nodes=nodes,
        started=0.0,
        read_at=when,
        end_time=job.end_time,
        message=message,
        slurm_state=job.state,
        job_name=job.name,
    )


# --------------------------------------------------------------------------- which clusters


def find_record(state_dir: Path, job: str, env: Mapping[str, str]) -> Record:
    """The record meant by JOB; without one this job's own, else the one that runs, else the newest.

    UsageError when there is none, or several run.
    """
    if job:
        return record_of(state_dir, job)
    inside = env.get("SLURM_JOB_ID", "")
    if inside:
        with contextlib.suppress(UsageError):
            return record_of(state_dir, inside)
    records = list_records(state_dir)
    running = [record for record in records if record.read_end() is None and is_alive(record)]
    if len(running) > 1:
        names = ", ".join(record.path.name for record in running[:6])
        raise UsageError(f"{len(running)} clusters run: {names}.", "Say which one you mean.")
    if running:
        return running[0]
    if records:
        return records[0]
    raise UsageError(
        f"no cluster has left a record below {state_dir}.",
        "Start one with `raycluster run --local 2 -- …` or in a job, or point --state-dir at the records.",
    )


def is_alive(record: Record, now: float | None = None) -> bool:
    """Whether a record without an end may be of a cluster that runs; asks no Slurm."""
    here = record.leases.head_runs_here()
    if here is not None:
        return here
    heard = record.leases.heard()
    if heard is None:  # no head yet: as young as its directory
        with contextlib.suppress(OSError):
            heard = record.path.stat().st_mtime
    return heard is not None and (time.time() if now is None else now) - heard < SILENT_S


def read_all(
    state_dir: Path, jobs: Mapping[str, Job] | None, *, now: float | None = None, limit: int = 20
) -> list[ClusterStatus]:
    """Clusters that run, all of them, then those that have ended, ``limit`` at most, newest first."""
    running: list[ClusterStatus] = []
    over: list[ClusterStatus] = []
    known = set()
    for record in list_records(state_dir):
        known.add(record.job_id)
        if len(over) >= limit and record.read_end() is not None:
            continue
        status = read_cluster(record, jobs, now=now, events=0, brief=True)
        if status.is_over:
            over.append(status)
        elif status.started or status.nodes or status.slurm_state:
            running.append(status)
    running.sort(key=lambda status: -status.started)
    over.sort(key=lambda status: -(status.ended or status.started))
    return running + over[:limit]


# --------------------------------------------------------------------------- the parts


def _job_of(record: Record, jobs: Mapping[str, Job] | None) -> Job | None:
    return jobs.get(record.job_id) if jobs and record.slurm_cluster != "local" else None


def _versions(head: HeadInfo | None) -> dict[str, str]:
    if head is None:
        return {}
    return {
        "raycluster": head.raycluster_version,
        "ray": head.ray_version,
        "python": head.python_version,
    }


def _hosts(text: str) -> list[str]:
    if not text:
        return []
    try:
        return parse_hostlist(text)
    except UsageError:
        return []


def _nodes(
    head: HeadInfo | None,
    words: Mapping[str, NodeReport],
    usage: ClusterUsage | None,
    node_usages: Mapping[str, NodeUsage],
    now: float,
) -> tuple[NodeStatus, ...]:
    """The head, then the workers by name; hosts that are expected and silent too."""
    nodes = [_node(word, usage, node_usages.get(host), now) for host, word in words.items()]
    if head is not None:
        expected = _hosts(head.worker_hosts)
        nodes += [
            NodeStatus(host, Role.WORKER, NodePhase.UNHEARD, since=head.started)
            for host in expected
            if host not in words
        ]
        if head.host not in words:
            nodes.append(NodeStatus(head.host, Role.HEAD, NodePhase.UNHEARD, since=head.started))
    return tuple(sorted(nodes, key=lambda node: (node.role is not Role.HEAD, natural(node.host))))


def natural(host: str) -> tuple[object, ...]:
    """Sorts n2 before n10.

    >>> sorted(["n10", "n2"], key=natural)
    ['n2', 'n10']
    """
    parts: list[object] = []
    digits = ""
    for char in host + "\0":
        if char.isdigit():
            digits += char
        else:
            if digits:
                parts += [(0, int(digits), "")]
                digits = ""
            parts.append((1, 0, char))
    return tuple(parts)


def _node(word: NodeReport, usage: ClusterUsage | None, own: NodeUsage | None, now: float) -> NodeStatus:
    try:
        phase = NodePhase(word.phase)
    except ValueError:  # a word of a later version
        phase = NodePhase.LAUNCHED
    try:
        role = Role(word.role)
    except ValueError:
        role = Role.WORKER
    alive = None
    if usage is not None and word.node_id and phase in MEMBER and word.updated < usage.when:
        alive = word.node_id in usage.nodes
    return NodeStatus(
        host=word.host,
        role=role,
        phase=phase,
        since=float(word.phases.get(word.phase, word.updated)),
        alive=alive,
        address=word.ip,
        message=word.message,
        updated=word.updated,
        node_id=word.node_id,
        exit_code=word.exit_code,
        node_root=word.node_root,
        log_path=word.log_path,
        usage=_usage(usage.nodes.get(word.node_id), own, now) if usage is not None else None,
        phases={name: float(at) for name, at in word.phases.items()},
    )


def _usage(found: object, own: NodeUsage | None, now: float) -> Usage | None:
    if not isinstance(found, dict):
        return None
    total, used = found.get("total", {}), found.get("used", {})
    fresh = own if own is not None and now - own.when < NODE_USAGE_FRESH_S else None
    store_used = int(used.get("object_store_memory", 0))
    return Usage(
        cpus_total=float(total.get("CPU", 0)),
        cpus_used=float(used.get("CPU", 0)),
        gpus_total=float(total.get("GPU", 0)),
        gpus_used=float(used.get("GPU", 0)),
        object_store_total_bytes=int(total.get("object_store_memory", 0)),
        object_store_used_bytes=store_used,
        memory_total_bytes=fresh.memory_total_bytes if fresh else 0,
        memory_used_bytes=fresh.memory_used_bytes if fresh else None,
        worker_processes=fresh.worker_processes if fresh else None,
    )


def _with_phase(
    status: ClusterStatus,
    record: Record,
    words: Mapping[str, NodeReport],
    end: EndReport | None,
    job: Job | None,
    slurm_answered: bool,
) -> ClusterStatus:
    """The state of the whole, in the order of certainty: how it ended, that it is lost, what nodes say."""
    head_node = next((node for node in status.nodes if node.role is Role.HEAD), None)
    if end is not None:
        over = (
            head_node is None
            or head_node.phase in _FINAL
            or end.reason == "supervisor-killed"  # written by others, when all was over
            or status.read_at - end.when > ENDING_S
            or record.leases.head_runs_here() is False
        )
        if not over:
            return replace(status, phase=ClusterPhase.STOPPING, ended=None)
        status = _not_current(status)
        if end.exit_code == 0:
            return replace(status, phase=ClusterPhase.ENDED)
        stopped = end.reason in ("stop", "signal")
        return replace(status, phase=ClusterPhase.STOPPED if stopped else ClusterPhase.FAILED)
    lost = _why_lost(status, record, job, slurm_answered)
    if lost:
        last = max((node.updated for node in status.nodes), default=status.started)
        return replace(_not_current(status), phase=ClusterPhase.LOST, message=lost, ended=last or None)
    if job is not None and job.is_waiting and status.started == 0:
        return replace(status, phase=ClusterPhase.PENDING, message=waiting_job(job, status.read_at).message)
    if status.stop_asked_by:
        return replace(status, phase=ClusterPhase.STOPPING)
    if head_node is not None and head_node.phase in (NodePhase.STOPPING, *_FINAL):
        return replace(status, phase=ClusterPhase.STOPPING, message=head_node.message)
    if head_node is None or head_node.phase not in (NodePhase.READY, NodePhase.DRIVING):
        return status
    fewer = status.ready_nodes < status.expected_nodes
    return replace(status, phase=ClusterPhase.DEGRADED if fewer else ClusterPhase.RUNNING)


def _not_current(status: ClusterStatus) -> ClusterStatus:
    """Words of nodes that have not said good-bye tell nothing of a cluster that is over."""
    return replace(status, nodes=tuple(replace(node, is_current=False) for node in status.nodes))


def _why_lost(status: ClusterStatus, record: Record, job: Job | None, slurm_answered: bool) -> str:
    """Why a cluster without an end does not run any more; empty when it may."""
    here = record.leases.head_runs_here()
    where = status.head_host or "its head's node"
    if here is False:
        return f"raycluster on {where} is gone and left no word: it was killed together with its keeper"
    if here:
        return ""
    if job is not None and job.is_ended:
        return f"Slurm ended the job ({job.state.lower()}) before the head could say why"
    heard = record.leases.heard()
    if heard is None:
        with contextlib.suppress(OSError):
            heard = record.path.stat().st_mtime
    silent_s = status.read_at - heard if heard is not None else 0.0
    unknown = slurm_answered and job is None and record.slurm_cluster != "local"
    if unknown and silent_s > SILENT_UNKNOWN_S:
        return f"Slurm does not know the job any more, and its head left no word of its end ({where})"
    if silent_s > SILENT_S:
        minutes = int(silent_s // 60)
        return f"the head on {where} has not been heard of for {minutes} min"
    return ""
