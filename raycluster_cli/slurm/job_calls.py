"""What a running job asks of Slurm for itself: its time limit, its output file, its requeue.

A few calls in a job's life, and none of them once for each node.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..model.errors import RayclusterError
from ..model.value import Value
from ..model.wording import describe_code
from ..system.process import Reaper
from .command import run_command
from .job_fields import job_fields, uid_in
from .output_name import output_name
from .queue import ENDED, parse_time


def parse_end_time(text: str) -> float | None:
    """Unix seconds of the job's end, from `scontrol show job`; None when it has no limit.

    Reads Unix seconds (SLURM_TIME_FORMAT=%s, as :func:`job_end_time` asks) and ISO in local time.

    >>> parse_end_time("JobId=7 RunTime=00:00:03 EndTime=1795408208 Deadline=N/A")
    1795408208.0
    >>> parse_end_time("JobId=7 EndTime=Unknown") is None
    True
    """
    return parse_time(job_fields(text).get("EndTime", ""))


async def job_end_time(job_id: str, env: Mapping[str, str], reaper: Reaper) -> float | None:
    """When Slurm will end the job, in Unix seconds; None when Slurm does not say.

    For Slurm before 23.02, which does not set SLURM_JOB_END_TIME, and for limits that were changed
    after the job's start.
    """
    try:
        code, text = await run_command(["scontrol", "show", "job", "--oneliner", job_id], env, reaper)
    except RayclusterError:
        return None
    return parse_end_time(text) if code == 0 else None


class KnownJob(Value):
    """A job as `scontrol show job` has it: whose it is, and what it does."""

    state: str
    """PENDING, RUNNING, COMPLETED …"""
    uid: int | None = None
    restarts: int = 0

    @property
    def is_over(self) -> bool:
        return self.state in ENDED


def parse_known_job(text: str) -> KnownJob | None:
    """Read `scontrol show job`.

    >>> parse_known_job("JobId=7 UserId=ada(1000) JobState=PENDING Reason=None Requeue=1 Restarts=2")
    KnownJob(state='PENDING', uid=1000, restarts=2)
    """
    fields = job_fields(text)
    if not (state := fields.get("JobState", "")):
        return None
    restarts = fields.get("Restarts", "")
    return KnownJob(state, uid_in(fields.get("UserId", "")), int(restarts) if restarts.isdigit() else 0)


async def known_job(job_id: str, env: Mapping[str, str], reaper: Reaper) -> KnownJob | None:
    """A job of any user; None where Slurm does not know it.  Raises RayclusterError without an answer."""
    code, text = await run_command(["scontrol", "show", "job", "--oneliner", job_id], env, reaper)
    if code != 0 and "Invalid job id" not in text:
        lines = text.strip().splitlines()
        raise RayclusterError(
            f"`scontrol show job {job_id}` {describe_code(code)}: {lines[-1] if lines else ''}"
        )
    return parse_known_job(text) if code == 0 else None


class JobFacts(Value):
    """What `scontrol show job` says of a running job beside its times."""

    output: str = ""
    """The output file of the batch script, as an absolute path; empty when there is none."""
    is_batch: bool = True
    """Whether sbatch submitted it: no other job can be requeued."""
    errors: str = ""
    """The same for its errors, where that is another file (sbatch -e)."""
    may_requeue: bool = True
    """False after sbatch --no-requeue, and where the site's JobRequeue is 0 and --requeue was not given."""


def parse_job_facts(text: str) -> JobFacts:
    """Read `scontrol show job`.

    >>> parse_job_facts("JobId=7 Requeue=0 BatchFlag=1\\n   StdOut=/home/ada/a b.out")
    JobFacts(output='/home/ada/a b.out', is_batch=True, errors='', may_requeue=False)
    """
    fields = job_fields(text)
    paths = [fields.get(name, "") for name in ("StdOut", "StdErr")]
    output, errors = (output_name(path, fields) if path.startswith("/") else "" for path in paths)
    return JobFacts(
        output=output,
        errors=errors if errors != output else "",
        is_batch=fields.get("BatchFlag") != "0",
        may_requeue=fields.get("Requeue") != "0",
    )


async def job_facts(job_id: str, env: Mapping[str, str], reaper: Reaper) -> JobFacts | None:
    """What Slurm says of a running job; None when it does not answer."""
    try:
        code, text = await run_command(["scontrol", "show", "job", job_id], env, reaper)
    except RayclusterError:
        return None
    return parse_job_facts(text) if code == 0 else None


def requeue_problem(job_id: str, facts: JobFacts) -> str:
    """Why Slurm will refuse to requeue this job, and what to do about it while it runs; empty if it will not.

    >>> requeue_problem("7", JobFacts())
    ''
    """
    if not facts.is_batch:
        return (
            "--requeue-on-preempt has no effect: Slurm requeues only batch jobs. Submit the job by sbatch "
            "--requeue or `raycluster submit`."
        )
    if not facts.may_requeue:
        return (
            f"--requeue-on-preempt has no effect: Slurm will refuse to requeue job {job_id} (Requeue=0). "
            f"Allow it now by `scontrol update JobId={job_id} Requeue=1`, and next time by sbatch --requeue."
        )
    return ""


async def requeue(job_id: str, env: Mapping[str, str], reaper: Reaper) -> None:
    """Put the job back into the queue, under the same id.  Raises RayclusterError.

    ``job_id``: as Allocation.own_id has it; an array's id means all of its tasks.
    Slurm ends what still runs of the job, so this has to be the last thing that the job does.
    """
    code, text = await run_command(["scontrol", "requeue", job_id], env, reaper)
    if code != 0:
        lines = text.strip().splitlines()
        raise RayclusterError(
            f"`scontrol requeue {job_id}` {describe_code(code)}{': ' + lines[-1] if lines else ''}.",
            "Slurm requeues only batch jobs, submitted with sbatch --requeue where it is not the default.",
        )
