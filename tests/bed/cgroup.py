"""A child cgroup (v1) for each host in each controller, where a bed enforces limits."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MOUNTS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "devices", "freezer", "memory")


def available() -> bool:
    """Whether this machine mounts cgroup v1's controllers where Slurm looks for them."""
    return all((MOUNTS / controller / "tasks").exists() for controller in CONTROLLERS)


def create(bed: str, host: str) -> None:
    """Makes the cgroups of ``host`` and moves this process into them."""
    for controller in CONTROLLERS:
        parent = MOUNTS / controller
        for path in (_top(controller, bed), _top(controller, bed) / host):
            path.mkdir(exist_ok=True)
            if controller == "cpuset":
                # A new cpuset is empty, and an empty one takes no process.
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (path / file).write_text((parent / file).read_text())
                (path / "cgroup.clone_children").write_text("1")
            parent = path
        (parent / "cgroup.procs").write_text("0")


def path(controller: str, bed: str, host: str) -> Path:
    """The directory of a host's cgroup."""
    return _top(controller, bed) / host


def remove(bed: str) -> None:
    """Removes a bed's cgroups once its processes have gone; without them it does nothing."""
    for controller in CONTROLLERS:
        top = _top(controller, bed)
        deadline = time.monotonic() + 5
        while top.exists() and time.monotonic() < deadline:
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # The kernel may still be at the last process.
                    os.rmdir(directory)
            if top.exists():
                time.sleep(0.05)


def _top(controller: str, bed: str) -> Path:
    return MOUNTS / controller / f"raycluster-bed-{bed}"
