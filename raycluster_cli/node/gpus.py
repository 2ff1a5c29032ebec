"""The GPUs that this node grants: lists of visible devices, Slurm's count, the kernel drivers.

No library of a vendor is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..model.value import Value
from ..model.wording import count
from ..slurm.allocation import Allocation
from .figures import Figure, Grant, read, smallest

# Per vendor the lists of visible devices, the one that its runtime obeys first in front.
VISIBLE_DEVICES = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "intel": ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"),
}


class Devices(Value):
    vendor: str
    variable: str
    visible: tuple[str, ...] | None


def parse_visible_devices(text: str) -> tuple[str, ...]:
    """The devices that a list of visible devices names; they may be numbers, UUIDs or MIG instances.

    >>> parse_visible_devices("0,1")
    ('0', '1')
    >>> parse_visible_devices("MIG-GPU-5c/1/0")
    ('MIG-GPU-5c/1/0',)
    >>> [parse_visible_devices(text) for text in ("", "NoDevFiles", "-1", "level_zero:0,1")]
    [(), (), (), ('0', '1')]
    """
    devices: list[str] = []
    for item in text.strip().removeprefix("level_zero:").split(","):
        device = item.strip()
        if device in ("", "NoDevFiles", "none", "void", "-1"):
            break  # CUDA ends the list at the first that is not valid
        devices.append(device)
    return tuple(devices)


def _driver_devices(root: Path) -> dict[str, int]:
    """GPUs of the machine by vendor, as their kernel drivers report them; no library is loaded."""
    found = {}
    nvidia = len(_list(root / "proc/driver/nvidia/gpus")) or len(
        [name for name in _list(root / "dev") if re.fullmatch(r"nvidia\d+", name, re.ASCII)]
    )
    if nvidia:
        found["nvidia"] = nvidia
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    amd = sum(1 for name in _list(nodes) if (read(nodes / name / "gpu_id") or "0") != "0")
    if amd:
        found["amd"] = amd
    drm = root / "sys/class/drm"
    cards = [name for name in _list(drm) if re.fullmatch(r"renderD\d+", name, re.ASCII)]
    # 8086 is Intel; i915 also drives the small display GPU of many CPUs, which takes no work of Ray's,
    # so a lone card counts only where a variable names it (see _vendor).
    intel = sum(1 for name in cards if read(drm / name / "device/vendor") == "0x8086")
    if intel:
        found["intel"] = intel
    return found


def has_driver(root: Path) -> bool:
    """Whether the kernel driver of any vendor shows a GPU."""
    return bool(_driver_devices(root))


def granted_gpus(env: Mapping[str, str], allocation: Allocation | None, root: Path) -> tuple[Grant, Devices]:
    drivers = _driver_devices(root)
    devices = _devices(env, drivers)
    driver = drivers.get(devices.vendor)
    figures = []
    if devices.visible is not None:
        figures.append(Figure(len(devices.visible), devices.variable))
    if allocation is not None and allocation.gpus_on_node is not None:
        figures.append(Figure(allocation.gpus_on_node, "SLURM_GPUS_ON_NODE"))
    parts = any("MIG" in device or "." in device for device in devices.visible or ())
    if driver is not None and not parts:  # the driver counts whole devices: seven parts of one are no less
        figures.append(Figure(driver, f"{devices.vendor} driver"))
    if allocation is not None and allocation.gpus_on_node is None and devices.visible is None:
        # Slurm sets one or the other wherever it grants a GPU; those that the driver shows may be others'.
        figures.append(Figure(0, "Slurm granted none"))
    if not figures:
        figures.append(Figure(0, "no driver and no variable names any"))
    warnings = _gpu_warnings(env, allocation, devices, driver)
    assumed = driver or 0
    if devices.visible is not None and driver:
        assumed = min(driver, len(devices.visible))
    return smallest(figures, assumed, warnings), devices


def _devices(env: Mapping[str, str], drivers: Mapping[str, int]) -> Devices:
    """The vendor and its list: Slurm's plugins may set the lists of all vendors, so the driver decides."""
    vendor = _vendor(env, drivers)
    for variable in VISIBLE_DEVICES.get(vendor, ()):
        # Selectors other than lists of devices ("level_zero:gpu", "*:*") limit nothing that can be counted.
        if variable in env and "*" not in env[variable] and not env[variable].endswith(":gpu"):
            return Devices(vendor, variable, parse_visible_devices(env[variable]))
    return Devices(vendor, "", None)


def _vendor(env: Mapping[str, str], drivers: Mapping[str, int]) -> str:
    named = [v for v, variables in VISIBLE_DEVICES.items() if any(variable in env for variable in variables)]
    for vendor in ("nvidia", "amd"):
        if vendor in drivers:
            return vendor
    if "intel" in drivers and ("intel" in named or drivers["intel"] > 1):
        return "intel"
    return named[0] if named else ""


def _gpu_warnings(
    env: Mapping[str, str], allocation: Allocation | None, devices: Devices, driver: int | None
) -> list[str]:
    if allocation is None:
        return []
    granted = allocation.gpus_on_node
    visible = None if devices.visible is None else len(devices.visible)
    warnings = []
    if granted is not None and visible is not None and visible < granted:
        warnings.append(
            f"this task sees {visible} of the {granted} GPUs granted on this node "
            f"({devices.variable}={env[devices.variable]}): tasks are bound to GPUs of their own. "
            "Add --gpu-bind=none to srun, or ask with --gpus-per-node instead of --gpus-per-task."
        )
    job_gpus = env.get("SLURM_JOB_GPUS", "")
    of_job = len(parse_visible_devices(job_gpus))
    # The list is that of the batch script's node, the first; others may have fewer, unless it is by task.
    by_task = "SLURM_GPUS_PER_TASK" in env or "gpu" in env.get("SLURM_TRES_PER_TASK", "")
    first = allocation.node_name in allocation.job_nodes[:1]
    if allocation.in_task and granted and of_job > granted and (first or (by_task and not allocation.nodeid)):
        warnings.append(
            f"this step has {granted} of the {of_job} GPUs that the job has on this node "
            f"(SLURM_JOB_GPUS={job_gpus}), since --gpus-per-task gives each task its own: "
            f"add --gpus-per-node={of_job} --gpu-bind=none to srun, or --gpus-per-node to sbatch instead."
        )
    if granted is None and visible is None:
        if job_gpus and allocation.in_task:
            warnings.append(
                f"the job has GPUs on this node (SLURM_JOB_GPUS={job_gpus}) and this step has none: "
                f"add --gres=gpu:{len(job_gpus.split(','))} to srun, or --num-gpus 0 if that is meant."
            )
        elif driver:
            warnings.append(
                f"the {devices.vendor} driver shows {count(driver, 'GPU')} and Slurm granted none: "
                f"add --gpus-per-node={driver} to sbatch or srun, or give --num-gpus."
            )
    elif granted and driver is None:
        warnings.append(
            f"Slurm granted {count(granted, 'GPU')} and no driver is seen here: in a container, "
            "let it see them (apptainer --nv or --rocm)."
        )
    return warnings


def rocr_alone(env: Mapping[str, str]) -> str | None:
    return env.get("ROCR_VISIBLE_DEVICES") if "HIP_VISIBLE_DEVICES" not in env else None


def _list(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir())
    except OSError:
        return []
