"""The end of a cluster's worker jobs: those that Slurm still has when the cluster ends are cancelled.

The head does so when it ends, its keeper after a crash, and a requeued head for the cluster before it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..model.errors import RayclusterError
from ..model.wording import describe_code
from ..model.worker_job import WorkerJob, WorkerJobsReport, WorkerJobState
from ..slurm.answer import Run, answer_of
from ..slurm.sbatch import is_marked, mark_of
from ..slurm.worker_queue import QueueLine, parse_queue, squeue_arguments
from ..state.worker_jobs import WorkerJobFiles

#: How long squeue and scancel may take each: a job that ends has not much more time.
ANSWER_S = 8.0

#: Most jobs of one scancel: its command line has a limit.
AT_ONCE = 500

#: The variables that these commands need.
NEEDED = ("PATH", "HOME", "LD_LIBRARY_PATH", "SLURM_CONF")

#: What scancel says of a job that has ended.
HAS_ENDED = ("Invalid job id", "already completing or completed")

#: Why a job that is cancelled here ended.
REASON = "the cluster ended"


def to_cancel(
    known: Collection[WorkerJob],
    queue: Mapping[str, QueueLine] | None,
    mark: str,
    leaving: Collection[str] = (),
) -> list[str]:
    """The ids of the jobs to cancel.

    ``queue``: the jobs that Slurm has, by id; None: Slurm does not say, and the record decides.  Jobs with
    our ``mark`` that are not in the record were submitted while the head ended, or sbatch's answer was lost.
    ``leaving``: jobs whose workers have left the cluster and end by themselves, with exit code 0.
    """
    ids = dict.fromkeys(job.job_id for job in known if not job.is_over)
    leaving = frozenset(leaving)
    if queue is None:
        return [job_id for job_id in ids if job_id not in leaving]
    ours = _of_cluster(queue, ids, mark)
    running = [line.id for line in ours if not (line.is_ended or line.state == "COMPLETING")]
    return [job_id for job_id in running if job_id not in leaving]


def _of_cluster(queue: Mapping[str, QueueLine], ids: Collection[str], mark: str) -> list[QueueLine]:
    """The lines of these jobs, and of those that bear our mark."""
    return [line for line in queue.values() if line.id in ids or is_marked(line.comment, mark)]


def to_keep_from_queue(
    known: Collection[WorkerJob],
    queue: Mapping[str, QueueLine] | None,
    mark: str,
    leaving: Collection[str] = (),
) -> list[str]:
    """The ids of jobs that Slurm is ending (COMPLETING), and may put back into the queue when it has.

    It does so in spite of --no-requeue with one whose script it could not launch, because the host was cut
    off (seen with Slurm 22.05).  Such a job is cancelled by scancel, which has no effect on others.  Not
    asked for are those whose nodes have been in the cluster, or are ``leaving``: their scripts have run.
    """
    ids = {job.job_id for job in known}
    launched = {job.job_id for job in known if job.node_ids}.union(leaving)
    ours = _of_cluster(queue or {}, ids, mark)
    return [line.id for line in ours if line.state == "COMPLETING" and line.id not in launched]


def as_ended(report: WorkerJobsReport, now: float) -> WorkerJobsReport:
    """The worker jobs as the record has them once they were cancelled; ``now`` in Unix seconds."""
    jobs = tuple(
        job if job.is_over else replace(job, state=WorkerJobState.ENDED.value, since=now, reason=REASON)
        for job in report.jobs
        if job.job_id
    )
    groups = tuple(replace(group, paused_until=0.0) for group in report.groups)
    return replace(report, when=now, jobs=jobs, groups=groups)


def batches(ids: Sequence[str]) -> list[list[str]]:
    """The commands that cancel these jobs."""
    return [["scancel", *ids[begin : begin + AT_ONCE]] for begin in range(0, len(ids), AT_ONCE)]


def refused(command: Sequence[str], code: int, said: str) -> RayclusterError | None:
    """The error for an scancel that failed; None where it did not, or where a job has ended meanwhile."""
    if code == 0 or any(text in said for text in HAS_ENDED):
        return None
    lines = said.strip().splitlines() or ["no output"]
    what = " ".join([*command[:9], *(["…"] if len(command) > 9 else [])])
    return RayclusterError(f"`{what}` {describe_code(code)}: {lines[-1]}.", "Cancel these jobs by hand.")


def jobs_of(files: WorkerJobFiles) -> WorkerJobsReport | None:
    """The worker jobs that the record has; None of a cluster without worker groups.

    Of a cluster with groups it has none where its disk was full: Slurm knows them by their mark.
    """
    report = files.read_jobs()
    return WorkerJobsReport(0.0, (), ()) if report is None and files.read_groups() is not None else report


def cancel_worker_jobs(
    record: Path, env: Mapping[str, str], *, run: Run = subprocess.run, now: float | None = None
) -> list[str]:
    """Cancel all worker jobs of the cluster whose record this is; returns their ids.

    For a process without an event loop: it blocks while Slurm answers.  Raises RayclusterError when scancel
    fails.
    """
    files = WorkerJobFiles(record)
    report = jobs_of(files)
    if report is None:
        return []
    files.launches.forget_requests()
    plain = needed(env)
    done = answer_of(squeue(), plain, timeout_s=ANSWER_S, run=run)
    queue = parse_queue(done.stdout) if done is not None and done.returncode == 0 else None
    mark = mark_of(record.name)
    ids = to_cancel(report.jobs, queue, mark)
    problems: list[RayclusterError] = []
    ending = to_keep_from_queue(report.jobs, queue, mark)
    for command in batches([*ids, *ending]):  # all of them: a busy controller may answer the next one
        done = answer_of(command, plain, timeout_s=ANSWER_S, run=run)
        if done is None:
            text = "scancel is not here, or did not answer."
            problems.append(RayclusterError(text, "Cancel the worker jobs by hand."))
        elif (error := refused(command, done.returncode, done.stderr)) is not None:
            problems.append(error)
    if problems:
        raise problems[0]
    with contextlib.suppress(RayclusterError):  # a full disk must not keep the cluster from ending
        files.write_jobs(as_ended(report, time.time() if now is None else now))
    return ids


def squeue() -> list[str]:
    """The command that shows this user's jobs, each task of an array on a line."""
    return ["squeue", *squeue_arguments(os.getuid())]


def needed(env: Mapping[str, str]) -> dict[str, str]:
    """What squeue and scancel need of an environment; others of their variables change what they do."""
    return {name: env[name] for name in NEEDED if name in env}
