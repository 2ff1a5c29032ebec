"""Containers: how to run a command in the container of another raycluster process on this node.

The container's namespaces are those of its raycluster process, and nsenter enters them.  enroot (pyxis),
podman and apptainer without setuid make a user namespace, which its owner may enter.  Only root can enter a
container that a setuid program made; commands for it run outside, on the node itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..model.dataclass import dataclass
from .proctree import PROC, ProcessRef, all_stats, is_running

#: Names in /proc/PID/ns and nsenter's options.  Without the cgroup namespace: a Slurm step has its own
#: cgroup.
NAMESPACES = {
    "user": "--user",
    "mnt": "--mount",
    "uts": "--uts",
    "ipc": "--ipc",
    "net": "--net",
    "pid": "--pid",
}

#: The deadline of a test whether a container can be entered, which usually takes milliseconds.
TRY_S = 10.0


@dataclass(frozen=True)
class Container:
    """A process in other namespaces than this one, and which ones these are."""

    pid: int
    """The process id, as seen from this process."""
    namespaces: tuple[str, ...]
    """Keys of :data:`NAMESPACES`."""

    @property
    def root(self) -> Path:
        """The container's root directory, as a path for this process."""
        return PROC / str(self.pid) / "root"

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` in the container, in its raycluster process's working directory.

        >>> Container(7, ("user", "mnt")).command(["hostname"])[1:]
        ['--target=7', '--user', '--mount', '--preserve-credentials', '--wd', '--', 'hostname']
        """
        options = [NAMESPACES[name] for name in self.namespaces]
        if "user" in self.namespaces:
            options.append("--preserve-credentials")
        program = shutil.which("nsenter") or "nsenter"
        return [program, f"--target={self.pid}", *options, "--wd", "--", *argv]

    def can_be_entered(self) -> bool:
        """Whether nsenter exists and the kernel lets this user enter.  Blocks for TRY_S at most."""
        try:
            done = subprocess.run(
                self.command(["/bin/sh", "-c", ":"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TRY_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


def container_of(ref: ProcessRef) -> Container | None:
    """The container of a process on this node, of which ``ref`` is its own view.

    None when it is not in a container, and when it cannot be seen from this process.
    """
    pid = _seen_from_here(ref)
    if pid is None:
        return None
    others = tuple(name for name in NAMESPACES if _namespace(pid, name) != _namespace(os.getpid(), name))
    return Container(pid, others) if others else None


def _seen_from_here(ref: ProcessRef) -> int | None:
    """The process id as seen from here, which differs from its own in another PID namespace."""
    if is_running(ref):
        return ref.pid
    for stat in all_stats():
        if stat.start_ticks == ref.start_ticks and _innermost_pid(stat.pid) == ref.pid:
            return stat.pid
    return None


def _innermost_pid(pid: int) -> int | None:
    """The process id in the process's own PID namespace: the last of NSpid in /proc/PID/status."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None


def _namespace(pid: int, name: str) -> str:
    """The identity of a namespace, such as ``mnt:[4026531841]``; empty without permission to see it."""
    try:
        return os.readlink(PROC / str(pid) / "ns" / name)
    except OSError:
        return ""
