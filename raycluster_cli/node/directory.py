"""A cluster's own directory on a node: made, locked, and cleared after a crash.

``<base>/rc-<uid>-<8 hex>``, mode 0700.  Ray's --temp-dir is ``r`` inside it, at most 39 bytes long, so
that the sockets which Ray makes below it stay within the 107 bytes of a unix socket's path.
Not the directory itself: Ray makes its --temp-dir and all below writable for all users (0777).

==============  ==================================================================================
(itself)        the directory is locked with flock(2) as long as a raycluster process of this node lives
``about.json``  what it belongs to: key, role, host, boot, supervisor
``processes``   the journal: a line "pid start-ticks name" for each process started
``token``       a copy of the cluster's token, mode 0600
``alive``       FIFO that the supervisor holds open: its end tells Ray's agents that the supervisor was killed
``orphaned.json``  the command that clears the node when keeper and supervisor were both killed
``logs/``       output of what raycluster itself starts
``r``           Ray's own --temp-dir
``t``           TMPDIR of the driver and of worker processes
``common-path``  the link under which other nodes' environments find this directory (common_path)
==============  ==================================================================================

**Where.**  The first that is usable of: what the user gave, RAY_TMPDIR, TMPDIR, /tmp, /var/tmp,
/dev/shm.  "Usable" means local (Ray hangs on network file systems), short enough, writable, with
room, and safe from being replaced by other users (places).

**The lock** is on the directory and not on a file in it, since programs that clean /tmp remove files that
were not read for days; systemd-tmpfiles leaves a locked directory alone altogether.

**After a crash** the next start ends and removes what is left (sweep).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path

from ..model.dataclass import dataclass
from ..model.errors import RayclusterError, UsageError, in_words
from ..system.proctree import ProcessRef, kernel_identity, read_stat
from ..system.removal import open_directory, remove_tree
from .common_path import remove_common_path
from .places import RAY_DIR, TMP_DIR, USUAL, Candidate, asked_for, mountinfo, parse_mountinfo, unique

ENV_MARK = "RAYCLUSTER_NODE_ROOT"
"""Set to the root's path for everything that is started below a supervisor."""

ALIVE, ORPHANED = "alive", "orphaned.json"
"""Names of the FIFO and the file by which Ray's agents notice that the supervisor was killed."""


@dataclass(eq=False)
class NodeRoot:
    """A root that this process has locked."""

    path: Path
    key: str
    role: str
    warnings: tuple[str, ...] = ()
    _lock: int = -1
    _journal: int = field(default=-1, repr=False)
    _alive: int = field(default=-1, repr=False)

    @property
    def token_path(self) -> Path:
        return self.path / "token"

    @property
    def ray_dir(self) -> Path:
        """Ray's --temp-dir."""
        return self.path / RAY_DIR

    @property
    def serve_status(self) -> Path:
        """With --service: what Ray Serve's controller says of its applications."""
        return self.path / "serve.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def write_token(self, token: str) -> Path:
        """Write the cluster's token into the directory, readable for this user only.  Raises OSError."""
        beside = self.path / f".token.{os.urandom(4).hex()}"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                os.write(fd, token.encode())
            finally:
                os.close(fd)
            beside.replace(self.token_path)
        except OSError:  # a full disk, at each of the tries to restore it
            beside.unlink(missing_ok=True)
            raise
        return self.token_path

    def restore_token(self, token: str) -> None:
        """Write the token again when a program that cleans /tmp has removed it.  Never raises."""
        with contextlib.suppress(OSError):
            if not os.path.lexists(self.token_path):
                self.write_token(token)

    def journal(self, name: str, pid: int, start_ticks: int = 0) -> None:
        """Write down a process that was started, so that a later start can end it.  Never raises.

        ``start_ticks`` is that of proctree.ProcessRef; 0: read now.
        """
        if not start_ticks:
            found = read_stat(pid)
            if found is None:
                return
            start_ticks = found.start_ticks
        with contextlib.suppress(OSError):
            if self._journal < 0:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._journal = os.open(self.path / "processes", flags, 0o600)
            os.write(self._journal, f"{pid} {start_ticks} {name.split()[0] if name else '-'}\n".encode())

    def write_orphaned(self, command: Sequence[str], notes: Mapping[str, object]) -> None:
        """Write down what is to be done when this process and its keeper are killed.  Raises OSError.

        ``command`` is started by one of Ray's agents (rayproc.lazy_agent); ``notes`` are for that command.
        """
        beside = self.path / ".orphaned"
        beside.write_text(json.dumps({"command": list(command), "notes": dict(notes)}))
        beside.replace(self.path / ORPHANED)

    def remove(self) -> list[str]:
        """Remove the directory and release the lock.  Returns what could not be removed."""
        remove_common_path(self.path)
        left = remove_tree(self.path)
        self.close()
        return left

    def close(self) -> None:
        """Release the lock and leave the directory (for a keeper, or for the next sweep)."""
        for fd in (self._lock, self._journal, self._alive):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._lock = self._journal = self._alive = -1


