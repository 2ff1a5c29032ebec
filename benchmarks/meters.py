"""What a run costs: CPU seconds by a control group, memory and CPU of single processes by /proc."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


class CpuMeter:
    """CPU time of everything that is started while this process is inside the group.

    Works with cgroup v1 (cpuacct) and v2; where neither can be written, :meth:`seconds` is None.
    """

    def __init__(self, name: str) -> None:
        self._group: Path | None = None
        self._before: Path | None = None
        for root in (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
            if not (root / "cgroup.procs").exists():
                continue
            try:
                (root / name).mkdir()
            except OSError:
                continue
            if (root / name / "cpuacct.usage").exists() or (root / name / "cpu.stat").exists():
                self._group, self._before = root / name, root
                return
            (root / name).rmdir()

    def __enter__(self) -> CpuMeter:
        """Children of this process are counted from now on."""
        if self._group:
            (self._group / "cgroup.procs").write_text(str(os.getpid()))
        return self

    def __exit__(self, *_: object) -> None:
        """New children are no longer counted; those there are stay."""
        if self._before:
            (self._before / "cgroup.procs").write_text(str(os.getpid()))

    def seconds(self) -> float | None:
        """CPU seconds used so far by all in the group, ended ones included."""
        if self._group is None:
            return None
        if (self._group / "cpuacct.usage").exists():
            return int((self._group / "cpuacct.usage").read_text()) / 1e9
        found = re.search(r"usage_usec (\d+)", (self._group / "cpu.stat").read_text())
        return int(found[1]) / 1e6 if found else None

    def close(self) -> None:
        """Remove the group; its processes have ended by then."""
        if self._group:
            self._group.rmdir()


@dataclass(frozen=True)
class ProcessCost:
    """What one process has used, in bytes and CPU seconds."""

    pid: int
    role: str
    """keeper, supervisor, companion (on the head with its watcher), lazy agent; and Ray's log monitor."""
    host: str
    rss_bytes: int
    pss_bytes: int
    """Proportional: pages shared with others count in part."""
    private_bytes: int
    peak_rss_bytes: int
    cpu_s: float


def raycluster_processes(inits: dict[int, str]) -> Iterator[ProcessCost]:
    """Raycluster's own processes on hosts: ``inits`` maps the pid of a host's first process to its name."""
    namespaces = {_namespace(pid): host for pid, host in inits.items()}
    for entry in PROC.glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            role = _role(words)
            host = namespaces.get(_namespace(int(entry.name)))
            if role is None or host is None:
                continue
            yield _cost(entry, role, host)
        except (OSError, ValueError):
            continue


def _role(words: list[bytes]) -> str | None:
    if words[0].startswith(b"ray::log_monitor"):
        return "log monitor (Ray's)"
    text = b" ".join(words[:6])
    if words[0] == b"/bin/sh" and words[3:4] and words[3].endswith(b".gate"):
        return "lazy agent"
    if b"python" not in words[0] or b"srun" in words[0]:
        return None
    if b"raycluster_cli.rayproc.companion" in text:
        return "companion"
    if b"lazy_agent.py" in text:
        return "lazy agent"
    if b"raycluster" in text and {b"run", b"head", b"worker"} & set(words[1:6]):
        return "supervisor"  # or keeper: told apart by who is whose child
    return None


def _namespace(pid: int) -> str:
    return os.readlink(PROC / str(pid) / "ns" / "pid")


def _cost(entry: Path, role: str, host: str) -> ProcessCost:
    status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines() if ":" in line)
    rollup = dict(
        line.split(":", 1) for line in (entry / "smaps_rollup").read_text().splitlines()[1:] if ":" in line
    )
    stat = (entry / "stat").read_text().rpartition(") ")[2].split()
    if role == "supervisor":
        parent = (PROC / stat[1] / "cmdline").read_bytes().split(b"\0")
        role = "supervisor" if _role(parent) == "supervisor" else "keeper"
    return ProcessCost(
        pid=int(entry.name),
        role=role,
        host=host,
        rss_bytes=_kib(status["VmRSS"]),
        pss_bytes=_kib(rollup["Pss"]),
        private_bytes=_kib(rollup["Private_Clean"]) + _kib(rollup["Private_Dirty"]),
        peak_rss_bytes=_kib(status["VmHWM"]),
        cpu_s=(int(stat[11]) + int(stat[12])) / TICKS_PER_S,
    )


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024
