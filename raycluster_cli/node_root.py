"""A cluster's own directory on a node: made, locked, and cleared after a crash.

``<base>/rc-<uid>-<8 hex>``, mode 0700.  Ray's --temp-dir is ``r`` inside it, at most 39 bytes long, so
that the sockets which Ray makes below it stay within the 107 bytes of a unix socket's path.
Not the directory itself: Ray makes its --temp-dir and all below writable for everybody (0777).

==============  ==================================================================================
(itself)        the directory is locked with flock(2) as long as a raycluster process of this node lives
``about.json``  whose it is: key, role, host, boot, supervisor
``processes``   the journal: a line "pid start-ticks name" for each process started
``token``       a copy of the cluster's token, mode 0600
``logs/``       output of what raycluster itself starts
``r``           Ray's own --temp-dir
==============  ==================================================================================

**Where.**  The first that will do of: what the user gave, RAY_TMPDIR, TMPDIR, /tmp, /var/tmp,
/dev/shm.  "Will do" means local (Ray hangs on network file systems), short enough, writable, with
room, and not open to be swapped by others.  The type of file system is read from
/proc/self/mountinfo before anything else is asked, since asking a dead NFS server hangs.

**The lock** is on the directory and not on a file in it, since those who tidy /tmp remove files that
nobody has read for days; systemd-tmpfiles leaves a locked directory alone altogether.

**After a crash.**  The kernel drops the lock with the last process that holds it.  A root of this user
whose lock is free is stale: :func:`sweep_stale` ends what is left of its processes and removes it.
What counts as one of its processes, beside those in the journal that still have the same start time,
is evidence that only a part of the cluster gives (see :func:`evidence`): somebody who looks at a log
there with ``tail`` or sits there with a shell is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import RayclusterError, UsageError
from .proctree import PROC, ProcessRef, Stat, all_stats, is_running, read_stat, send_signal

RAY_DIR = "r"
MAX_PATH_BYTES = 39 - len("/" + RAY_DIR)
"""Of a root: Ray adds to its own directory there ``/session_<date>_<time>_<usec>_<pid>/sockets/plasma_store``
and more (107 in all)."""
ENV_MARK = "RAYCLUSTER_NODE_ROOT"
"""Set to the root's path for everything that is started below a supervisor."""
MIN_FREE_BYTES = 64 << 20
MIN_FREE_FILES = 256
_YOUNG_S = 60.0
"""A root that says nothing of itself is left alone for so long: its maker may be about to lock it."""

NETWORK = {
    *("nfs", "nfs3", "nfs4", "smb", "smb2", "smb3", "smbfs", "cifs", "ncpfs", "afs", "9p", "davfs", "dvs"),
    *("lustre", "gpfs", "mmfs", "beegfs", "beegfs_nodev", "ceph", "panfs", "glusterfs", "gfs", "gfs2"),
    *("ocfs2", "orangefs", "pvfs2", "wekafs", "daos", "quobyte", "sshfs", "fuse.sshfs", "fuse.glusterfs"),
    *("fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs", "fuse.rclone", "fuse.juicefs", "fuse.gcsfuse"),
    *("fuse.goofys", "fuse.mount-s3", "fuse.lustre", "fuse.beegfs", "fuse.dfuse", "fuse.quobyte"),
}
"""Types in mountinfo whose files are on another machine."""
LOCAL = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "rootfs", "overlay", "aufs"),
    *("f2fs", "jfs", "reiserfs", "bcachefs", "virtiofs", "fuse.fuse-overlayfs", "fuse.overlayfs"),
}
"""Types that are known to be local.  Any other is taken only when there is no known one."""


# --------------------------------------------------------------------------- a root


