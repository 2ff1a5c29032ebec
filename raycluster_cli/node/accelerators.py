"""Devices that Ray looks for by itself: GPUs, TPUs, Gaudi, Trainium, Ascend and others.

On a node that has one of them Ray has to look itself: it adds resources and labels of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..slurm.allocation import Allocation
from .gpus import granted_gpus

#: Names in /dev of the devices that Ray's accelerator managers know.
_NAMES = re.compile(
    r"(accel|davinci|neuron|rbln|npu|mxcd|hl|aries|regulus-npu)\d+|rngd.*|mxcd|tenstorrent", re.ASCII
)


def accelerator(
    env: Mapping[str, str], allocation: Allocation | None, num_gpus: int | None, *, root: str = "/"
) -> str:
    """What of this node Ray has to look at itself; empty when there is no such thing.

    ``num_gpus``: --num-gpus.  Blocks on /dev, /proc and /sys.
    """
    if num_gpus if num_gpus is not None else granted_gpus(env, allocation, Path(root))[0].value:
        return "this node has GPUs"
    return special_devices(os.path.join(root, "dev"))


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
