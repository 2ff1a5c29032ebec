"""Removal of a directory tree of this user's, and of nothing else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..model.errors import in_words


def open_directory(path: Path) -> int:
    """A file descriptor of a directory; a symbolic link is not followed.  Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def remove_tree(path: Path) -> list[str]:
    """Remove a directory of this user's with its content; returns what is left, with the reasons.

    Works with file descriptors: it follows no links, stays on one file system (another can be mounted
    inside), and gives itself access to directories of this user's that have no permissions.  Blocks on the
    file system.
    """
    left: list[str] = []
    try:
        fd = open_directory(path)
    except FileNotFoundError:
        return left
    except OSError as error:
        return [f"{path}: {in_words(error)}"]
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            return [f"{path}: it belongs to another user (uid {found.st_uid})"]
        _empty(fd, str(path), found.st_dev, left)
        if not left:
            os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        left.append(f"{path}: {in_words(error)}")
    finally:
        os.close(fd)
    return left


def _empty(fd: int, shown: str, device: int, left: list[str]) -> None:
    for name in os.listdir(fd):
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=fd)
                continue
            if found.st_dev != device:
                left.append(f"{shown}/{name}: another file system is mounted there")
                continue
            if found.st_mode & 0o700 != 0o700 and found.st_uid == os.geteuid():
                _open_up(fd, name)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                if os.fstat(below).st_dev == device:
                    _empty(below, f"{shown}/{name}", device, left)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not left:
                left.append(f"{shown}/{name}: {in_words(error)}")


def _open_up(fd: int, name: str) -> None:
    """Make a directory of this user's accessible, by its descriptor, so that no link is followed."""
    below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.chmod(f"/proc/self/fd/{below}", 0o700)
    finally:
        os.close(below)