@dataclass(eq=False)
class NodeRoot:
    """A root that this process has locked."""

    path: Path
    key: str
    role: str
    warnings: tuple[str, ...] = ()
    _lock: int = -1
    _journal: int = field(default=-1, repr=False)

    @property
    def token_path(self) -> Path:
        return self.path / "token"

    @property
    def ray_dir(self) -> Path:
        """Ray's --temp-dir."""
        return self.path / RAY_DIR

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def write_token(self, token: str) -> Path:
        """Put the cluster's token beside Ray's files, for this user's eyes only."""
        beside = self.path / f".token.{secrets.token_hex(4)}"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, token.encode())
        finally:
            os.close(fd)
        beside.replace(self.token_path)
        return self.token_path

    def journal(self, name: str, pid: int, start_ticks: int = 0) -> None:
        """Note a process that was started, so that a later start can end it.  Never raises.

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

    def remove(self) -> list[str]:
        """Remove the directory and give up the lock.  Returns what could not be removed."""
        left = remove_tree(self.path)
        self.close()
        return left

    def close(self) -> None:
        """Give up the lock and leave the directory (for a keeper, or for the next sweep)."""
        for fd in (self._lock, self._journal):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._lock = self._journal = -1


def make_node_root(
    key: str,
    *,
    env: Mapping[str, str],
    role: str,
    base: Path | None = None,
    keeper: ProcessRef | None = None,
    mounts: Callable[[], str] | None = None,
    fallbacks: Sequence[Path] = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")),
) -> NodeRoot:
    """Make and lock this cluster's directory on this node.

    ``base`` is the user's choice: a UsageError says why it will not do.  Without it, the first of ``env``'s
    RAY_TMPDIR and TMPDIR and of ``fallbacks`` that will do is taken; a RayclusterError lists
    what is wrong with each when none does.  ``keeper`` is a process that clears the root if this one is
    killed: while it lives no sweep gets in its way.  ``mounts`` gives the text of /proc/self/mountinfo.
    """
    table = parse_mountinfo((mounts or _mountinfo)())
    name_bytes = len(_name(os.geteuid(), "0" * 8).encode())
    if base is not None:
        candidates = [Candidate.look(base, table, name_bytes)]
    else:
        places = [Path(env[name]) for name in ("RAY_TMPDIR", "TMPDIR") if env.get(name)]
        candidates = [Candidate.look(place, table, name_bytes) for place in _unique([*places, *fallbacks])]
        candidates.sort(key=lambda each: each.kind == "unknown")  # stable: known local ones first
    passed_over: list[str] = []
    for each in candidates:
        why = each.problem
        if not why:
            try:
                job = env.get("SLURM_JOB_ID", "")
                return _make(each, key, role, keeper, job, passed_over if base is None else [])
            except OSError as error:
                why = _in_words(error)
        if base is not None:
            raise UsageError(
                f"cannot keep Ray's files below {base}: {why}; a short local directory that you can write "
                "is needed.",
                "Give another one, or none: /tmp is the default.",
            )
        passed_over.append(f"{each.given}: {why}")
    raise RayclusterError(
        "no directory on this node will do for Ray's files. " + "; ".join(passed_over) + ".",
        "Give a short local directory by --temp-dir or RAYCLUSTER_TEMP_DIR, or free some space.",
    )


def _make(
    where: Candidate, key: str, role: str, keeper: ProcessRef | None, job: str, passed_over: Sequence[str]
) -> NodeRoot:
    for _ in range(100):
        path = where.real / _name(os.geteuid(), secrets.token_hex(4))
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
        lock = _open_directory(path)
        _lock_new(lock)
        os.mkdir(path / "logs", 0o700)
        os.mkdir(path / RAY_DIR, 0o700)
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
            **_kernel(),
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
    return NodeRoot(path, key, role, tuple(warnings), lock)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock_new(fd: int) -> None:
    """Lock a directory that we have just made; a sweep may hold it for a moment to look at it."""
    for _ in range(50):
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
    raise OSError(errno.EWOULDBLOCK, "somebody else locks it")


def _was_asked_for(text: str) -> bool:
    """Whether a place passed over is worth a warning: a full or broken one is, a long TMPDIR is not."""
    return "bytes long" not in text


def _name(uid: int, tail: str) -> str:
    return f"rc-{uid}-{tail}"


def _kernel() -> dict[str, str]:
    """Where pids and start times mean the same processes."""
    found = {"boot_id": "", "pid_namespace": ""}
    with contextlib.suppress(OSError):
        found["boot_id"] = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        found["pid_namespace"] = os.readlink(PROC / "self/ns/pid")
    return found


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def _in_words(error: OSError) -> str:
    return {
        errno.ENOSPC: "it is full",
        errno.EDQUOT: "your quota there is used up",
        errno.EROFS: "it is read-only",
        errno.EACCES: "you may not write there",
        errno.EPERM: "you may not write there",
        errno.ENOENT: "there is no such directory",
        errno.ELOOP: "its links go round in circles",
    }.get(error.errno or 0, error.strerror or str(error))


# --------------------------------------------------------------------------- where


@dataclass(frozen=True)
class Mount:
    point: str
    type: str
    read_only: bool = False


def parse_mountinfo(text: str) -> list[Mount]:
    r"""The mounts of this namespace, from /proc/self/mountinfo (``man 5 proc``).

    >>> parse_mountinfo("36 35 98:0 / /my\\040tmp rw,noatime shared:1 - nfs4 srv:/x rw")
    [Mount(point='/my tmp', type='nfs4', read_only=False)]
    """
    mounts = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        parts, kinds = left.split(), right.split()
        if not dash or len(parts) < 6 or not kinds:
            continue
        point = parts[4].encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")
        options = set(parts[5].split(",")) | set(kinds[-1].split(","))
        mounts.append(Mount(point, kinds[0], "ro" in options))
    return mounts


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount:
    """The mount that a path is on: the longest point above it, the last one mounted there."""
    best = Mount("/", "unknown")
    for mount in mounts:
        inside = mount.point == "/" or path == mount.point or path.startswith(mount.point + "/")
        if inside and len(mount.point) >= len(best.point):
            best = mount
    return best


def _mountinfo() -> str:
    try:
        return (PROC / "self/mountinfo").read_text(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class Candidate:
    """A directory in which a root could be made, and why not."""

    given: Path
    real: Path
    type: str
    """Of the file system, as mountinfo has it."""
    problem: str = ""

    @property
    def kind(self) -> str:
        """local, network or unknown"""
        return "network" if self.type in NETWORK else "local" if self.type in LOCAL else "unknown"

    @classmethod
    def look(cls, given: Path, mounts: Sequence[Mount], name_bytes: int) -> Candidate:
        """Look at a directory, touching nothing on a network file system."""
        text = os.path.normpath(given)
        mount = mount_of(text, mounts)
        if not given.is_absolute():
            return cls(given, given, mount.type, "it is not an absolute path")
        if mount.type in NETWORK:
            return cls(given, given, mount.type, f"it is on a network file system ({mount.type})")
        real = os.path.realpath(text)  # /tmp itself may be a link
        mount = mount_of(real, mounts)
        if mount.type in NETWORK:
            return cls(given, Path(real), mount.type, f"it is on a network file system ({mount.type})")
        problem = cls._problem(real, mount, name_bytes)
        return cls(given, Path(real), mount.type, problem)

    @staticmethod
    def _problem(real: str, mount: Mount, name_bytes: int) -> str:
        length = len(os.fsencode(real).rstrip(b"/")) + 1 + name_bytes
        if length > MAX_PATH_BYTES:
            room = MAX_PATH_BYTES - name_bytes - 1
            return (
                f"it is {length - name_bytes - 1} bytes long, and at most {room} leave room for Ray's sockets"
            )
        try:
            found = os.stat(real)
            if not stat.S_ISDIR(found.st_mode):
                return "it is not a directory"
            if found.st_uid not in (0, os.geteuid()):
                return f"it belongs to somebody else (uid {found.st_uid})"
            if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
                mode = stat.S_IMODE(found.st_mode)
                return f"others may rename what is in it (mode {mode:04o} without the sticky bit)"
            if not os.access(real, os.W_OK | os.X_OK, effective_ids=True):
                return "it is read-only" if mount.read_only else "you may not write there"
            space = os.statvfs(real)
        except OSError as error:
            return _in_words(error)
        free_bytes = space.f_bavail * space.f_frsize
        if free_bytes < MIN_FREE_BYTES:
            return f"it is full ({free_bytes >> 20} MiB free, {MIN_FREE_BYTES >> 20} needed)"
        if space.f_files and space.f_favail < MIN_FREE_FILES:
            return f"it is full ({space.f_favail} more files possible, {MIN_FREE_FILES} needed)"
        return ""


# --------------------------------------------------------------------------- removal


def remove_tree(path: Path) -> list[str]:
    """Remove a directory of ours with all that is in it; returns what could not be removed.

    Works by descriptors: never follows a link, never leaves the file system it began on (something may
    be mounted inside), opens directories that lack permissions when they are ours.
    """
    left: list[str] = []
    try:
        fd = _open_directory(path)
    except FileNotFoundError:
        return left
    except OSError as error:
        return [f"{path}: {_in_words(error)}"]
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            return [f"{path}: it belongs to somebody else (uid {found.st_uid})"]
        _empty(fd, str(path), found.st_dev, left)
        if not left:
            os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        left.append(f"{path}: {_in_words(error)}")
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
                left.append(f"{shown}/{name}: {_in_words(error)}")


def _open_up(fd: int, name: str) -> None:
    """Give ourselves access to a directory of ours; by descriptor, so that no link is followed."""
    below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.chmod(f"/proc/self/fd/{below}", 0o700)
    finally:
        os.close(below)


# --------------------------------------------------------------------------- after a crash


def remove_root(path: Path) -> list[str]:
    """Remove a root whose processes have all been ended, lock or no lock: for the keeper.

    Returns what could not be removed.  Refuses what is not called like one of ours.
    """
    if not path.name.startswith(_name(os.geteuid(), "")):
        return [f"{path}: not a directory of raycluster's"]
    return remove_tree(path)


@dataclass(frozen=True)
class Swept:
    """A stale root and what became of it."""

    path: Path
    key: str
    ended: tuple[Stat, ...] = ()
    """Processes that were ended."""
    left: tuple[str, ...] = ()
    """What could not be ended or removed."""


def bases(env: Mapping[str, str], extra: Iterable[Path] = ()) -> list[Path]:
    """Where roots of this user may be on this node."""
    places = [Path(env[name]) for name in ("RAY_TMPDIR", "TMPDIR") if env.get(name)]
    return _unique([*extra, *places, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")])


def sweep_stale(
    env: Mapping[str, str],
    *,
    extra: Iterable[Path] = (),
    only_bases: Sequence[Path] | None = None,
    term_grace_s: float = 0.5,
    kill_wait_s: float = 5.0,
    mounts: Callable[[], str] | None = None,
) -> list[Swept]:
    """End and remove what crashed clusters of this user left on this node.

    Never touches a root whose lock is held, another user's, or a process that is not proven to belong to
    the root.  Costs one directory listing per base when there is nothing to do.
    """
    table = parse_mountinfo((mounts or _mountinfo)())
    swept: list[Swept] = []
    prefix = _name(os.geteuid(), "")
    for base in only_bases if only_bases is not None else bases(env, extra):
        if mount_of(os.path.normpath(base), table).type in NETWORK:
            continue  # we never make one there, and listing it may hang
        real = Path(os.path.realpath(base))
        try:
            names = os.listdir(real)
        except OSError:
            continue
        for name in names:
            tail = name[len(prefix) :]
            if name.startswith(prefix) and len(tail) == 8 and set(tail) <= set("0123456789abcdef"):
                found = sweep_root(real / name, term_grace_s=term_grace_s, kill_wait_s=kill_wait_s)
                if found is not None:
                    swept.append(found)
    return swept


def sweep_root(path: Path, *, term_grace_s: float = 0.5, kill_wait_s: float = 5.0) -> Swept | None:
    """End and remove one stale root; None when it is not there, not ours, or in use."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return None
    lock = _lock_stale(path)
    if lock is None:
        return None
    try:
        about = _read_about(path)
        if not about and time.time() - os.fstat(lock).st_mtime < _YOUNG_S:
            return None  # its maker is about to lock it
        if _keeper_is_alive(about):
            return None
        ended, alive = _end_processes(path, about, term_grace_s, kill_wait_s)
        left = [f"process {each.pid} ({each.name}) does not end" for each in alive]
        if not alive:
            left += remove_tree(path)
        return Swept(path, str(about.get("key", "")), tuple(ended), tuple(left))
    finally:
        os.close(lock)


