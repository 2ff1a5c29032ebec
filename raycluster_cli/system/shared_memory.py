"""Shared memory that killed processes leave in /dev/shm: found by who maps it, removed when nobody does.

Python's multiprocessing and MPI remove their files at the end of a program, but Ray kills its worker
processes with SIGKILL.  A file is the cluster's where one of its processes maps it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .proctree import PROC

SHM = Path("/dev/shm")

PREFIXES = ("psm_", "mpich_shm_")
"""Python's multiprocessing.shared_memory, and MPICH."""


def mapped_by(pids: Iterable[int], *, directory: Path = SHM, proc: Path = PROC) -> dict[str, int]:
    """The files with such names that belong to this user alone and that one of these processes maps.

    Gives the inode of each by its name.  Reads no process where there is no such file.
    """
    found = dict(_files(directory))
    return {name: found[name] for name in _mapped(pids, found, directory, proc)} if found else {}


def remove_unmapped(files: dict[str, int], *, directory: Path = SHM, proc: Path = PROC) -> list[str]:
    """Remove those of these files that are still the same and that no process maps; gives their names.

    Only this user can have opened one, so the processes of others need not be readable.
    """
    if not files:
        return []
    used = _mapped((int(entry.name) for entry in proc.glob("[0-9]*")), files, directory, proc)
    now = dict(_files(directory))
    removed = []
    for name in sorted(set(files) - used):
        if now.get(name) == files[name]:
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
