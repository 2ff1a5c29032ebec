"""Shared memory that killed processes leave in /dev/shm: removed when nobody maps it.

Python's multiprocessing, MPI and NCCL remove their files at the end of a program, but Ray kills its worker
processes with SIGKILL, and with them the process that does so for Python.  A file is the cluster's

- where one of its processes maps it; or
- where it was made during the cluster, while nothing else of this user ran on the node:
  Ray kills a driver's actors the moment the driver ends, before anybody can look at what they map.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from .proctree import PROC, Stat, parse_stat

SHM = Path("/dev/shm")

PREFIXES = ("psm_", "mpich_shm_", "vader_segment.", "sm_segment.", "nccl-")
"""Python's multiprocessing.shared_memory, MPICH, Open MPI 4 and 5, NCCL."""

BYSTANDERS = frozenset(
    {"bash", "csh", "dash", "fish", "ksh", "salloc", "sh", "slurmstepd", "srun", "tcsh", "zsh"}
    | {"(sd-pam)", "dbus-daemon", "sshd", "sshd-session", "systemd"}
)
"""Programs that make no such file: a batch script's shell, Slurm's commands, what a login brings along."""


def files(directory: Path = SHM) -> dict[str, int]:
    """The files with such names that belong to this user alone: the inode of each by its name."""
    return dict(_files(directory))


def mapped_by(pids: Iterable[int], *, directory: Path = SHM, proc: Path = PROC) -> dict[str, int]:
    """The :func:`files` that one of these processes maps.  Reads no process where there is no such file."""
    found = files(directory)
    return {name: found[name] for name in _mapped(pids, found, directory, proc)} if found else {}


def made_since(
    there: dict[str, int], *, pid: int, directory: Path = SHM, proc: Path = PROC
) -> dict[str, int]:
    """The :func:`files` that were not ``there`` when ``pid`` looked, if only its job can have made them."""
    new = {name: inode for name, inode in files(directory).items() if there.get(name) != inode}
    return new if new and is_alone(pid, proc=proc) else {}


def is_alone(pid: int, *, proc: Path = PROC) -> bool:
    """Whether this user runs nothing else on the node than a process, what is above and below it, bystanders.

    A bystander is a program of :data:`BYSTANDERS`, unless it is in another job.  False also where not all of
    the node's processes can be seen, as in a container with process ids of its own: slurmstepd is above each
    process of a job.
    """
    stats = {found.pid: found for entry in proc.glob("[0-9]*") if (found := _stat(entry))}
    above = _above(pid, stats)
    if not any(stats[each].name == "slurmstepd" for each in above):
        return False
    ours = {*above, pid}
    job = _job(proc / str(pid))
    return not any(
        each not in ours
        and seen.state not in "ZX"
        and pid not in _above(each, stats)
        and _is_this_users(proc / str(each))
        and not (_program(proc / str(each), seen) in BYSTANDERS and _job(proc / str(each)) in (job, ""))
        for each, seen in stats.items()
    )


def remove_unmapped(found: dict[str, int], *, directory: Path = SHM, proc: Path = PROC) -> list[str]:
    """Remove those of these files that are still the same and that no process maps; gives their names.

    Only this user can have opened one, so the processes of others need not be readable.
    """
    if not found:
        return []
    used = _mapped((int(entry.name) for entry in proc.glob("[0-9]*")), found, directory, proc)
    now = files(directory)
    removed = []
    for name in sorted(set(found) - used):
        if now.get(name) == found[name]:
            with contextlib.suppress(OSError):  # its owner was faster
                (directory / name).unlink()
                removed.append(name)
    return removed


def _files(directory: Path) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return  # a site without /dev/shm
    for entry in entries:
        if entry.name.startswith(PREFIXES):
            with contextlib.suppress(FileNotFoundError):
                seen = entry.stat(follow_symlinks=False)
                alone = stat.S_ISREG(seen.st_mode) and not seen.st_mode & 0o077
                if alone and seen.st_uid == os.geteuid():
                    yield entry.name, seen.st_ino


def _mapped(pids: Iterable[int], names: Iterable[str], directory: Path, proc: Path) -> set[str]:
    """Those of these names that one of the processes maps; proc(5): the path is the last field of a line."""
    wanted = {f"{directory}/{name}".encode(): name for name in names}
    found = set()
    for pid in pids:
        try:
            text = (proc / str(pid) / "maps").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's
        for path, name in wanted.items():
            if path + b"\n" in text:
                found.add(name)
    return found


def _stat(process: Path) -> Stat | None:
    try:
        return parse_stat((process / "stat").read_bytes().decode("utf-8", "replace"))
    except (OSError, ValueError, IndexError):
        return None  # it has ended


def _above(pid: int, stats: dict[int, Stat]) -> Collection[int]:
    """The ids of the processes above one, the nearest first."""
    found: list[int] = []
    while (seen := stats.get(pid)) and seen.parent in stats and seen.parent not in found:
        pid = seen.parent
        found.append(pid)
    return found


def _is_this_users(process: Path) -> bool:
    try:
        return process.stat().st_uid == os.geteuid()
    except OSError:
        return False  # it has ended


def _program(process: Path, seen: Stat) -> str:
    """The program's name, for a script its interpreter's; the process's own where that is hidden."""
    try:
        return os.path.basename(os.readlink(process / "exe"))
    except OSError:
        return seen.name


def _job(process: Path) -> str:
    """The Slurm job that a process's environment names; "" without one."""
    try:
        words = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((word[13:].decode() for word in words if word.startswith(b"SLURM_JOB_ID=")), "")
