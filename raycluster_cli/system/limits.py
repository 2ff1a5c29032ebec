"""File and process limits: raised to the hard limit, and reported when that is too low.

Slurm hands the soft limits of the submitting host on, often 1024 open files.  Ray opens
a few files for every worker process and connection and starts tens of threads in each
process; what it says when it runs out ("pthread_create failed", "Too many open files")
names no limit.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass

from .cgroups import Limit, process_limits

NEEDED_FILES = 4096
"""Open files that a node's raylet and GCS may need; Ray's own advice for large clusters is 65536."""

THREADS_PER_CPU = 64
"""Threads of one worker process (30 to 50 measured), rounded up: Ray starts one worker process a CPU."""

THREADS_OF_RAY = 1000
"""Threads of Ray's own processes on a node, with those of other jobs of the user left some room."""


@dataclass(frozen=True)
class LimitReport:
    """What the limits are now, and what may bite.  Counts; -1 stands for no limit."""

    files: int
    files_before: int
    processes: int
    processes_before: int
    warnings: tuple[str, ...] = ()


def raise_limits(*, num_cpus: int = 1, pids_limits: Sequence[Limit] | None = None) -> LimitReport:
    """Raise the soft limits of this process (and its children to come) to the hard ones.

    ``num_cpus`` is what Ray is told; ``pids_limits`` stand in for those of this process's control groups.
    """
    if pids_limits is None:
        pids_limits = process_limits()
    files_before, files = _raise(resource.RLIMIT_NOFILE)
    processes_before, processes = _raise(resource.RLIMIT_NPROC)
    return LimitReport(
        files=files,
        files_before=files_before,
        processes=processes,
        processes_before=processes_before,
        warnings=limit_warnings(files, processes, num_cpus=num_cpus, pids_limits=pids_limits),
    )


def limit_warnings(
    files: int, processes: int, *, num_cpus: int, pids_limits: Sequence[Limit] = ()
) -> tuple[str, ...]:
    """One line for each limit that is too low, with what to do.  -1 stands for no limit.

    >>> limit_warnings(1024, -1, num_cpus=8)[0]
    'the hard limit of open files (ulimit -Hn) is 1024, Ray may need 4096: ask the site to raise it for jobs.'
    """
    warnings = []
    threads = THREADS_OF_RAY + THREADS_PER_CPU * num_cpus
    if 0 <= files < NEEDED_FILES:
        warnings.append(
            f"the hard limit of open files (ulimit -Hn) is {files}, Ray may need {NEEDED_FILES}: "
            "ask the site to raise it for jobs."
        )
    if 0 <= processes < threads:
        warnings.append(
            f"the hard limit of processes and threads of this user (ulimit -Hu) is {processes}, Ray with "
            f"{num_cpus} CPUs may need {threads}: ask the site to raise it, or set OMP_NUM_THREADS=1 and "
            "RAY_worker_num_grpc_internal_threads=1."
        )
    lowest = min(pids_limits, key=lambda limit: limit.value, default=None)
    if lowest is not None and lowest.value < threads:
        warnings.append(
            f"{lowest.source} allows {lowest.value} processes and threads, Ray with {num_cpus} CPUs may need "
            f"{threads}: ask the site to raise it, or give Ray fewer CPUs (--num-cpus)."
        )
    return tuple(warnings)


def _raise(kind: int) -> tuple[int, int]:
    """(before, now) of a soft limit; left alone where the system does not let us."""
    soft, hard = resource.getrlimit(kind)
    if soft == hard:
        return soft, soft
    try:
        resource.setrlimit(kind, (hard, hard))
    except (OSError, ValueError):
        return soft, soft
    return soft, hard
