"""What a node grants: every source on stand-in trees, with recorded environments of Slurm."""

from __future__ import annotations

import doctest
import json
import os
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.node import grants as host
from raycluster_cli.node.grants import (
    MIB,
    HostFacts,
    SharedMemory,
    divide,
    is_in_memory,
    read_host,
    slurm_labels,
)
from raycluster_cli.slurm.allocation import Allocation

from ..slurm.test_allocation import environment
from ..trees import cgroup_v1, cgroup_v2, machine, write

GIB = 1024 * MIB
SHM = SharedMemory(3 * GIB, 3 * GIB)


def facts(
    root: Path,
    name: str = "",
    *,
    affinity: int = 2,
    machine_cpus: int = 64,
    shm: SharedMemory = SHM,
    **changes: str | None,
) -> HostFacts:
    """The facts of a node whose environment is a recorded one, with variables changed or taken out."""
    wanted: dict[str, str | None] = {**(environment(name) if name else {}), **changes}
    env = {key: value for key, value in wanted.items() if value is not None}
    if not (root / "proc/meminfo").exists():
        machine(root)
    return read_host(
        env, Allocation.from_environ(env), root=root, affinity=affinity, machine_cpus=machine_cpus, shm=shm
    )


def test_docstring_examples() -> None:
    assert doctest.testmod(host).failed == 0


# --- CPUs -------------------------------------------------------------------------------------------


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


# --- memory -----------------------------------------------------------------------------------------


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


# --- GPUs -------------------------------------------------------------------------------------------

NVIDIA = {f"proc/driver/nvidia/gpus/0000:0{n}:00.0/information": "" for n in range(4)}
NVIDIA_DEVICES = {f"dev/nvidia{n}": "" for n in range(4)} | {"dev/nvidiactl": "", "dev/nvidia-uvm": ""}
AMD = {"sys/class/kfd/kfd/topology/nodes/0/gpu_id": "0"} | {
    f"sys/class/kfd/kfd/topology/nodes/{n}/gpu_id": f"3{n}001" for n in range(1, 9)
}
INTEL = {f"sys/class/drm/renderD{128 + n}/device/vendor": "0x8086" for n in range(2)}
TASK = "22.05/three-nodes.task1"