def _lock_stale(path: Path) -> int | None:
    """Take the lock of a root that nobody holds; None when it is in use, or has gone meanwhile."""
    try:
        lock = _open_directory(path)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.lstat(path)):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _keeper_is_alive(about: Mapping[str, object]) -> bool:
    """Whether another process is there that clears this root itself."""
    keeper = about.get("keeper")
    if not (isinstance(keeper, list) and len(keeper) == 2 and all(isinstance(n, int) for n in keeper)):
        return False
    if keeper[0] == os.getpid():
        return False  # that is us
    return _is_of_this_kernel(about) and is_running(ProcessRef(keeper[0], keeper[1]))


def _is_of_this_kernel(about: Mapping[str, object]) -> bool:
    """Whether the pids noted in a root mean the same processes here and now."""
    return all(about.get(name) == value for name, value in _kernel().items())


def _read_about(path: Path) -> dict[str, object]:
    try:
        about = json.loads((path / "about.json").read_text())
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError):
        return {}


def read_journal(path: Path) -> list[ProcessRef]:
    """The processes that were started under a root, oldest first; broken lines are left out."""
    found = []
    try:
        lines = (path / "processes").read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        with contextlib.suppress(ValueError, IndexError):
            parts = line.split()
            found.append(ProcessRef(int(parts[0]), int(parts[1])))
    return found


