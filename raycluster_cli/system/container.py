"""Into the container in which a node's raycluster runs, where it runs in one.

The node's namespaces are those of its raycluster process.  nsenter leads into them: enroot (pyxis),
podman and apptainer without setuid make a user namespace, which its owner may enter.  Into a container
made by a setuid program only root can: what is started then runs on the node, outside of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .proctree import PROC, ProcessRef, all_stats, is_running

#: By their names in /proc/PID/ns, with nsenter's options.  Not the cgroup's: Slurm's step has its own.
NAMESPACES = {
    "user": "--user",
    "mnt": "--mount",
    "uts": "--uts",
    "ipc": "--ipc",
    "net": "--net",
    "pid": "--pid",
}

#: What a try to enter takes at most; it takes milliseconds.
TRY_S = 10.0


@dataclass(frozen=True)
class Container:
    """The namespaces of a process in which this process is not."""

    pid: int
    """As this process sees it."""
    namespaces: tuple[str, ...]
    """Keys of :data:`NAMESPACES`."""

    @property
    def root(self) -> Path:
        """The container's file system as it can be read from here."""
        return PROC / str(self.pid) / "root"

    def command(self, argv: Sequence[str]) -> list[str]:
        """``argv`` in the container, started in the directory of its raycluster.

        >>> Container(7, ("user", "mnt")).command(["hostname"])[1:]
        ['--target=7', '--user', '--mount', '--preserve-credentials', '--wd', '--', 'hostname']
        """
        options = [NAMESPACES[name] for name in self.namespaces]
        if "user" in self.namespaces:
            options.append("--preserve-credentials")
        program = shutil.which("nsenter") or "nsenter"
        return [program, f"--target={self.pid}", *options, "--wd", "--", *argv]

    def can_be_entered(self) -> bool:
        """Whether the kernel lets this user in (and there is nsenter)."""
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
    """The container of a process of this node, which it knows by ``ref``; None when it is in none.

    None as well when there is no such process to be seen from here.
    """
    pid = _seen_from_here(ref)
    if pid is None:
        return None
    others = tuple(name for name in NAMESPACES if _namespace(pid, name) != _namespace(os.getpid(), name))
    return Container(pid, others) if others else None


def _seen_from_here(ref: ProcessRef) -> int | None:
    """The number that a process has here: another than its own where it has a PID namespace of its own."""
    if is_running(ref):
        return ref.pid
    for stat in all_stats():
        if stat.start_ticks == ref.start_ticks and _innermost_pid(stat.pid) == ref.pid:
            return stat.pid
    return None


def _innermost_pid(pid: int) -> int | None:
    """The number of a process in its own PID namespace: the last of NSpid in /proc/PID/status."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None


def _namespace(pid: int, name: str) -> str:
    """Its identity, such as ``mnt:[4026531841]``; empty when it is not for us to see."""
    try:
        return os.readlink(PROC / str(pid) / "ns" / name)
    except OSError:
        return ""
