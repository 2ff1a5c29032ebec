"""CPUs that a node grants: every source on stand-in trees, with recorded variables of Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..trees import cgroup_v2, write
from .hosts import facts


@pytest.mark.parametrize(
    ("name", "affinity", "quota", "cpus", "source"),
    [
        ("", 8, "", 8, "CPU affinity of this process"),
        ("", 64, "250000 100000", 2, "cgroup cpu.max of /job"),
        ("22.05/three-nodes.task1", 64, "", 2, "SLURM_CPUS_ON_NODE"),
        ("22.05/three-nodes.task1", 1, "", 1, "CPU affinity of this process"),
        ("22.05/three-nodes.task1", 64, "100000 100000", 1, "cgroup cpu.max of /job"),
        ("22.05/het.batch", 64, "", 1, "SLURM_CPUS_ON_NODE"),
        ("22.05/salloc.shell", 64, "", 64, "CPU affinity of this process"),
        ("25.05/uneven.task2", 64, "", 64, "CPU affinity of this process"),
    ],
)
def test_cpus_are_the_smallest_figure(
    tmp_path: Path, name: str, affinity: int, quota: str, cpus: int, source: str
) -> None:
    if quota:
        cgroup_v2(tmp_path, "/job", {"job/cpu.max": quota})
    found = facts(tmp_path, name, affinity=affinity).cpus
    assert (found.value, found.source) == (cpus, source)
    assert min(figure.value for figure in found.candidates) == cpus


def test_cpus_of_the_job_where_slurm_names_none_of_the_step(tmp_path: Path) -> None:
    found = facts(tmp_path, "25.05/uneven.task2", affinity=128, SLURM_CPUS_ON_NODE=None).cpus
    assert (found.value, found.source) == (64, "SLURM_JOB_CPUS_PER_NODE")


@pytest.mark.parametrize(
    ("name", "affinity", "changes", "warning"),
    [
        ("22.05/three-nodes.task1", 2, {}, ""),
        ("22.05/three-nodes.batch", 1, {}, ""),
        (
            "22.05/three-nodes.task1",
            1,
            {},
            "this task is pinned to 1 of the 2 CPUs that the job has on this node: "
            "add --cpu-bind=none to srun.",
        ),
        (
            # -c of the step smaller than the job's CPUs
            "22.05/three-nodes.task1",
            2,
            {"SLURM_JOB_CPUS_PER_NODE": "8(x3)"},
            "this step has 2 of the 8 CPUs that the job has on this node: add -c 8 to srun.",
        ),
        (
            "22.05/two-tasks-a-node.task0",
            1,
            {},
            "this task has 1 of the 2 CPUs that the job has on this node: "
            "add --ntasks-per-node=1 -c 2 to srun.",
        ),
        ("22.05/two-tasks-a-node.task0", 2, {}, ""),
        ("22.05/het.task1", 2, {}, ""),
    ],
)
def test_pinned_tasks_are_told_the_option(
    tmp_path: Path, name: str, affinity: int, changes: dict[str, Any], warning: str
) -> None:
    found = facts(tmp_path, name, affinity=affinity, **changes)
    assert found.cpus.warnings == ((warning,) if warning else ())


#: Four cores with two threads each, numbered as most machines do: 0 and 4 are one core.
SIBLINGS = {
    f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}\n"
    for cpu in range(8)
}


@pytest.mark.parametrize(
    ("affinity", "changes", "cpus", "warnings"),
    [
        ((0, 1, 4, 5), {}, 4, 0),
        ((0, 1, 4, 5), {"SLURM_HINT": "nomultithread"}, 2, 0),
        ((0, 1, 4, 5), {"SLURM_HINT": "multithread"}, 4, 0),
        ((0, 1, 4, 5), {"SLURM_THREADS_PER_CORE": "1"}, 2, 0),
        # Bound to one thread of each core, as the hint does without --cpu-bind=none.
        ((0, 1), {"SLURM_HINT": "nomultithread"}, 2, 0),
        ((0, 1), {}, 2, 1),
        ((0,), {"SLURM_HINT": "nomultithread"}, 1, 1),
        # As Slurm 22.05 counts: cores for the job, threads for the step.
        (
            (0, 1, 4, 5),
            {"SLURM_HINT": "nomultithread", "SLURM_CPUS_ON_NODE": "4", "SLURM_JOB_CPUS_PER_NODE": "2(x3)"},
            2,
            0,
        ),
        # The same where nothing is pinned (task/none).
        (
            tuple(range(8)),
            {"SLURM_HINT": "nomultithread", "SLURM_CPUS_ON_NODE": "4", "SLURM_JOB_CPUS_PER_NODE": "2(x3)"},
            2,
            0,
        ),
    ],
)
def test_one_thread_on_each_core_counts_cores(
    tmp_path: Path, affinity: tuple[int, ...], changes: dict[str, Any], cpus: int, warnings: int
) -> None:
    write(tmp_path, SIBLINGS)
    slurm = {"SLURM_CPUS_ON_NODE": "4", "SLURM_JOB_CPUS_PER_NODE": "4(x3)", **changes}
    found = facts(tmp_path, "22.05/three-nodes.task1", affinity=affinity, **slurm).cpus
    assert (found.value, len(found.warnings)) == (cpus, warnings)


def test_without_the_kernels_word_on_cores_slurms_count_stands(tmp_path: Path) -> None:
    assert facts(tmp_path, "22.05/three-nodes.task1", affinity=8, SLURM_HINT="nomultithread").cpus.value == 2


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 64),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpuset/cpuset.cpus": "0-3,8,10-11"}, 7),
        ({"cpuset/cpuset.cpus": "rubbish"}, 64),
    ],
)
def test_cpus_that_ray_would_assume(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    write(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert facts(tmp_path).cpus.ray_would_assume == cpus