def processes_of(path: Path, journal: Iterable[ProcessRef] = ()) -> list[Stat]:
    """The live processes of this user that belong to a root, and their descendants.

    Never this process and its ancestors.
    """
    job = str(_read_about(path).get("slurm_job", ""))
    stats = {each.pid: each for each in all_stats() if each.state not in "ZX"}
    spared = set()
    pid = os.getpid()
    while pid in stats and pid not in spared:
        spared.add(pid)
        pid = stats[pid].parent
    known = {(ref.pid, ref.start_ticks) for ref in journal}
    ours = {
        pid
        for pid, each in stats.items()
        if pid not in spared
        and _is_of_this_user(pid)
        and ((pid, each.start_ticks) in known or evidence(pid, str(path), job))
    }
    grown = True
    while grown:  # descendants: a process that nothing else gives away was started by one that did
        more = {
            each.pid
            for each in stats.values()
            if each.parent in ours and each.pid not in ours | spared and _is_of_this_user(each.pid)
        }
        grown = bool(more)
        ours |= more
    return [stats[pid] for pid in sorted(ours)]


def evidence(pid: int, root: str, job: str = "") -> str:
    """What proves that a process is part of the cluster whose directory is ``root``; empty: nothing.

    - it was started with RAYCLUSTER_NODE_ROOT set to the root (Ray's worker processes overwrite this), and
      not in another Slurm job than ``job``: sbatch hands a driver's environment on to the jobs it submits;
    - an option on its command line names a path below the root (``--temp-dir=ROOT``: Ray's daemons);
    - it has a file below the root open for writing (logs of Ray's processes and of what they start);
    - its program lies below the root (a runtime environment's Python);
    - its working directory lies below the root and it has no terminal.

    Reading a file there proves nothing: that may be a person with ``tail -f``.
    """
    here = PROC / str(pid)
    inside = root + "/"

    def below(text: str) -> bool:
        return text.removesuffix(" (deleted)") == root or text.startswith(inside)

    with contextlib.suppress(OSError):
        environ = (here / "environ").read_bytes().split(b"\0")
        jobs = {word[13:].decode() for word in environ if word.startswith(b"SLURM_JOB_ID=")}
        if f"{ENV_MARK}={root}".encode() in environ and jobs <= {job}:
            return "environment"
    with contextlib.suppress(OSError):
        for word in (here / "cmdline").read_bytes().decode("utf-8", "replace").split("\0"):
            option, equals, value = word.partition("=")
            if equals and option.startswith("-") and below(value):
                return "command line"
    with contextlib.suppress(OSError):
        if below(os.readlink(here / "exe")):
            return "program"
    with contextlib.suppress(OSError, ValueError, IndexError):
        terminal = (here / "stat").read_text(errors="replace").rpartition(")")[2].split()[4]
        if terminal == "0" and below(os.readlink(here / "cwd")):
            return "working directory"
    with contextlib.suppress(OSError):
        for name in os.listdir(here / "fd"):
            with contextlib.suppress(OSError, ValueError):
                if below(os.readlink(here / "fd" / name)) and _opened_for_writing(here / "fdinfo" / name):
                    return "open file"
    return ""


