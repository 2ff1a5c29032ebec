"""Stand-ins for /proc and /sys: a directory tree as a kernel with control groups would show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

V1_CONTROLLERS = ("memory", "cpu", "pids", "cpuset")
NO_LIMIT_V1 = "9223372036854771712"


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write files, named from / without the slash, below root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.endswith("\n") else text + "\n")
    return root


def machine(root: Path, *, memory_kb: int = 16 * 1024**2) -> Path:
    return write(root, {"proc/meminfo": f"MemTotal:       {memory_kb} kB\nMemFree:  1 kB"})


def cgroup_v1(
    root: Path, group: str, limits: Mapping[str, str], *, top: str = "/", cpu: str = "cpu,cpuacct"
) -> Path:
    """A version 1 machine on which this process is in ``group`` of every controller.

    ``limits`` are files below /sys/fs/cgroup; ``top`` is the part of the tree that is mounted.
    """
    controllers = ["memory", cpu, "pids"]
    lines = [f"{n}:{name}:{group}" for n, name in enumerate(controllers, 2)]
    write(root, {"proc/self/cgroup": "\n".join([*lines, "1:name=systemd:/x", "0::/"])})
    mounts = [
        f"{30 + n} 29 0:{n} {top} /sys/fs/cgroup/{name} rw,nosuid - cgroup cgroup rw,{name}"
        for n, name in enumerate(controllers)
    ]
    write(root, {"proc/self/mountinfo": "\n".join(["27 1 254:0 / / rw - ext4 /dev/vda rw", *mounts])})
    for name in controllers:
        inside = group.removeprefix(top.rstrip("/")).strip("/")
        (root / "sys/fs/cgroup" / name / inside).mkdir(parents=True, exist_ok=True)
    return write(root, {f"sys/fs/cgroup/{name}": text for name, text in limits.items()})


def cgroup_v2(root: Path, group: str, limits: Mapping[str, str], *, top: str = "/") -> Path:
    """The same for version 2."""
    write(
        root,
        {
            "proc/self/cgroup": f"0::{group}",
            "proc/self/mountinfo": f"24 1 0:22 / /sys rw - sysfs sysfs rw\n"
            f"31 24 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
        },
    )
    inside = group.removeprefix(top.rstrip("/")).strip("/")
    (root / "sys/fs/cgroup" / inside).mkdir(parents=True, exist_ok=True)
    return write(root, {f"sys/fs/cgroup/{name}": text for name, text in limits.items()})
