"""`raycluster scale JOB --serve`: runs Slurm's commands for a cluster whose nodes cannot run them.

The head's autoscaler writes requests into the record, this loop takes, runs and answers them, on a host where
the user can submit jobs (:mod:`..autoscale.commands` is the other side).
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..model.errors import RayclusterError, UsageError, error_text
from ..model.worker_job import LaunchReply, LaunchRequest, WorkerJobsReport
from ..slurm.answer import Run
from ..slurm.sbatch import is_marked, job_ids, mark_of
from ..slurm.worker_command import COMMAND_TIMEOUT_S, run_for_workers
from ..slurm.worker_queue import parse_queue, squeue_arguments
from ..state.worker_jobs import WorkerJobFiles
from ..system.programs import find_program

#: What a request can ask for.
PROGRAMS = ("sbatch", "scancel", "squeue")

#: How often requests are looked for, and how often the record is told that a server runs.
LOOK_INTERVAL_S = 1.0
REPORT_INTERVAL_S = 5.0

#: Variables by which Slurm's commands find their controller: this host's hold here, not the head's.
_OF_THE_HOST = ("SLURM_CONF", "SLURM_CLUSTERS")


def serve(
    files: WorkerJobFiles,
    env: Mapping[str, str],
    *,
    ended: Callable[[], bool],
    report: Callable[[str], object],
    run: Run = subprocess.run,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Answer requests until the cluster has ended, and cancel then what it left in the queue.

    ``env`` is this process's environment.  A record that cannot be written gives one warning, and is retried.
    Raises UsageError where Slurm's commands are missing.
    """
    missing = [name for name in PROGRAMS if find_program(name, env) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not found on {socket.gethostname()}.",
            "Run this on a host from which you can submit jobs.",
        )
    said_at: float | None = None
    last, problem = "", ""
    try:
        while not ended():
            try:
                if said_at is None or clock() - said_at >= REPORT_INTERVAL_S:
                    files.launches.say_serving()
                    said_at = clock()
                for request, reply in answers(files, env, run=run):
                    if request.program == "sbatch" and reply.code == 0:
                        last = next(iter(job_ids(reply.stdout, 1)), "")
                    if line := _told(request, reply):
                        report(line)
                problem = ""
            except RayclusterError as error:
                if error_text(error) != problem:
                    problem = error_text(error)
                    report(problem)
            sleep(LOOK_INTERVAL_S)
    finally:
        files.launches.end_serving()
    queue = _answer(
        LaunchRequest(0, "squeue", tuple(squeue_arguments(os.getuid())), 0.0, dict(env)), env, run
    )
    ids = _left(files.read_jobs(), last, _marked(queue, mark_of(files.path.name)))
    if ids:
        done = _answer(LaunchRequest(0, "scancel", tuple(ids), 0.0, dict(env)), env, run)
        report(f"the cluster has ended: {_in_words('scancel', ids, done)}")


def answers(
    files: WorkerJobFiles, env: Mapping[str, str], *, run: Run = subprocess.run
) -> Iterator[tuple[LaunchRequest, LaunchReply]]:
    """Answer the requests that are there, one after the other.  Raises RayclusterError."""
    for number in files.launches.pending_requests():
        if (request := files.launches.take_request(number)) is not None:
            reply = _answer(request, env, run)
            yield request, reply
            files.launches.write_reply(reply)


def _told(request: LaunchRequest, reply: LaunchReply) -> str:
    return "" if request.program == "squeue" else _in_words(request.program, request.arguments, reply)


def _marked(queue: LaunchReply, mark: str) -> list[str]:
    """The cluster's worker jobs in squeue's answer; none where squeue has failed."""
    lines = parse_queue(queue.stdout).values() if queue.code == 0 else ()
    return [line.id for line in lines if is_marked(line.comment, mark) and not line.is_ended]


def _left(report: WorkerJobsReport | None, last: str, marked: Sequence[str]) -> list[str]:
    """The jobs that the cluster has left: those of the record, and those that came too late for it.

    ``last``: the last job that was submitted here.  ``marked``: what the queue has of the cluster.
    """
    jobs = report.jobs if report else ()
    known = {job.job_id for job in jobs}
    found = [job.job_id for job in jobs if not job.is_over]
    found += [job_id for job_id in marked if job_id not in known]
    is_known = any(job_id.partition("_")[0] == last for job_id in (*known, *marked))
    return found + ([last] if last and not is_known else [])


def _answer(request: LaunchRequest, env: Mapping[str, str], run: Run) -> LaunchReply:
    here = socket.gethostname()
    program = find_program(request.program, env) if request.program in PROGRAMS else None
    if program is None:
        return LaunchReply(request.number, 127, "", f"{request.program} cannot be run on {here}", here)
    jobs = {name: value for name, value in request.env.items() if name not in _OF_THE_HOST}
    own = {name: env[name] for name in _OF_THE_HOST if name in env}
    try:
        done = run_for_workers(request.program, program, request.arguments, {**jobs, **own}, run)
    except subprocess.TimeoutExpired:
        why = f"{request.program}: timed out after {COMMAND_TIMEOUT_S:g} s"
        return LaunchReply(request.number, 124, "", why, here)
    except OSError as error:
        return LaunchReply(request.number, 127, "", f"{program}: {error.strerror}", here)
    return LaunchReply(request.number, done.returncode, done.stdout, done.stderr, here)


def _in_words(program: str, arguments: tuple[str, ...] | list[str], reply: LaunchReply) -> str:
    """One line on what was done.

    >>> _in_words("scancel", ["7", "8_1"], LaunchReply(1, 0))
    'scancel 7 8_1'
    >>> _in_words("sbatch", ["--parsable"], LaunchReply(1, 1, "", "sbatch: error: No."))
    'sbatch failed: sbatch: error: No.'
    """
    if reply.code != 0:
        said = " ".join(reply.stderr.split()) or f"code {reply.code}"
        return f"{program} failed: {said}"
    if program == "sbatch":
        name = next((word for word in arguments if word.startswith("--job-name=")), "")
        return f"sbatch: job {reply.stdout.strip()} ({name.removeprefix('--job-name=')})"
    return f"{program} {' '.join(arguments)}"
