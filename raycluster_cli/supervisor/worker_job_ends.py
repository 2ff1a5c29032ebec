"""How worker jobs end with their cluster: at the head's end, after its crash, and after a requeue of its job.

Imported only by a head with worker groups, by the keeper of one that was killed, and by a requeued head.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..autoscale.cancellation import (
    as_ended,
    batches,
    cancel_worker_jobs,
    jobs_of,
    needed,
    refused,
    squeue,
    to_cancel,
    to_keep_from_queue,
)
from ..model.errors import ExitCode, RayclusterError
from ..model.hostlist import format_hostlist
from ..model.record import EndReport
from ..model.status import EndReason
from ..model.wording import count
from ..policy.values import Worker
from ..slurm.command import run_command
from ..slurm.sbatch import mark_of
from ..slurm.worker_queue import parse_queue
from ..state.record import Record
from ..state.worker_jobs import WorkerJobFiles
from ..system.programs import find_program
from ..system.waiting import in_thread
from .parts import Parts
from .silent_hosts import responds

#: How long squeue and scancel may take each at the end of the cluster.
SLURM_S = 8.0

#: A launch server that has reported within this many seconds cancels what is left when it sees the end.
SERVER_S = 60.0

#: How long a file of the record may take.
FILE_S = 3.0


def crash_note(env: Mapping[str, str]) -> str:
    """What the keeper needs to cancel the worker jobs of a head that was killed."""
    return json.dumps(needed(env))


def cancel_after_crash(record: Path, note: str) -> None:
    """Cancel the worker jobs of a head that was killed; ``note`` is that of :func:`crash_note`."""
    with contextlib.suppress(RayclusterError):  # its workers notice by themselves that the head is gone
        cancel_worker_jobs(record, json.loads(note))


async def end_worker_jobs(
    parts: Parts,
    leaving: Collection[str],
    stayed: Collection[Worker] = (),
    *,
    probe: Callable[[str], Awaitable[bool]] = responds,
) -> None:
    """Cancel what Slurm has of this cluster's worker jobs.

    ``leaving``: jobs whose workers have left the cluster since its end began: they end by themselves.
    ``stayed``: the workers that have not.  ``probe`` says whether the host at an address responds.
    Raises RayclusterError.
    """
    if (record := parts.reports.record) is None:
        return
    ids = await _cancel(parts, record.path, leaving)
    if ids:
        parts.report.note(f"{count(len(ids), 'worker job')} cancelled: {', '.join(ids[:20])}")
    if not parts.hurry.is_set():
        await _tell_cut_off(parts, [worker for worker in stayed if worker.job in ids], probe)


async def _tell_cut_off(
    parts: Parts, stayed: Sequence[Worker], probe: Callable[[str], Awaitable[bool]]
) -> None:
    """Say which worker jobs Slurm cannot end now: their workers did not leave, and their hosts are silent.

    slurmctld sends the end of a job again when KillWait + 2 MessageTimeout have passed and it has heard from
    the node, which it asks every SlurmdTimeout / 3 (Slurm 22.05, _list_find_job_old in job_mgr.c).  A second
    scancel is refused: "Job/step already completing or completed".
    """
    answers = await asyncio.gather(*(probe(worker.ip) for worker in stayed))
    silent = [worker for worker, answer in zip(stayed, answers, strict=True) if not answer]
    if silent:
        hosts = format_hostlist([worker.host.removesuffix(f".{worker.job}") for worker in silent])
        ids = ", ".join(dict.fromkeys(worker.job for worker in silent))
        parts.report.say(
            f"{hosts} does not respond: Slurm may show worker job {ids} as COMPLETING for some minutes, "
            "until it has reached the node or marks it as down"
        )


async def _cancel(parts: Parts, record: Path, leaving: Collection[str] = ()) -> list[str]:
    """As autoscale.cancellation.cancel_worker_jobs, within the run of a head."""
    files = WorkerJobFiles(record)
    report = await parts.reports.ask(partial(jobs_of, files), timeout_s=FILE_S, default=None)
    if report is None:
        return []
    parts.reports.quietly(files.launches.forget_requests)
    env = needed(parts.context.env)
    queue = None
    with contextlib.suppress(RayclusterError):
        code, text = await run_command(squeue(), env, parts.reaper, timeout_s=SLURM_S)
        queue = parse_queue(text) if code == 0 else None
    mark = mark_of(record.name)
    ids = to_cancel(report.jobs, queue, mark, leaving)
    ending = to_keep_from_queue(report.jobs, queue, mark, leaving)
    looking = partial(is_the_servers, files, env)
    by_server: bool = await parts.reports.ask(looking, timeout_s=FILE_S, default=False)
    if (ids or ending) and by_server:
        parts.report.note("`raycluster scale --serve` cancels the worker jobs")
        return []
    problems: list[RayclusterError] = []
    for command in batches([*ids, *ending]):  # all of them: a busy controller may answer the next one
        try:
            code, text = await run_command(command, env, parts.reaper, timeout_s=SLURM_S)
        except RayclusterError as error:
            problems.append(error)
            continue
        if (refusal := refused(command, code, text)) is not None:
            problems.append(refusal)
    if problems:
        raise problems[0]
    await asyncio.wait(
        {parts.reports.quietly(files.write_jobs, as_ended(report, time.time()))}, timeout=FILE_S
    )
    return ids


def is_the_servers(files: WorkerJobFiles, env: Mapping[str, str], now: float | None = None) -> bool:
    """Whether a server on another host cancels what is left: scancel is not here, and the server is there.

    ``now``: Unix seconds.  Blocks on the file system.
    """
    stamp = files.launches.serving_stamp()
    if stamp is None or find_program("scancel", env) is not None:
        return False
    return abs((time.time() if now is None else now) - stamp / 1e9) < SERVER_S


async def end_earlier_restarts(parts: Parts, record: Record) -> None:
    """Cancel the worker jobs of clusters that this job had before its requeue.  Raises RayclusterError."""
    for path in await in_thread(partial(earlier_restarts, record)):
        await _cancel(parts, path)


def earlier_restarts(record: Record) -> list[Path]:
    """The records of the clusters that this job had before its requeue.

    An end is written for those that have none: a host may have lost its power.  Blocks on the file system.
    """
    found = []
    for restart in range(record.restart - 1, -1, -1):
        key = f"{record.job_id}.r{restart}" if restart else record.job_id
        leaf = key + (f"+{record.name}" if record.name else "")
        earlier = Record.at(record.path.with_name(leaf))
        if not earlier.path.is_dir() or not earlier.is_mine:
            continue
        head = earlier.read_head()
        if earlier.read_end() is None:
            host = head.host if head else ""
            text = "Slurm requeued the job before its head could report an end"
            code = int(ExitCode.UNHEALTHY)
            earlier.write_end(EndReport(time.time(), code, EndReason.HEAD_LOST.value, host, text))
        found.append(earlier.path)
    return found