def _opened_for_writing(fdinfo: Path) -> bool:
    for line in fdinfo.read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)
    return False


def _is_of_this_user(pid: int) -> bool:
    """Real and effective user are ours: a set-user-id program that we started is not."""
    try:
        with open(PROC / str(pid) / "status", "rb") as file:
            for line in file:
                if line.startswith(b"Uid:"):
                    return [int(each) for each in line.split()[1:3]] == [os.getuid(), os.geteuid()]
    except OSError:
        pass
    return False


def _end_processes(
    path: Path, about: Mapping[str, object], term_grace_s: float, kill_wait_s: float
) -> tuple[list[Stat], list[Stat]]:
    """(ended, still there): SIGTERM, a short grace, then SIGKILL until nothing is found any more."""
    journal = read_journal(path) if _is_of_this_kernel(about) else []
    seen: dict[ProcessRef, Stat] = {}
    start = time.monotonic()
    found = processes_of(path, journal)
    while found:
        waited = time.monotonic() - start
        if waited > term_grace_s + kill_wait_s:
            break
        number = signal.SIGTERM if waited < term_grace_s else signal.SIGKILL
        for each in found:
            if number == signal.SIGKILL or each.ref not in seen:
                _signal(each.ref, number)
            seen[each.ref] = each
        wait_until = time.monotonic() + (term_grace_s if number == signal.SIGTERM else 1.0)
        while time.monotonic() < wait_until and any(is_running(each.ref) for each in found):
            time.sleep(0.01)
        # With those seen before: an orphan of one that has ended may bear no other evidence.
        found = processes_of(path, [*journal, *seen])
    return [each for ref, each in seen.items() if not is_running(ref)], found


def _signal(ref: ProcessRef, number: int) -> None:
    """Signal exactly this process: by descriptor, so that its pid cannot change hands in between."""
    try:
        fd = os.pidfd_open(ref.pid)
    except ProcessLookupError:
        return
    except (OSError, AttributeError):  # before Linux 5.3
        send_signal(ref, number)
        return
    try:
        if is_running(ref):
            signal.pidfd_send_signal(fd, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(fd)
