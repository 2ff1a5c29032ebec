"""The memory that this node grants: cgroup limits, Slurm's options, the machine; and what lies in memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..model.value import Value
from ..model.wording import count
from ..slurm.allocation import Allocation
from ..system import cgroups
from .figures import MIB, Figure, Grant, read, smallest
from .places import mount_of, parse_mountinfo


class SharedMemory(Value):
    """The file system at /dev/shm."""

    total_bytes: int
    free_bytes: int


def granted_memory(allocation: Allocation | None, root: Path) -> Grant:
    machine = _machine_memory(root)
    figures = [Figure(limit.value, limit.source) for limit in cgroups.memory_limits(root)]
    figures += _slurm_memory(allocation)
    figures.append(Figure(machine, "memory of the machine (MemTotal)"))
    return smallest(figures, _ray_memory(root, machine))


def _slurm_memory(allocation: Allocation | None) -> list[Figure]:
    if allocation is None:
        return []
    figures = []
    if allocation.mem_per_node_mib:
        figures.append(Figure(allocation.mem_per_node_mib * MIB, "SLURM_MEM_PER_NODE"))
    cpus = allocation.cpus_on_node or allocation.job_cpus_here
    if allocation.mem_per_cpu_mib and cpus:
        figures.append(
            Figure(allocation.mem_per_cpu_mib * cpus * MIB, f"SLURM_MEM_PER_CPU of {count(cpus, 'CPU')}")
        )
    if allocation.mem_per_gpu_mib and allocation.gpus_on_node:
        gpus = allocation.gpus_on_node
        figures.append(
            Figure(allocation.mem_per_gpu_mib * gpus * MIB, f"SLURM_MEM_PER_GPU of {count(gpus, 'GPU')}")
        )
    return figures


def _machine_memory(root: Path) -> int:
    match = re.search(r"^MemTotal:\s*(\d+) kB", read(root / "proc/meminfo") or "", re.MULTILINE)
    if match:
        return int(match[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _ray_memory(root: Path, machine: int) -> int:
    """What Ray takes for the node's memory: the limit at the root of the cgroup tree, or the machine's."""
    for name in ("memory/memory.limit_in_bytes", "memory.max"):
        text = read(root / "sys/fs/cgroup" / name)
        if text is not None:
            return min(int(text), machine) if text.isdigit() else machine
    return machine


def is_in_memory(path: Path, *, root: Path = Path("/")) -> bool:
    """True where files at this path are kept in memory (a tmpfs, as /tmp of diskless nodes)."""
    mounts = parse_mountinfo(read(root / "proc/self/mountinfo") or "")
    return mount_of(os.path.normpath(path), mounts).type in ("tmpfs", "ramfs")


def shared_memory(path: Path) -> SharedMemory:
    try:
        space = os.statvfs(path)
    except OSError:
        return SharedMemory(0, 0)
    return SharedMemory(space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize)
