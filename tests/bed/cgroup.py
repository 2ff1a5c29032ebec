"""The cgroups of hosts, where a bed enforces limits.

With v1 each host has its own in each controller.  With v2 all hosts use the machine's root, in
which each slurmd makes a scope with its node's name: below the root a cgroup with processes in it
cannot hand its controllers on.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.bed.kernel import CLONE_NEWCGROUP, mount, tmpfs, unshare

MOUNTS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "devices", "freezer", "memory")

MOVE_TO_ROOT = (
    *("sh", "-c"),
    f'for c in {" ".join(CONTROLLERS)}; do echo $$ >{MOUNTS}/$c/cgroup.procs; done; exec "$@"',
    "sh",
)
"""Put before a command, it runs that in the host's own cgroups, as if it had been started there."""


def version() -> int:
    """The version of cgroups that this machine mounts: 1 or 2."""
    return 2 if (MOUNTS / "cgroup.controllers").exists() else 1


def available() -> bool:
    """Whether this machine has the controllers where Slurm looks for them; of v2, to this process."""
    if version() == 2:
        own = Path("/proc/self/cgroup").read_text().strip()
        return own == "0::/" and "memory" in (MOUNTS / "cgroup.subtree_control").read_text()
    return all((MOUNTS / controller / "tasks").exists() for controller in CONTROLLERS)


def enter(bed: str, host: str) -> None:
    """Makes the cgroups of ``host`` and moves this process into them, as the root of all that it will see."""
    if version() == 2:
        return
    for controller in CONTROLLERS:
        machine, top = MOUNTS / controller, _top(controller, bed)
        for path, parent in ((top, machine), (top / host, top)):
            path.mkdir(exist_ok=True)
            if controller == "cpuset":
                # A new cpuset is empty, and an empty one takes no process.
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (path / file).write_text((parent / file).read_text())
                (path / "cgroup.clone_children").write_text("1")
        (top / host / "cgroup.procs").write_text("0")
    unshare(CLONE_NEWCGROUP)


def mount_own() -> None:
    """Mounts the controllers anew, so that their roots are the host's own cgroups."""
    tmpfs(MOUNTS, 1)
    for controller in CONTROLLERS:
        (MOUNTS / controller).mkdir()
        mount("cgroup", MOUNTS / controller, "cgroup", options=controller)


def remove(bed: str, host: str = "") -> None:
    """Removes the cgroups of ``host``, or of the whole bed, once its processes have gone; else OSError."""
    if version() == 2:
        return
    deadline = time.monotonic() + 5
    for controller in CONTROLLERS:
        top = _top(controller, bed) / host
        while top.exists():
            try:
                for directory, _, _ in os.walk(top, topdown=False):
                    Path(directory).rmdir()
            except OSError:  # The kernel may still be at the last process.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def _top(controller: str, bed: str) -> Path:
    return MOUNTS / controller / f"raycluster-bed-{bed}"
