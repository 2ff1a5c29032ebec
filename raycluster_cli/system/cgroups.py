"""The limits of this process's control groups, its own and all above it, in cgroup version 1 and 2.

Slurm's limits are in nested groups (``…/slurm/uid_1000/job_7/step_0``), so every level from the own group up
to the mounted top counts; neither the root of the tree nor the own group alone has the
limit.  /proc/self/cgroup names the group, /proc/self/mountinfo where its tree is mounted and which part of
it: in containers often only a part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..model.value import Value

UNLIMITED_BYTES = 1 << 60
"""There is no limit from this value on: version 1 has 9223372036854771712, depending on the page size."""


class Limit(Value):
    """A limit, and the file and group that set it."""

    value: int
    source: str


class _Mount(Value):
    """A mounted cgroup tree: its mount point, and the group at its top."""

    point: PurePosixPath
    top: PurePosixPath
    version: int


def memory_limits(root: Path = Path("/")) -> list[Limit]:
    """Memory limits in bytes, from the own group upwards; empty without a limit.

    memory.high counts too: above it the kernel slows the processes down until they hardly run.
    """
    limits = []
    for version, group, directory in _groups(root, "memory"):
        names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
        for name in names:
            value = _number(directory / name)
            if value is not None and 0 < value < UNLIMITED_BYTES:
                limits.append(Limit(value, f"cgroup {name} of {group}"))
    return limits


def cpu_quotas(root: Path = Path("/")) -> list[Limit]:
    """CPUs that each quota allows, from the own group upwards, rounded down but at least 1."""
    quotas = []
    for version, group, directory in _groups(root, "cpu"):
        if version == 2:
            name = "cpu.max"
            words = (_text(directory / name) or "").split()
            quota, period = (_integer(words[0]), _integer(words[1])) if len(words) == 2 else (None, None)
        else:
            name = "cpu.cfs_quota_us"
            quota, period = _number(directory / name), _number(directory / "cpu.cfs_period_us")
        if quota is not None and period is not None and quota > 0 and period > 0:
            quotas.append(Limit(max(1, quota // period), f"cgroup {name} of {group}"))
    return quotas


def process_limits(root: Path = Path("/")) -> list[Limit]:
    """Processes and threads that each pids.max allows, from the own group upwards."""
    limits = []
    for _, group, directory in _groups(root, "pids"):
        value = _number(directory / "pids.max")
        if value is not None and value > 0:
            limits.append(Limit(value, f"cgroup pids.max of {group}"))
    return limits


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of the own group the kernel has killed for lack of memory; None when unknown."""
    for version, _, directory in _groups(root, "memory"):
        text = _text(directory / ("memory.events" if version == 2 else "memory.oom_control"))
        for line in (text or "").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return _integer(count)
        return None  # only the own group: those above it include other jobs
    return None


def _groups(root: Path, controller: str) -> Iterator[tuple[int, str, Path]]:
    """(version, group's name, directory) of each level from the own group up to the mounted top."""
    mounts = _mounts(root, controller)
    for version, own in _own_groups(root, controller):
        directory = _find(root, [mount for mount in mounts if mount.version == version], own)
        if directory is None:
            continue
        mount, inside = directory
        for group in (inside, *inside.parents):
            yield (
                version,
                str(own if group == inside else mount.top / _relative(group)),
                root / _relative(mount.point / _relative(group)),
            )


def _own_groups(root: Path, controller: str) -> Iterator[tuple[int, PurePosixPath]]:
    """This process's groups for a controller, version 1 first: on a hybrid system it has the controllers."""
    found: list[tuple[int, PurePosixPath]] = []
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not path.startswith("/"):
            continue
        if number == "0" and not controllers:
            found.append((2, PurePosixPath(path)))
        elif controller in controllers.split(","):
            found.append((1, PurePosixPath(path)))
    yield from sorted(found)


def _mounts(root: Path, controller: str) -> list[_Mount]:
    """The mounted trees of a controller; of several at one mount point the last, which hides the others."""
    mounts: dict[PurePosixPath, _Mount | None] = {}
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        head, separator, tail = line.partition(" - ")
        fields, kind = head.split(" "), tail.split(" ")
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        point, top = PurePosixPath(_unescape(fields[4])), PurePosixPath(_unescape(fields[3]))
        if kind[0] == "cgroup2":
            mounts[point] = _Mount(point, top, 2)
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            mounts[point] = _Mount(point, top, 1)
        else:
            mounts[point] = None  # another file system hides what was mounted there
    return [mount for mount in mounts.values() if mount is not None]


def _find(root: Path, mounts: list[_Mount], own: PurePosixPath) -> tuple[_Mount, PurePosixPath] | None:
    """The mount in which the own group is visible, and the group's path in it.

    Where there is none (in a container that sees a part of the tree under another name), it is the top of a
    mount, which is the nearest group that can be read.
    """
    for mount in mounts:
        for inside in _paths_below(mount, own):
            if (root / _relative(mount.point / _relative(inside))).is_dir():
                return mount, inside
    for mount in mounts:
        if (root / _relative(mount.point)).is_dir():
            return mount, PurePosixPath("/")
    return None


def _paths_below(mount: _Mount, own: PurePosixPath) -> Iterator[PurePosixPath]:
    if ".." in own.parts:
        return  # outside of this cgroup namespace
    if own.is_relative_to(mount.top):
        yield "/" / own.relative_to(mount.top)
    yield own  # a cgroup namespace: both names are relative to it


def _relative(path: PurePosixPath) -> PurePosixPath:
    return path.relative_to("/") if path.is_absolute() else path


def _unescape(text: str) -> str:
    r"""A path of /proc/self/mountinfo, in which spaces and the like are written as \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return _integer(text.strip()) if text is not None else None


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,20}", text.strip(), re.ASCII) else None
