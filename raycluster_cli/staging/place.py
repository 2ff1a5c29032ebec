"""Where on a node the copy of an environment can be: on a local disk with room for it, or in memory."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..model.errors import in_words
from ..model.value import Value
from ..node.places import NETWORK, Mount, asked_for, mount_of, unique

MEMORY = ("tmpfs", "ramfs")

#: A file takes whole blocks.
BLOCK_BYTES = 4096


class Place(Value):
    """A directory for copies, or why it is none."""

    path: Path
    type: str
    """Of the file system, as mountinfo has it."""
    problem: str = ""

    @property
    def in_memory(self) -> bool:
        return self.type in MEMORY


def needed_bytes(size_bytes: int, files: int) -> int:
    """Space on a file system for a copy."""
    return size_bytes + files * BLOCK_BYTES // 2 + (32 << 20)


def places(
    value: str, env: Mapping[str, str], mounts: Sequence[Mount], *, size_bytes: int, files: int
) -> list[Place]:
    """The directories that could be used, in their order, with what is wrong with each.

    ``value``: of --stage-env, "auto", "memory" or a directory.  Without a directory: those of the environment
    (TMPDIR), /tmp and /var/tmp; /dev/shm last.
    """
    shm = Path("/dev/shm")
    if value == "memory":
        candidates = [shm]
    elif value != "auto":
        candidates = [Path(value)]
    else:
        candidates = unique([*asked_for(env), Path("/tmp"), Path("/var/tmp"), shm])
    return [_place(each, mounts, size_bytes, files, asked=value != "auto") for each in candidates]


def _place(given: Path, mounts: Sequence[Mount], size_bytes: int, files: int, *, asked: bool) -> Place:
    if not given.is_absolute():
        return Place(given, "unknown", "it is not an absolute path")
    mount = mount_of(os.path.normpath(given), mounts)
    if mount.type not in NETWORK:
        given = Path(os.path.realpath(given))  # /tmp itself may be a link
        mount = mount_of(str(given), mounts)
    if mount.type in NETWORK:
        return Place(given, mount.type, f"it is on a network file system ({mount.type})")
    try:
        found = os.stat(given)
        if not stat.S_ISDIR(found.st_mode):
            return Place(given, mount.type, "it is not a directory")
        if found.st_uid not in (0, os.geteuid()):
            return Place(given, mount.type, f"it belongs to another user (uid {found.st_uid})")
        if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            return Place(given, mount.type, "other users can rename what is in it (no sticky bit)")
        if not os.access(given, os.W_OK | os.X_OK, effective_ids=True):
            return Place(given, mount.type, "you cannot write to it")
        space = os.statvfs(given)
    except OSError as error:
        return Place(given, mount.type, in_words(error))
    free_bytes, needed = space.f_bavail * space.f_frsize, needed_bytes(size_bytes, files)
    if mount.type in MEMORY and not asked:
        free_bytes //= 2  # Ray's objects and the user's programs need the memory too
    if free_bytes < needed:
        return Place(
            given,
            mount.type,
            f"{free_bytes >> 20} MiB are free{' for it' if mount.type in MEMORY else ''}, "
            f"{needed >> 20} MiB are needed",
        )
    if space.f_files and space.f_favail < files:
        return Place(given, mount.type, f"{space.f_favail} more files are possible, {files} are needed")
    if mount.read_only:
        return Place(given, mount.type, "it is read-only")
    return Place(given, mount.type)


def first_usable(found: Sequence[Place]) -> Place | None:
    return next((each for each in found if not each.problem), None)


def problems(found: Sequence[Place]) -> str:
    """What is wrong with each.

    >>> problems([Place(Path("/tmp"), "ext4", "it is read-only")])
    '/tmp: it is read-only'
    """
    return "; ".join(f"{each.path}: {each.problem}" for each in found if each.problem)


def ends_with_job(path: str, job_id: str, mountinfo_text: str) -> bool:
    """Whether Slurm or the site removes a directory when the job ends: it is named after the job.

    Slurm's job_container/tmpfs mounts ``BasePath/JOB/.JOB`` on /tmp; prologs of sites make
    ``/scratch/slurm.JOB`` and the like.

    >>> ends_with_job("/scratch/slurm.4711/rce-1", "4711", "")
    True
    >>> ends_with_job("/tmp/rce-1", "4711", "36 35 98:0 /jobs/4711/.4711 /tmp rw - ext4 /dev/sda1 rw")
    True
    """
    if not job_id:
        return False
    point, root = "", ""
    for line in mountinfo_text.splitlines():
        words = line.split()
        if len(words) < 5 or len(words[4]) < len(point):
            continue
        if words[4] == "/" or path == words[4] or path.startswith(words[4] + "/"):
            point, root = words[4], words[3]
    name = re.compile(rf"\.?([A-Za-z_]+[._-])?{re.escape(job_id)}")
    return any(name.fullmatch(word) for word in f"{path}/{root}".split("/"))
