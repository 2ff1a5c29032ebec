"""Devices that Ray looks for by itself: GPUs, TPUs, Gaudi, Trainium, Ascend and others.

Ray adds resources and labels of their own for them.  Of NVIDIA's GPUs a head's template says what these are,
for workers with GPUs of the same model; on a node with anything else Ray has to look itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..model.value import Value
from ..slurm.allocation import Allocation
from .figures import read
from .gpus import granted_gpus, has_driver

#: Names in /dev of the devices that Ray's accelerator managers know.
_NAMES = re.compile(
    r"(accel|davinci|neuron|rbln|npu|mxcd|hl|aries|regulus-npu)\d+|rngd.*|mxcd|tenstorrent", re.ASCII
)


#: What the GPUs of a node are where Slurm or an option gives some and no driver is seen (containers, tests).
NO_DRIVER = "no driver"


class Accelerators(Value):
    """What a node has, as far as it decides how its Ray is started."""

    gpus: str = ""
    """The model of its GPUs, or NO_DRIVER; empty for a node that has none."""
    doubt: str = ""
    """Why Ray itself has to look for devices on this node; empty when the driver's data are enough."""


def find_accelerators(
    env: Mapping[str, str], allocation: Allocation | None, num_gpus: int | None, *, root: str = "/"
) -> Accelerators:
    """What this node has.  ``num_gpus``: --num-gpus.  Blocks on /dev, /proc and /sys."""
    doubt = special_devices(os.path.join(root, "dev"))
    grant, devices = granted_gpus(env, allocation, Path(root))
    count = grant.value if num_gpus is None else num_gpus
    if doubt or not count:
        return Accelerators(doubt=doubt)
    if devices.vendor not in ("", "nvidia"):
        return Accelerators(doubt=f"the GPUs of this node are not NVIDIA's ({devices.vendor})")
    if devices.visible is not None and count > len(devices.visible):
        return Accelerators(doubt=f"{devices.variable} shows fewer GPUs than this node shall have")
    models = gpu_models(root)
    if len(models) > 1:
        return Accelerators(doubt=f"this node has GPUs of several models ({', '.join(models)})")
    if not models and has_driver(Path(root)):
        return Accelerators(doubt="the driver does not say of which model the GPUs of this node are")
    return Accelerators(gpus=models[0] if models else NO_DRIVER)


def gpu_models(root: str = "/") -> list[str]:
    """The models of all NVIDIA GPUs of the machine as their driver names them, as NVML does."""
    found = set()
    directory = os.path.join(root, "proc/driver/nvidia/gpus")
    for name in _list(directory):
        text = read(Path(directory, name, "information")) or ""
        found.update(re.findall(r"^Model:\s*(\S.*?)\s*$", text, re.MULTILINE))
    return sorted(found)


def special_devices(dev: str = "/dev") -> str:
    """A device of this node that is neither CPU nor GPU and that Ray may know; empty when there is none."""
    try:
        names = os.listdir(dev)
    except OSError:
        return f"{dev} cannot be read"
    found = [name for name in names if _NAMES.fullmatch(name)]
    found += [f"vfio/{name}" for name in _list(os.path.join(dev, "vfio")) if name.isdigit()]
    found += [f"accel/{name}" for name in _list(os.path.join(dev, "accel")) if "control" in name]  # Gaudi
    return f"this node has {dev}/{found[0]}" if found else ""


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
