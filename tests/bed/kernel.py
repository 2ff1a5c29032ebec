"""Mounts and the identity of processes: the little that the standard library lacks."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import select
import signal
from pathlib import Path

MS_NODEV = 0x4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); raises OSError."""
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def bind(source: str | Path, target: str | Path) -> None:
    """Makes ``source`` appear at ``target`` as well, with what is mounted below it."""
    mount(str(source), str(target), flags=MS_BIND | MS_REC)


@dataclasses.dataclass(frozen=True)
class Process:
    """A process of the machine, known by its id and its start time, so that a reused id is another one."""

    pid: int
    started: str
    """Field 22 of /proc/PID/stat: clock ticks since boot."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has ``pid`` now; None when there is none."""
        started = _start_time(pid)
        return None if started is None else cls(pid, started)

    @classmethod
    def own(cls) -> Process:
        """This process under the id that the mounted /proc gives it (the machine's, until /proc is remounted)."""
        pid = int(os.readlink("/proc/self"))
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

    def kill(self, wait_s: float = 10) -> bool:
        """SIGKILL, then waits until it has gone; the kernel ends what is in its PID namespace first.

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
