"""A copy of the Python environment on this node: made, locked, removed by its last user or by a later start.

``<base>/rce-<uid>-<8 hex>``, mode 0700.  The directory is locked with flock(2): exclusively while the copy is
being made, shared by every supervisor that runs from it.  ``about.json`` is written last; a copy without it
is not complete.  The 8 digits follow from the job and the environment, so the path is the same on all nodes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..model.value import Value
from ..system.removal import open_directory, remove_tree
from .places import NETWORK, mount_of, mountinfo, parse_mountinfo

ABOUT = "about.json"

#: A copy whose maker is not seen yet is left alone for this long.
_YOUNG_S = 60.0


class Removed(Value):
    """A copy that was removed, and what is left of it."""

    path: Path
    left: tuple[str, ...] = ()


def copy_name(uid: int, tail: str) -> str:
    """rce-<uid>-<tail>"""
    return f"rce-{uid}-{tail}"


def read_about(path: Path) -> dict[str, object]:
    """What a copy belongs to; empty where it is not complete."""
    try:
        about = json.loads((path / ABOUT).read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def write_about(path: Path, about: Mapping[str, object]) -> None:
    """Say that a copy is complete.  Raises OSError."""
    beside = path / ".about"
    beside.write_text(json.dumps(dict(about)))
    beside.replace(path / ABOUT)


def begin_copy(path: Path) -> int | None:
    """Make the directory of a new copy, locked exclusively; None where there is one.  Raises OSError."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return None
    os.chmod(path, 0o700)  # whatever the umask
    fd = open_directory(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_still(path, fd):
            raise OSError(errno.EWOULDBLOCK, "another process has removed it")
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_copy(path: Path) -> int | None:
    """A complete copy, locked against removal until the descriptor is closed; None where there is none.

    Raises BlockingIOError while another process makes or removes it.
    """
    try:
        fd = open_directory(path)
    except FileNotFoundError:
        return None
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if _is_still(path, fd) and read_about(path):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _is_still(path: Path, fd: int) -> bool:
    """Whether the path still names the directory that is open."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))


def remove_unused(path: Path) -> Removed | None:
    """Remove a copy that no process uses; None where there is none, or where it is used."""
    try:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return None
        fd = open_directory(path)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):
            os.unlink(path / ABOUT)
        return Removed(path, tuple(remove_tree(path)))
    except OSError:
        return None
    finally:
        os.close(fd)


def sweep_copies(
    bases: Iterable[Path], *, job: str, mounts: Callable[[], str] = mountinfo, young_s: float = _YOUNG_S
) -> list[Removed]:
    """Remove copies of this user that no process uses, but those that ``job`` keeps for its next cluster.

    One directory listing for each base when there is nothing to do.
    """
    table = parse_mountinfo(mounts())
    prefix = copy_name(os.geteuid(), "")
    removed = []
    for base in bases:
        if mount_of(os.path.normpath(base), table).type in NETWORK:
            continue  # none is made there, and listing it may hang
        real = Path(os.path.realpath(base))
        try:
            names = [name for name in os.listdir(real) if name.startswith(prefix)]
        except OSError:
            continue
        for name in names:
            about = read_about(real / name)
            if about.get("keep") and job and about.get("job") == job:
                continue
            if not about and _is_young(real / name, young_s):
                continue  # its maker may be about to lock it
            if (done := remove_unused(real / name)) is not None:
                removed.append(done)
    return removed


def _is_young(path: Path, young_s: float) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime < young_s
    except OSError:
        return True


def remove_own_copy(prefix: str) -> None:
    """Remove the copy that this process runs from, as its last act; nothing where it runs from none.

    Its keeper does so usually.  A copy that is kept, or that another process uses, stays.
    """
    copy = copy_of(prefix)
    if copy is None or read_about(copy).get("keep"):
        return
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == str(copy):
                os.close(int(fd))  # this process's own lock
    remove_unused(copy)


def copy_of(path: str) -> Path | None:
    """The copy that a path lies in; None outside of any.

    >>> copy_of("/tmp/rce-1000-0a1b2c3d/env")
    PosixPath('/tmp/rce-1000-0a1b2c3d')
    """
    found = re.match(r"(.*/rce-\d+-[0-9a-f]{8})(/|$)", path)
    return Path(found[1]) if found else None
