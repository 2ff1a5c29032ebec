"""Files and directories of a record: replaced as a whole, read with retries, owned by the user.

**Slow network file systems.**  Files are replaced as a whole (written beside, closed, renamed), so a reader
sees the old or the new content.  Readers treat a missing, empty, partial or stale (ESTALE) file as "not there
yet" and return None.  An NFS client may remember for 30 s that a name did not exist (acdirmin).  After a miss
the directory is therefore opened, which makes the client ask the server, and the file is read again.

Every function blocks as long as the file system does: an event loop calls them in a thread with a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import socket
import stat
from pathlib import Path

from ..model.errors import RayclusterError, UsageError

_FILE_MAX_BYTES = 1 << 20
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,99}\Z")


def needs(path: Path, error: OSError, doing: str) -> RayclusterError:
    """The error for an OSError that occurred when ``doing`` (read, write, make) something with ``path``."""
    what = f"cannot {doing} {path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RayclusterError(
            f"{what}.", "Free space on that file system, or choose another shared directory with --state-dir."
        )
    denied = (errno.EACCES, errno.EPERM, errno.EROFS)
    if error.errno in denied or (doing == "make" and error.errno in (errno.ENOENT, errno.ENOTDIR)):
        return UsageError(
            f"{what}; the record needs a directory that you can write to and that all nodes share.",
            "Choose one with --state-dir or RAYCLUSTER_STATE_DIR.",
        )
    return RayclusterError(f"{what}.", "Choose another shared directory with --state-dir.")


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader sees all of the old or all of the new content.

    Raises RayclusterError.
    """
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)  # NFS reports a full disk here
            os.rename(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise needs(path, error, "write") from error


def read_bytes(path: Path, most_bytes: int = _FILE_MAX_BYTES) -> bytes | None:
    """The content of a file; None when the file is missing or cannot be read (yet).

    Of one with more than ``most_bytes`` only the beginning, which no reader takes for the whole.
    """
    for attempt in range(2):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if attempt or error.errno not in (errno.ENOENT, errno.ESTALE):
                return None
            with contextlib.suppress(OSError):  # an NFS client then asks whether the directory has changed
                os.close(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            continue
        try:
            data = bytearray()
            while len(data) <= most_bytes and (chunk := os.read(fd, 1 << 16)):
                data += chunk
            return bytes(data)
        except OSError:
            return None
        finally:
            os.close(fd)
    return None


def stamp_of(path: Path) -> int | None:
    """When a file was last written, in the file server's nanoseconds; None when it cannot be read.

    The file is opened, not just looked at: an NFS client answers stat(2) from its cache for a minute.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_mtime_ns
    except OSError:
        return None
    finally:
        os.close(fd)


def user(uid: int) -> str:
    """The name of a user, for messages."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def own_directory(path: Path, *, make: bool = True) -> None:
    """Make sure that ``path`` is a directory of this user's that nobody else can write to.

    Makes it (mode 0700) if ``make``.  Raises UsageError for any other directory, and for a symbolic link,
    which another user could have made; RayclusterError when the file system fails.
    """
    try:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            found = os.lstat(path)
    except OSError as error:
        raise needs(path, error, "make" if make else "read") from error
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(
            f"{path} is not a directory, but the record needs a directory of that name.",
            "Move it away, or choose another directory with --state-dir.",
        )
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"{path} belongs to {user(found.st_uid)}, not to {user(os.geteuid())}; the record contains the "
            "cluster's token, so it must be in a directory of your own.",
            "Choose one with --state-dir or RAYCLUSTER_STATE_DIR.",
        )
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise UsageError(
            f"other users can write to {path} (mode {stat.S_IMODE(found.st_mode):04o}), so they "
            "could replace your record.",
            f"Run `chmod go-w {path}`.",
        )


def own_state_dir(state_dir: Path) -> Path:
    """The state directory as an absolute path without links; made when missing, with its parents.

    Raises as :func:`own_directory` does.
    """
    try:
        state_dir = state_dir.expanduser()
        if not state_dir.exists():
            state_dir.parent.mkdir(parents=True, exist_ok=True)
        real = Path(os.path.realpath(state_dir))  # the home directory itself may be a link, made by the user
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"cannot use {state_dir} as the state directory: {error}.", "Choose another with --state-dir."
        ) from error
    own_directory(real)
    return real


def part(text: str, what: str) -> str:
    """``text``, if a file name can contain it; else UsageError, in which ``what`` says what it is."""
    if not _PART.match(text) or "+" in text:
        raise UsageError(
            f"{what} {text!r} cannot be used in a file name; up to 100 letters, digits, _ . and - can."
        )
    return text
