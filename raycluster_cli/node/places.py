"""Places for a node's directory: local, short, writable, with room, safe from other users.

The type of file system is read from /proc/self/mountinfo first, since any call on the mount of a dead NFS
server hangs.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..model.errors import in_words
from ..model.value import Value
from ..system.proctree import PROC

RAY_DIR = "r"
"""Ray's --temp-dir in a node's directory."""
TMP_DIR = "t"
"""TMPDIR of drivers and worker processes in a node's directory: no longer than RAY_DIR, for sockets in it."""
MAX_PATH_BYTES = 39 - len("/" + RAY_DIR)
"""Of a node's directory: Ray adds to its own there
``/session_<date>_<time>_<usec>_<pid>/sockets/plasma_store`` and more (107 in all)."""
MISREAD = "'\\"
"""Characters for which a raylet misreads the commands of its agents, and ends (seen with Ray 2.60)."""
MIN_FREE_BYTES = 64 << 20
MIN_FREE_FILES = 256

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


USUAL = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
"""Local directories of every host, which belong to root."""


def is_roots_outside(uid: int) -> bool:
    """Whether files of the host's root have this owner, in a container that has no such user.

    Owners without a user in a user namespace are shown as the overflow user, 65534 (user_namespaces(7)).
    """
    try:
        overflow = int((PROC / "sys/kernel/overflowuid").read_text())
        return uid == overflow and not has_all_users((PROC / "self/uid_map").read_text())
    except (OSError, ValueError):
        return False


def has_all_users(uid_map: str) -> bool:
    """Whether a user namespace has all users of the host, by /proc/self/uid_map.

    >>> has_all_users("0 0 4294967295"), has_all_users("1000 1000 1")
    (True, False)
    """
    return uid_map.split() == ["0", "0", "4294967295"]


class Mount(Value):
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


def mountinfo() -> str:
    """The text of /proc/self/mountinfo; empty when it cannot be read."""
    try:
        return (PROC / "self/mountinfo").read_text(errors="replace")
    except OSError:
        return ""


def asked_for(env: Mapping[str, str]) -> list[Path]:
    """The places that the user's environment names for temporary files.

    Not the TMPDIR of a cluster's driver, which ends with that cluster.

    >>> asked_for({"TMPDIR": "/scratch/me"})
    [PosixPath('/scratch/me')]
    """
    names = ("RAY_TMPDIR",) if is_drivers_tmpdir(env) else ("RAY_TMPDIR", "TMPDIR")
    return [Path(env[name]) for name in names if env.get(name)]


def is_drivers_tmpdir(env: Mapping[str, str]) -> bool:
    """Whether TMPDIR is in a node's directory, as a cluster's driver and what it starts have it.

    >>> is_drivers_tmpdir({"TMPDIR": "/tmp/rc-1000-0a1b2c3d/t"})
    True
    """
    return re.search(rf"/rc-\d+-[0-9a-f]{{8}}/{TMP_DIR}$", env.get("TMPDIR", "")) is not None


def has_tmpdir(env: Mapping[str, str]) -> bool:
    """Whether the user or the site has said where programs keep their temporary files.

    Python reads three variables.  Slurm sets TMPDIR=/tmp where there is none (slurmstepd, _make_tmpdir).

    >>> has_tmpdir({"TMPDIR": "/scratch/me"}), has_tmpdir({"TMPDIR": "/tmp"})
    (True, False)
    """
    given = {env.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")}
    return not is_drivers_tmpdir(env) and not given <= {"", "/tmp"}


def unique(paths: Iterable[Path]) -> list[Path]:
    """Each once, in their order."""
    return list(dict.fromkeys(paths))


class Candidate(Value):
    """A directory in which a root could be made, or why it cannot."""

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
        """Check a directory; no call is made on a network file system."""
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
        if misread := next((one for one in MISREAD if one in real), ""):
            return f"its name contains {misread}, with which Ray does not start"
        try:
            found = os.stat(real)
            if not stat.S_ISDIR(found.st_mode):
                return "it is not a directory"
            if found.st_uid not in (0, os.geteuid()) and not (
                Path(real) in USUAL and is_roots_outside(found.st_uid)
            ):
                return f"it belongs to another user (uid {found.st_uid})"
            if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
                mode = stat.S_IMODE(found.st_mode)
                return f"other users can rename what is in it (mode {mode:04o} without the sticky bit)"
            if not os.access(real, os.W_OK | os.X_OK, effective_ids=True):
                return "it is read-only" if mount.read_only else "you may not write there"
            space = os.statvfs(real)
        except OSError as error:
            return in_words(error)
        free_bytes = space.f_bavail * space.f_frsize
        if free_bytes < MIN_FREE_BYTES:
            return f"it is full ({free_bytes >> 20} MiB free, {MIN_FREE_BYTES >> 20} needed)"
        if space.f_files and space.f_favail < MIN_FREE_FILES:
            return f"it is full ({space.f_favail} more files possible, {MIN_FREE_FILES} needed)"
        return ""
