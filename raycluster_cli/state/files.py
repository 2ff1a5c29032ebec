"""Files and directories of a record: replaced whole, read with patience, the user's own.

**Slow network file systems.** Files are replaced whole (write beside, close, rename), so a
reader sees the old or the new one.  Readers take a missing, empty, partial or stale
(ESTALE) file as "not there yet" and return None.  An NFS client may remember for 30 s that
a name did not exist (acdirmin): a miss is therefore asked once more after the directory has
been opened, which makes the client ask the server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import secrets
import socket
import stat
from pathlib import Path

from ..model.errors import RayclusterError, UsageError

_FILE_MAX_BYTES = 1 << 20
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,99}\Z")


def needs(path: Path, error: OSError, doing: str) -> RayclusterError:
    """An OSError in a person's words."""
    what = f"cannot {doing} {path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RayclusterError(
            f"{what}.", "Free some space there, or give another shared directory by --state-dir."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(
            f"{what}; a directory that you can write and that all nodes share is needed.",
            "Give one by --state-dir or RAYCLUSTER_STATE_DIR.",
        )
    return RayclusterError(f"{what}.", "Give another shared directory by --state-dir.")


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader sees all of the old or all of the new."""
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)  # NFS tells here that the disk is full
            os.rename(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise needs(path, error, "write") from error


def read_bytes(path: Path) -> bytes | None:
    """The file's bytes; None when it is not there, or not yet whole for this reader."""
    for attempt in range(2):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if attempt or error.errno not in (errno.ENOENT, errno.ESTALE):
                return None
            with contextlib.suppress(OSError):  # makes an NFS client ask whether the directory changed
                os.close(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            continue
        try:
            data = bytearray()
            while len(data) <= _FILE_MAX_BYTES and (chunk := os.read(fd, 1 << 16)):
                data += chunk
            return bytes(data)
        except OSError:
            return None
        finally:
            os.close(fd)
    return None


def user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def own_directory(path: Path, *, make: bool = True) -> None:
    """Make sure that ``path`` is a directory of ours that nobody else can write; else UsageError.

    A symbolic link is refused: somebody else could have laid it.
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
            f"{path} is not a directory; the record needs a directory of its own there.",
            "Move it away, or give another place by --state-dir.",
        )
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"{path} belongs to {user(found.st_uid)}, not to {user(os.geteuid())}; the record holds "
            "the cluster's token, so it must be in a directory of your own.",
            "Give one by --state-dir or RAYCLUSTER_STATE_DIR.",
        )
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise UsageError(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}); "
            "they could put a record of theirs in the place of yours.",
            f"chmod go-w {path}",
        )


def own_state_dir(state_dir: Path) -> Path:
    """The state directory, made when missing (its parents too), as an absolute real path."""
    try:
        state_dir = state_dir.expanduser()
        if not state_dir.exists():
            state_dir.parent.mkdir(parents=True, exist_ok=True)
        real = Path(os.path.realpath(state_dir))  # home itself may be a link: the user's own affair
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"cannot use {state_dir} as state directory: {error}.", "Give another one by --state-dir."
        ) from error
    own_directory(real)
    return real


def part(text: str, what: str) -> str:
    if not _PART.match(text) or "+" in text:
        raise UsageError(
            f"{what} {text!r} cannot be part of a file name; up to 100 letters, digits, _ . - can."
        )
    return text
