"""The CPUs that this node grants: affinity, cgroup quotas, Slurm's count, the machine."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ..slurm.allocation import Allocation
from ..system import cgroups
from .figures import Figure, Grant, read, smallest


def granted_cpus(
    allocation: Allocation | None,
    root: Path,
    affinity: int,
    machine_cpus: int,
    one_thread: Collection[int] | None = None,
) -> Grant:
    """``one_thread``: this process's CPUs, where the job asked for one thread on each core; else None."""
    quotas = [Figure(limit.value, limit.source) for limit in cgroups.cpu_quotas(root)]
    figures = [Figure(affinity, "CPU affinity of this process"), *quotas]
    if allocation is not None:
        if allocation.cpus_on_node is not None:
            figures.append(Figure(allocation.cpus_on_node, "SLURM_CPUS_ON_NODE"))
        elif allocation.job_cpus_here is not None:
            figures.append(Figure(allocation.job_cpus_here, "SLURM_JOB_CPUS_PER_NODE"))
    figures.append(Figure(machine_cpus, "CPUs of the machine"))
    warnings = _pinning_warnings(allocation, affinity, machine_cpus)
    if one_thread is not None and allocation is not None and allocation.job_cpus_here is not None:
        # Seen on Slurm 22.05: the job's count is that of cores then, the step's that of threads.
        figures.append(Figure(allocation.job_cpus_here, "SLURM_JOB_CPUS_PER_NODE (one thread on each core)"))
    if one_thread is not None and (siblings := _siblings(root, one_thread)):
        cores = len(siblings)
        figures.append(Figure(cores, "cores of this process (one thread on each: --hint=nomultithread)"))
        # A process with a thread of each core has the whole share.
        threads = max(map(_cpuset_size, siblings))
        counts = (allocation.job_cpus_here, allocation.cpus_on_node) if allocation else ()
        if cores * threads >= max((each or 0 for each in counts), default=0):
            warnings = []
    return smallest(figures, _ray_cpus(root, machine_cpus), warnings)


def wants_one_thread(env: Mapping[str, str]) -> bool:
    """Whether the job uses one thread on each core: --hint=nomultithread, --threads-per-core=1.

    >>> wants_one_thread({"SLURM_HINT": "nomultithread"}), wants_one_thread({})
    (True, False)
    """
    return env.get("SLURM_HINT") == "nomultithread" or env.get("SLURM_THREADS_PER_CORE") == "1"


def _siblings(root: Path, cpus: Collection[int]) -> set[str]:
    """For each core that these CPUs are threads of, its threads; empty where the kernel does not say."""
    found = set()
    for cpu in cpus:
        text = read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or ""
        if not re.fullmatch(r"[\d,-]+", text, re.ASCII):
            return set()
        found.add(text)
    return found


def _pinning_warnings(allocation: Allocation | None, affinity: int, machine_cpus: int) -> list[str]:
    """A step or a task that has fewer CPUs than its job on this node, and the option that gives it all."""
    if allocation is None or not allocation.in_task:
        return []
    job, step = allocation.job_cpus_here, allocation.cpus_on_node
    granted = max(job or 0, step or 0)
    if min(affinity, step or affinity) >= granted:
        return []
    if affinity == machine_cpus and step == granted:
        return []  # Slurm was told of more CPUs than the machine has; nothing is pinned
    several = (allocation.tasks_here or 1) > 1
    if step is not None and step >= granted and not several:
        return [
            f"this task is pinned to {affinity} of the {granted} CPUs that the job has on this node: "
            "add --cpu-bind=none to srun."
        ]
    option = f"--ntasks-per-node=1 -c {granted}" if several else f"-c {granted}"
    return [
        f"this {'task' if several else 'step'} has {min(affinity, step or affinity)} of the {granted} CPUs "
        f"that the job has on this node: add {option} to srun."
    ]


def _ray_cpus(root: Path, machine_cpus: int) -> int:
    """What Ray takes: the machine's CPUs, or the quota or cpuset at the root of the cgroup tree."""
    top = root / "sys/fs/cgroup"
    quota = _ratio(read(top / "cpu/cpu.cfs_quota_us"), read(top / "cpu/cpu.cfs_period_us"))
    if quota is None:
        words = (read(top / "cpu.max") or "").split()
        quota = _ratio(*words) if len(words) == 2 else None
    found = [machine_cpus]
    if quota is not None:
        found.append(max(1, int(quota)))
    cpuset = read(top / "cpuset/cpuset.cpus") or ""
    if re.fullmatch(r"[\d,-]+", cpuset, re.ASCII):
        found.append(_cpuset_size(cpuset))
    return min(found)


def _ratio(quota: str | None, period: str | None) -> float | None:
    try:
        value = int(quota or "") / int(period or "")
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


def _cpuset_size(text: str) -> int:
    """How many CPUs a kernel list names.

    >>> _cpuset_size("0-3,8,10-11")
    7
    """
    total = 0
    for item in text.split(","):
        low, _, high = item.partition("-")
        total += int(high or low) - int(low) + 1
    return total
