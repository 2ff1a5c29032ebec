"""`raycluster scale JOB --serve`: runs Slurm's commands for a cluster whose nodes cannot run them.

The head's autoscaler writes requests into the record, this loop takes, runs and answers them, on a host where
the user can submit jobs (:mod:`..autoscale.commands` is the other side).
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Mapping

from ..model.errors import UsageError
from ..model.worker_job import LaunchReply, LaunchRequest
from ..slurm.answer import Run
from ..state.worker_jobs import WorkerJobFiles
from ..system.programs import find_program

#: What a request can ask for.
PROGRAMS = ("sbatch", "scancel", "squeue")

#: How often requests are looked for, and how often the record says that somebody does.
LOOK_INTERVAL_S = 1.0
REPORT_INTERVAL_S = 5.0

#: How long a command may take; the other side waits longer.
COMMAND_TIMEOUT_S = 60.0

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

    ``env`` is this process's environment.  Raises UsageError where Slurm's commands are missing.
    """
    missing = [name for name in PROGRAMS if find_program(name, env) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not found on {socket.gethostname()}.",
            "Run this on a host from which you can submit jobs.",
        )
    said_at: float | None = None
    try:
        while not ended():
            if said_at is None or clock() - said_at >= REPORT_INTERVAL_S:
                files.say_serving()
                said_at = clock()
            for line in serve_once(files, env, run=run):
                report(line)
            sleep(LOOK_INTERVAL_S)
    finally:
        files.end_serving()
    left = files.read_jobs()
    ids = [job.job_id for job in left.jobs if not job.is_over] if left else []
    if ids:
        done = _answer(LaunchRequest(0, "scancel", tuple(ids), 0.0, dict(env)), env, run)
        report(f"the cluster has ended: {_in_words('scancel', ids, done)}")


def serve_once(files: WorkerJobFiles, env: Mapping[str, str], *, run: Run = subprocess.run) -> list[str]:
    """Answer the requests that are there; returns one line for each."""
    lines = []
    for number in files.pending_requests():
        request = files.take_request(number)
        if request is None:
            continue
        reply = _answer(request, env, run)
        files.write_reply(reply)
        if request.program != "squeue":
            lines.append(_in_words(request.program, request.arguments, reply))
    return lines


def _answer(request: LaunchRequest, env: Mapping[str, str], run: Run) -> LaunchReply:
    here = socket.gethostname()
    program = find_program(request.program, env) if request.program in PROGRAMS else None
    if program is None:
        return LaunchReply(request.number, 127, "", f"{request.program} cannot be run on {here}", here)
    foreign = "SQUEUE_" if request.program == "squeue" else "SCANCEL_"
    jobs = {
        name: value
        for name, value in request.env.items()
        if name not in _OF_THE_HOST and not name.startswith(foreign)
    }
    own = {name: env[name] for name in _OF_THE_HOST if name in env}
    times = {"SLURM_TIME_FORMAT": "%s"} if request.program == "squeue" else {}
    try:
        done = run(
            [program, *request.arguments],
            env={**jobs, **own, **times},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
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
