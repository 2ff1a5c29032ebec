"""GPUs that a node grants: drivers on stand-in trees, lists of visible devices, Slurm's counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..trees import write
from .hosts import facts

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
        # Two tasks with a GPU each in the job, and one task on the node in the step.
        (
            "22.05/gpus-per-task.task0",
            NVIDIA,
            {"SLURM_JOB_GPUS": "0,1"},
            "add --gpus-per-node=2 --gpu-bind=none",
        ),
        ("22.05/gpus-per-task.task1", NVIDIA, {"SLURM_JOB_GPUS": "0,1"}, ""),
        ("22.05/gpus-per-task.task0", NVIDIA, {}, ""),
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
