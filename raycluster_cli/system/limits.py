"""Limits on files, processes and CPU time: raised to the hard limit, with a warning where that is too low.

Slurm passes the soft limits of the submitting host on, often 1024 open files.  Ray opens a few files for each
worker process and connection, and starts tens of threads in each process.  Its errors ("pthread_create
failed", "Too many open files") do not name the limit.  Login nodes often limit the CPU time of each process.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence

from ..model.value import Value
from .cgroups import Limit, process_limits

NEEDED_FILES = 4096
"""Open files that a node's raylet and GCS can need; Ray recommends 65536 for large clusters."""

THREADS_PER_CPU = 64
"""Threads of one worker process (30 to 50 measured), rounded up; Ray starts one for each CPU."""

THREADS_OF_RAY = 1000
"""Threads of Ray's own processes on a node, with some to spare for the user's other jobs."""


class LimitReport(Value):
    """The limits, as counts (-1: no limit), before and after they were raised, and warnings."""

    files: int
    files_before: int
    processes: int
    processes_before: int
    warnings: tuple[str, ...] = ()


def raise_limits(*, num_cpus: int = 1, pids_limits: Sequence[Limit] | None = None) -> LimitReport:
    """Raise the soft limits of this process, which its later children inherit, to the hard limits.

    ``num_cpus`` is the number of CPUs for Ray; ``pids_limits`` replaces the limits of this process's cgroups.
    """
    if pids_limits is None:
        pids_limits = process_limits()
    files_before, files = _raise(resource.RLIMIT_NOFILE)
    processes_before, processes = _raise(resource.RLIMIT_NPROC)
    _, cpu_s = _raise(resource.RLIMIT_CPU)
    return LimitReport(
        files=files,
        files_before=files_before,
        processes=processes,
        processes_before=processes_before,
        warnings=limit_warnings(files, processes, cpu_s, num_cpus=num_cpus, pids_limits=pids_limits),
    )


def limit_warnings(
    files: int, processes: int, cpu_s: int = -1, *, num_cpus: int, pids_limits: Sequence[Limit] = ()
) -> tuple[str, ...]:
    """A sentence for each limit that is too low, with what to do.  -1 means no limit.

    >>> limit_warnings(1024, -1, num_cpus=8)[0]
    'the hard limit on open files (ulimit -Hn) is 1024, Ray can need 4096: ask the site to raise it for jobs.'
    """
    warnings = []
    threads = THREADS_OF_RAY + THREADS_PER_CPU * num_cpus
    if 0 <= files < NEEDED_FILES:
        warnings.append(
            f"the hard limit on open files (ulimit -Hn) is {files}, Ray can need {NEEDED_FILES}: "
            "ask the site to raise it for jobs."
        )
    if 0 <= processes < threads:
        warnings.append(
            f"the hard limit on processes and threads of this user (ulimit -Hu) is {processes}, Ray with "
            f"{num_cpus} CPUs can need {threads}: ask the site to raise it, or set OMP_NUM_THREADS=1 and "
            "RAY_worker_num_grpc_internal_threads=1."
        )
    if cpu_s >= 0:
        warnings.append(
            f"the hard limit on CPU time (ulimit -Ht) is {cpu_s} s: the kernel kills each process that has "
            "used so much, Ray's too. sbatch takes it over from the shell in which it is called: submit from "
            "one without this limit, or with --propagate=NONE."
        )
    lowest = min(pids_limits, key=lambda limit: limit.value, default=None)
    if lowest is not None and lowest.value < threads:
        warnings.append(
            f"{lowest.source} allows {lowest.value} processes and threads, Ray with {num_cpus} CPUs can need "
            f"{threads}: ask the site to raise it, or give Ray fewer CPUs (--num-cpus)."
        )
    return tuple(warnings)


def _raise(kind: int) -> tuple[int, int]:
    """A soft limit before and after it was raised; not raised where the system refuses it."""
    soft, hard = resource.getrlimit(kind)
    if soft == hard:
        return soft, soft
    try:
        resource.setrlimit(kind, (hard, hard))
    except (OSError, ValueError):
        return soft, soft
    return soft, hard