@pytest.mark.parametrize(
    ("name", "drivers", "changes", "gpus", "vendor", "variable"),
    [
        ("", {}, {}, 0, "", ""),
        ("", NVIDIA, {}, 4, "nvidia", ""),
        ("", NVIDIA_DEVICES, {}, 4, "nvidia", ""),
        ("", AMD, {}, 8, "amd", ""),
        ("", NVIDIA, {"CUDA_VISIBLE_DEVICES": "0,2"}, 2, "nvidia", "CUDA_VISIBLE_DEVICES"),
        ("", NVIDIA, {"CUDA_VISIBLE_DEVICES": ""}, 0, "nvidia", "CUDA_VISIBLE_DEVICES"),
        ("", NVIDIA, {"CUDA_VISIBLE_DEVICES": "-1"}, 0, "nvidia", "CUDA_VISIBLE_DEVICES"),
        ("", NVIDIA, {"CUDA_VISIBLE_DEVICES": "GPU-8f,GPU-9a"}, 2, "nvidia", "CUDA_VISIBLE_DEVICES"),
        # Parts of devices: more than the driver has whole ones.
        (
            "",
            NVIDIA,
            {"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2,MIG-3,MIG-4,MIG-5"},
            5,
            "nvidia",
            "CUDA_VISIBLE_DEVICES",
        ),
        ("", INTEL, {"ZE_AFFINITY_MASK": "0.0,0.1,1.0"}, 3, "intel", "ZE_AFFINITY_MASK"),
        # A list longer than what the driver has names devices that are not there.
        ("", NVIDIA, {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, 4, "nvidia", "CUDA_VISIBLE_DEVICES"),
        ("", AMD, {"ROCR_VISIBLE_DEVICES": "0,1"}, 2, "amd", "ROCR_VISIBLE_DEVICES"),
        (
            "",
            AMD,
            {"ROCR_VISIBLE_DEVICES": "0,1", "HIP_VISIBLE_DEVICES": "0"},
            1,
            "amd",
            "HIP_VISIBLE_DEVICES",
        ),
        ("", INTEL, {}, 2, "intel", ""),
        ("", INTEL, {"ZE_AFFINITY_MASK": "0"}, 1, "intel", "ZE_AFFINITY_MASK"),
        ("", INTEL, {"ONEAPI_DEVICE_SELECTOR": "level_zero:1"}, 1, "intel", "ONEAPI_DEVICE_SELECTOR"),
        ("", INTEL, {"ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}, 2, "intel", ""),
        # Fake devices: Slurm grants, no driver shows any.
        ("22.05/gpus-gres.task1", {}, {}, 2, "nvidia", "CUDA_VISIBLE_DEVICES"),
        ("24.11/gpus-gres.batch", NVIDIA, {}, 2, "nvidia", "CUDA_VISIBLE_DEVICES"),
        # Slurm sets the lists of all vendors: the driver tells which counts.
        ("22.05/gpus-gres.task1", AMD, {}, 2, "amd", "ROCR_VISIBLE_DEVICES"),
        ("20.11/gpus-gres.task1", NVIDIA, {}, 2, "nvidia", "CUDA_VISIBLE_DEVICES"),
        ("22.05/het.task0", NVIDIA, {}, 0, "nvidia", ""),
        ("22.05/het.task1", NVIDIA, {}, 1, "nvidia", "CUDA_VISIBLE_DEVICES"),
        (TASK, NVIDIA, {}, 0, "nvidia", ""),
        (TASK, {}, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0, "nvidia", "CUDA_VISIBLE_DEVICES"),
        ("23.11/four-tasks-four-gpus.task0", NVIDIA, {}, 1, "nvidia", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpus(
    tmp_path: Path,
    name: str,
    drivers: dict[str, str],
    changes: dict[str, Any],
    gpus: int,
    vendor: str,
    variable: str,
) -> None:
    write(tmp_path, drivers)
    found = facts(tmp_path, name, **changes)
    assert (found.gpus.value, found.gpu_vendor, found.visible_devices_variable) == (gpus, vendor, variable)


@pytest.mark.parametrize(
    ("name", "drivers", "changes", "warning"),
    [
        (TASK, {}, {}, ""),
        (TASK, NVIDIA, {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, ""),
        ("", NVIDIA, {}, ""),
        ("", NVIDIA, {"CUDA_VISIBLE_DEVICES": "0"}, ""),
        ("23.11/four-tasks-four-gpus.task0", NVIDIA, {}, "Add --gpu-bind=none to srun"),
        (TASK, NVIDIA, {}, "add --gpus-per-node=4 to sbatch or srun"),
        (TASK, NVIDIA, {"SLURM_JOB_GPUS": "0,1"}, "add --gres=gpu:2 to srun"),
        ("22.05/gpus-gres.task1", {}, {}, "no driver is seen here: in a container, let it see them"),
        ("22.05/het.task0", {}, {}, ""),
    ],
)
def test_gpu_warnings_name_the_option(
    tmp_path: Path, name: str, drivers: dict[str, str], changes: dict[str, Any], warning: str
) -> None:
    write(tmp_path, drivers)
    warnings = facts(tmp_path, name, **changes).gpus.warnings
    assert len(warnings) == bool(warning)
    assert all(warning in text and "\n" not in text for text in warnings)


# --- labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "labels"),
    [
        ("22.05/three-nodes.task1", {}, {"slurm/node": "n2", "slurm/partition": "main"}),
        ("22.05/salloc.shell", {}, {"slurm/partition": "main"}),
        (
            "22.05/het.task1",
            {},
            {"slurm/node": "n2", "slurm/partition": "main", "slurm/het-component": "1"},
        ),
        (
            "25.05/three-nodes.task1",
            {},
            {
                "slurm/node": "n2",
                "slurm/partition": "main",
                "slurm/topology": "core1.leaf_3-4_.n2",
                "slurm/switch": "leaf_3-4",
            },
        ),
        (
            "25.05/workers-step.task0",
            {},
            {"slurm/node": "n2", "slurm/partition": "main", "slurm/topology": "b7.n2", "slurm/block": "b7"},
        ),
        (
            # a node's name with dots, and an address that does not fit its pattern
            "25.05/workers-step.task0",
            {"SLURM_TOPOLOGY_ADDR": "b7", "SLURMD_NODENAME": "n2", "SLURM_JOB_PARTITION": "_" * 3},
            {"slurm/node": "n2", "slurm/topology": "b7"},
        ),
    ],
)
def test_labels(name: str, changes: dict[str, Any], labels: dict[str, str]) -> None:
    assert dict(slurm_labels(Allocation.from_environ({**environment(name), **changes}))) == labels


def test_no_labels_outside_of_slurm() -> None:
    assert slurm_labels(None) == ()


# --- the whole --------------------------------------------------------------------------------------


def test_all_figures_stand_in_the_json(tmp_path: Path) -> None:
    write(tmp_path, NVIDIA)
    found = facts(tmp_path, "22.05/gpus-gres.task1")
    data = json.loads(json.dumps(found.as_dict()))
    assert data["cpus"]["value"] == 1 and data["cpus"]["ray_would_assume"] == 64
    assert data["memory_bytes"]["value"] == 1500 * MIB
    assert data["gpus"]["visible_devices"] == ["0", "1"] and data["gpus"]["vendor"] == "nvidia"
    assert {"value": 4, "source": "nvidia driver"} in data["gpus"]["candidates"]
    assert data["shm_bytes"]["free"] == 3 * GIB


def test_shares_of_a_machine(tmp_path: Path) -> None:
    write(tmp_path, NVIDIA)
    whole = facts(tmp_path, affinity=8)
    first, second = (divide(whole, 3, index) for index in (0, 1))
    assert (first.cpus.value, second.cpus.value) == (2, 2)
    assert first.memory_bytes.value == whole.memory_bytes.value // 3
    assert first.shm_bytes.value == whole.shm_bytes.value // 3
    assert (first.gpus.value, second.gpus.value) == (4, 0)
    assert divide(whole, 1, 0) is whole
    assert divide(facts(tmp_path, affinity=1), 3, 1).cpus.value == 1


def test_this_machine(tmp_path: Path) -> None:
    found = read_host(dict(os.environ), None)
    assert 1 <= found.cpus.value <= (os.cpu_count() or 1)
    assert found.memory_bytes.value > 0