def make_node_root(
    key: str,
    *,
    env: Mapping[str, str],
    role: str,
    base: Path | None = None,
    keeper: ProcessRef | None = None,
    mounts: Callable[[], str] | None = None,
    fallbacks: Sequence[Path] = USUAL,
) -> NodeRoot:
    """Make and lock this cluster's directory on this node.

    ``base`` is the user's choice: a UsageError says why it cannot be used.  Without it, the first of
    ``env``'s RAY_TMPDIR and TMPDIR and of ``fallbacks`` that is usable is taken; a RayclusterError lists
    what is wrong with each when none is.  ``keeper`` is a process that clears the root if this one is
    killed: while it lives no sweep touches the root.  ``mounts`` gives the text of /proc/self/mountinfo.
    """
    table = parse_mountinfo((mounts or mountinfo)())
    name_bytes = len(root_name(os.geteuid(), "0" * 8).encode())
    if base is not None:
        candidates = [Candidate.look(base, table, name_bytes)]
    else:
        places = unique([*asked_for(env), *fallbacks])
        candidates = [Candidate.look(place, table, name_bytes) for place in places]
        candidates.sort(key=lambda each: each.kind == "unknown")  # stable: known local ones first
    passed_over: list[str] = []
    for each in candidates:
        why = each.problem
        if not why:
            try:
                job = env.get("SLURM_JOB_ID", "")
                return _make(each, key, role, keeper, job, passed_over if base is None else [])
            except OSError as error:
                why = in_words(error)
        if base is not None:
            raise UsageError(
                f"cannot keep Ray's files below {base}: {why}; a short local directory that you can write "
                "is needed.",
                "Give another one, or none: /tmp is the default.",
            )
        passed_over.append(f"{each.given}: {why}")
    raise RayclusterError(
        "no directory on this node can be used for Ray's files. " + "; ".join(passed_over) + ".",
        "Give a short local directory by --temp-dir or RAYCLUSTER_TEMP_DIR, or free some space.",
    )


def _make(
    where: Candidate, key: str, role: str, keeper: ProcessRef | None, job: str, passed_over: Sequence[str]
) -> NodeRoot:
    for _ in range(100):
        path = where.real / root_name(os.geteuid(), os.urandom(4).hex())
        try:
            os.mkdir(path, 0o700)
            break
        except FileExistsError:
            continue
    else:
        raise OSError(errno.EEXIST, "no free name")
    lock = -1
    try:
        os.chmod(path, 0o700)  # whatever the umask
        lock = open_directory(path)
        _lock_new(lock)
        os.mkdir(path / "logs", 0o700)
        os.mkdir(path / RAY_DIR, 0o700)
        os.mkdir(path / TMP_DIR, 0o700)
        me = read_stat(os.getpid())
        about = {
            "schema": 1,
            "key": key,
            "role": role,
            "host": socket.gethostname(),
            "uid": os.geteuid(),
            "slurm_job": job,
            "pid": os.getpid(),
            "start_ticks": me.start_ticks if me else 0,
            "keeper": [keeper.pid, keeper.start_ticks] if keeper else [],
            "created": time.time(),
            **kernel_identity(),
        }
        (path / ".probe").write_bytes(b"\0" * 65536)  # quotas are not in statvfs
        (path / ".probe").unlink()
        # Written last: until it is there a sweep takes the root for one that is just being made.
        (path / "about.json").write_text(json.dumps(about))
    except BaseException:
        remove_tree(path)
        if lock >= 0:
            os.close(lock)
        raise
    warnings = [f"{text}; using {where.real} instead." for text in passed_over if _was_asked_for(text)]
    if where.kind == "unknown":
        warnings.append(
            f"Ray's files are below {where.real} on a file system of type {where.type}, which may not be "
            "local; Ray hangs on network file systems."
        )
    if where.type in ("tmpfs", "ramfs") and str(where.real).startswith("/dev/shm"):
        warnings.append(
            f"Ray's files are below {where.real}: its logs and what it spills use the job's memory."
        )
    return NodeRoot(path, key, role, tuple(warnings), lock, _alive=_open_alive(path))


def _open_alive(path: Path) -> int:
    """The FIFO by which others see that this process lives; -1 on a file system that has none."""
    try:
        os.mkfifo(path / ALIVE, 0o600)
        return os.open(path / ALIVE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1


def _lock_new(fd: int) -> None:
    """Lock a directory that we have just made; a sweep may hold its lock for a moment."""
    for _ in range(50):
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
    raise OSError(errno.EWOULDBLOCK, "another process has locked it")


def _was_asked_for(text: str) -> bool:
    """Whether the user should know that a place was not used: yes if full or broken, no for a long TMPDIR."""
    return "bytes long" not in text


def root_name(uid: int, tail: str) -> str:
    """rc-<uid>-<tail>"""
    return f"rc-{uid}-{tail}"
