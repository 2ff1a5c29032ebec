"""From a record to the GroupStatus of each worker group, and their JSON.  Reads only; never raises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..model.group_status import GroupStatus
from ..model.worker_group import GroupBounds, WorkerGroup
from ..model.worker_job import GroupState, WorkerJob, WorkerJobState
from ..slurm.queue import Job
from ..state.worker_jobs import WorkerJobFiles

#: This many jobs that have ended are kept of each group: what ended last may say why no node comes.
ENDED_KEPT = 5

#: A worker job that was cancelled has ended by then.
LEAVES_S = 20.0


def read_groups(record: Path) -> tuple[GroupStatus, ...]:
    """The groups of the cluster with this record, in their order; none for a cluster of a fixed size."""
    files = WorkerJobFiles(record)
    report = files.read_groups()
    if report is None:
        return ()
    jobs, bounds = files.read_jobs(), files.read_bounds()
    states = {state.group: state for state in jobs.groups} if jobs else {}
    return tuple(
        _status(
            group,
            bounds.get(group.name),
            [job for job in jobs.jobs if job.group == group.name] if jobs else [],
            states.get(group.name, GroupState(group.name)),
        )
        for group in report.groups
    )


def left_in_slurm(record: Path, slurm: Mapping[str, Job], ended: float, now: float) -> tuple[str, ...]:
    """Worker jobs that run or complete in Slurm though their cluster ended at ``ended`` (Unix seconds).

    ``slurm``: the user's jobs.  One that started after the end has got the id of an earlier job, and one that
    runs may take some seconds to end.
    """
    report = WorkerJobFiles(record).read_jobs()
    if report is None:
        return ()
    found = [one for one in slurm.values() if not one.is_ended and not one.is_waiting]
    ours = [one for one in found if any(one.shown_id == job.job_id for job in report.jobs)]
    return tuple(
        f"worker job {one.shown_id} ({one.state} on {one.nodes})"
        for one in ours
        if (one.start_time is None or one.start_time <= ended)
        and (one.state == "COMPLETING" or now - ended > LEAVES_S)
    )


def _status(
    group: WorkerGroup, bounds: GroupBounds | None, jobs: list[WorkerJob], state: GroupState
) -> GroupStatus:
    ended = [job for job in jobs if job.state == WorkerJobState.ENDED]
    old = set(map(id, sorted(ended, key=lambda job: job.since)[:-ENDED_KEPT]))
    return GroupStatus(
        name=group.name,
        min_workers=bounds.min_workers if bounds else group.min_workers,
        max_workers=bounds.max_workers if bounds else group.max_workers,
        is_set=bounds is not None,
        nodes_per_job=group.nodes_per_job,
        idle_timeout_s=group.idle_timeout_s,
        sbatch=group.sbatch,
        jobs=tuple(job for job in jobs if id(job) not in old),
        paused_until=state.paused_until,
        problem=state.problem,
        excluded=state.excluded,
        ended_before=state.ended_before + len(old),
    )


def group_json(group: GroupStatus) -> dict[str, Any]:
    """One group, by the schema in docs/json.md."""
    return {
        "name": group.name,
        "min": group.min_workers,
        "max": group.max_workers,
        "set_by_hand": group.is_set,
        "nodes": group.nodes,
        "nodes_joined": group.joined_nodes,
        "nodes_by_state": group.nodes_by_state(),
        "nodes_per_job": group.nodes_per_job,
        "idle_timeout_s": group.idle_timeout_s,
        "sbatch": list(group.sbatch),
        "paused_until": group.paused_until or None,
        "problem": group.problem,
        "excluded_hosts": list(group.excluded),
        "ended_before": group.ended_before,
        "jobs": [
            {
                "job": job.job_id,
                "state": job.state,
                "since": job.since,
                "reason": job.reason,
                "expected_start": job.expected_start or None,
                "nodes": job.nodes,
                "hosts": list(job.hosts),
                "node_ids": list(job.node_ids),
                "output": job.output,
            }
            for job in group.jobs
        ],
    }
