"""Mounts and the identity of processes: the little that the standard library lacks."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import select
import signal
from pathlib import Path

MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); raises OSError."""
    texts = [str(text).encode() for text in (source, target, kind, options)]
    done = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _check(done, f"mount {source} on {target}")


def bind(source: str | Path, target: str | Path) -> None:
    """Makes ``source`` appear at ``target`` as well, with what is mounted below it."""
    mount(source, target, flags=MS_BIND | MS_REC)


def tmpfs(target: str | Path, size_mib: int, mode: str = "755") -> None:
    """Covers ``target`` by an empty directory in memory."""
    mount("tmpfs", target, "tmpfs", options=f"mode={mode},size={size_mib}m")


def unmount(target: str | Path) -> None:
    """Takes the mount at ``target``, and all that is mounted below it, out of sight."""
    _check(_libc.umount2(str(target).encode(), MNT_DETACH), f"unmount {target}")


def pivot_root(root: str | Path, old: str | Path) -> None:
    """Makes the mount ``root`` this process's /; the former one appears at ``old``, below it."""
    _check(_libc.pivot_root(str(root).encode(), str(old).encode()), f"pivot_root {root}")
    os.chdir("/")


def unshare(flags: int) -> None:
    """unshare(2), which the standard library has from 3.12 on."""
    _check(_libc.unshare(flags), "unshare")


def _check(done: int, what: str) -> None:
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


@dataclasses.dataclass(frozen=True)
class Process:
    """A process of the machine, known by its id and its start time, so that a reused id is another one."""

    pid: int
    started: str
    """Field 22 of /proc/PID/stat: clock ticks since boot."""

    @classmethod
    def own(cls) -> Process:
        """This process, under the id that it has on the machine for as long as /proc is the machine's."""
        pid = int(Path("/proc/self").readlink().name)
        return cls(pid, _start_time(pid) or "")

    @classmethod
    def load(cls, path: Path) -> Process | None:
        """The process that :meth:`save` wrote to ``path``; None when there is no such file."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None

    def save(self, path: Path) -> None:
        """Writes it to ``path`` in one step."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(dataclasses.asdict(self)))
        new.rename(path)

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return _start_time(self.pid) == self.started

    def kill(self, wait_s: float = 60) -> bool:
        """SIGKILL, then waits until it has gone; of an init the kernel ends the whole PID namespace first.

        False when it is still there after ``wait_s`` seconds.
        """
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive():
                return True
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            return bool(select.select([fd], [], [], wait_s)[0])
        finally:
            os.close(fd)


def _start_time(pid: int) -> str | None:
    """The start time of a process that is not a zombie, else None."""
    try:
        # The name in parentheses may hold anything, so fields are counted from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
