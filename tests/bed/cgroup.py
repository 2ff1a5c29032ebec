"""The cgroups of hosts, where a bed enforces limits.

Each host has its own, with v1 in each controller, and sees them as the roots: slurmd refuses a root of v2
with processes of other PID namespaces in it.  With v2 all processes of a host are in ``system`` below its
own: a cgroup with processes in it cannot hand its controllers on.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.bed.kernel import CLONE_NEWCGROUP, mount, tmpfs, unshare

MOUNTS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "devices", "freezer", "memory")

SYSTEM = "system"
"""Where a host's processes are with v2, as slurmd itself has it in a container."""


def version() -> int:
    """The version of cgroups that this machine mounts: 1 or 2."""
    return 2 if (MOUNTS / "cgroup.controllers").exists() else 1


def move() -> list[str]:
    """Put before a command, it runs that in the host's own cgroups, as if it had been started there."""
    places = [f"{MOUNTS}/{SYSTEM}"] if version() == 2 else [f"{MOUNTS}/{name}" for name in CONTROLLERS]
    return ["sh", "-c", f'for c in {" ".join(places)}; do echo $$ >$c/cgroup.procs; done; exec "$@"', "sh"]


def available() -> bool:
    """Whether this machine has the controllers where Slurm looks for them; of v2, to this process."""
    if version() == 2:
        own = Path("/proc/self/cgroup").read_text().strip()
        return own == "0::/" and "memory" in (MOUNTS / "cgroup.subtree_control").read_text()
    return all((MOUNTS / controller / "tasks").exists() for controller in CONTROLLERS)


def apart(limits: bool) -> bool:
    """Whether hosts get cgroups of their own: where limits are enforced, and where the machine has v2 alone.

    slurmd of Slurm 24.11 looks at the root of v2 even where it uses no cgroup.
    """
    return limits or (version() == 2 and available())


def enter(bed: str, host: str) -> None:
    """Makes the cgroups of ``host`` and moves this process into them, as the root of all that it will see."""
    if version() == 2:
        top = _top("", bed)
        (top / host).mkdir(parents=True)
        (top / "cgroup.subtree_control").write_text("+cpu +cpuset +memory +pids")
        (top / host / "cgroup.procs").write_text("0")
        unshare(CLONE_NEWCGROUP)
        (top / host / SYSTEM).mkdir()
        (top / host / SYSTEM / "cgroup.procs").write_text("0")
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


def mount_own(version: int) -> None:
    """Mounts the cgroups of this version anew, so that their roots are the host's own."""
    if version == 2:
        mount("cgroup2", MOUNTS, "cgroup2")
        return
    tmpfs(MOUNTS, 1)
    for controller in CONTROLLERS:
        (MOUNTS / controller).mkdir()
        mount("cgroup", MOUNTS / controller, "cgroup", options=controller)


def remove(bed: str, host: str = "") -> None:
    """Removes the cgroups of ``host``, or of the whole bed, once its processes have gone; else OSError."""
    deadline = time.monotonic() + 5
    for controller in ("",) if version() == 2 else CONTROLLERS:
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
