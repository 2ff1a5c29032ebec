"""Memory that a node grants, what Ray would assume, and which files are in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.node.figures import MIB
from raycluster_cli.node.grants import read_host
from raycluster_cli.node.memory import is_in_memory

from ..trees import cgroup_v1, cgroup_v2, machine, write
from .hosts import facts


@pytest.mark.parametrize(
    ("name", "changes", "mib", "source"),
    [
        ("", {}, 16384, "memory of the machine (MemTotal)"),
        ("22.05/three-nodes.task1", {}, 4000, "SLURM_MEM_PER_NODE"),
        ("22.05/three-nodes.task1", {"SLURM_MEM_PER_NODE": "0"}, 16384, "memory of the machine (MemTotal)"),
        ("22.05/gpus-gres.task1", {}, 1500, "SLURM_MEM_PER_CPU of 1 CPU"),
        ("22.05/gpus-gres.task1", {"SLURM_CPUS_ON_NODE": "3"}, 4500, "SLURM_MEM_PER_CPU of 3 CPUs"),
        ("22.05/het.task0", {}, 1000, "SLURM_MEM_PER_NODE"),
        ("22.05/het.task1", {}, 2000, "SLURM_MEM_PER_NODE"),
        ("25.05/uneven.task2", {"SLURM_MEM_PER_GPU": "3000"}, 12000, "SLURM_MEM_PER_GPU of 4 GPUs"),
        ("25.05/uneven.task2", {}, 16384, "memory of the machine (MemTotal)"),
    ],
)
def test_memory_without_a_cgroup(
    tmp_path: Path, name: str, changes: dict[str, Any], mib: int, source: str
) -> None:
    found = facts(tmp_path, name, **changes).memory_bytes
    assert (found.value, found.source) == (mib * MIB, source)


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_the_smallest_limit_on_the_way_up(tmp_path: Path, version: int) -> None:
    """Of step, job and Slurm's variable; Ray sees none of them."""
    if version == 1:
        group = "/slurm/uid_0/job_1/step_0/task_0"
        cgroup_v1(
            tmp_path,
            group,
            {
                "memory/slurm/uid_0/job_1/step_0/memory.limit_in_bytes": str(3500 * MIB),
                "memory/slurm/uid_0/job_1/memory.limit_in_bytes": str(3000 * MIB),
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
        )
        source = "cgroup memory.limit_in_bytes of /slurm/uid_0/job_1"
    else:
        group = "/system.slice/slurmstepd.scope/job_1/step_0/user/task_0"
        cgroup_v2(
            tmp_path,
            group,
            {
                "system.slice/slurmstepd.scope/job_1/step_0/memory.max": str(3500 * MIB),
                "system.slice/slurmstepd.scope/job_1/memory.max": str(3000 * MIB),
            },
        )
        source = "cgroup memory.max of /system.slice/slurmstepd.scope/job_1"
    found = facts(tmp_path, "22.05/three-nodes.task1").memory_bytes
    assert (found.value, found.source) == (3000 * MIB, source)
    assert [figure.value // MIB for figure in found.candidates] == [3500, 3000, 4000, 16384]
    assert found.ray_would_assume == 16384 * MIB


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        ({"memory/memory.limit_in_bytes": str(500 * MIB)}, 500),
        ({"memory.max": str(600 * MIB)}, 600),
        ({"memory.max": "max"}, 16384),
    ],
)
def test_memory_that_ray_would_assume(tmp_path: Path, files: dict[str, str], mib: int) -> None:
    write(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert facts(tmp_path).memory_bytes.ray_would_assume == mib * MIB


def test_no_dev_shm(tmp_path: Path) -> None:
    machine(tmp_path)
    found = read_host({}, None, root=tmp_path, affinity=1, machine_cpus=1)
    assert (found.shm_bytes.value, found.shm_free_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("path", "in_memory"),
    [
        ("/tmp/rc-1", True),
        ("/tmp", True),
        ("/tmpfoo", False),
        ("/tmp/disk/x", False),
        ("/scratch a/x", False),
        ("/dev/shm/x", True),
        ("/over/x", False),
        ("/", False),
    ],
)
def test_files_that_are_kept_in_memory(tmp_path: Path, path: str, in_memory: bool) -> None:
    mounts = [
        ("/", "ext4"),
        ("/tmp", "tmpfs"),
        ("/tmp/disk", "xfs"),
        (r"/scratch\040a", "xfs"),
        ("/dev/shm", "tmpfs"),
        ("/over", "tmpfs"),
        ("/over", "ext4"),
    ]
    lines = [f"{n} 1 0:{n} / {point} rw - {kind} x rw" for n, (point, kind) in enumerate(mounts, 30)]
    write(tmp_path, {"proc/self/mountinfo": "\n".join(lines)})
    assert is_in_memory(Path(path), root=tmp_path) == in_memory
