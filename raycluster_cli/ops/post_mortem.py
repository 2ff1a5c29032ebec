"""What is known of a cluster that ended, from its record alone: :func:`post_mortem` reads it.

It works after the job, without Slurm's accounting, and from any machine that sees the record.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..model.causes import Found, find_causes
from ..model.record import EndReport, Event, HeadInfo, NodeReport, ProcessDeath
from ..model.status import NodePhase
from ..state.record import Record
from ..system.process import describe_code

#: How much of each log is searched, from its end.
READ_BYTES = 128 * 1024

#: Lines of each log of the failed host that are shown.
LAST_LINES = 6

#: The cause that is no news once a process is known to have died.
SILENCE = "starved"

#: A node's clock counts as wrong when it is this far from the file server's.
SKEW_S = 5.0

OVER = (NodePhase.GONE.value, NodePhase.FAILED.value)
LOST = ("head-lost", "worker-lost", "supervisor-killed", "keeper-killed", "raylet-lost")


@dataclass(frozen=True)
class Death:
    """A process that ended unexpectedly."""

    when: float
    """Unix seconds, by the file server's clock as far as it can be told."""
    host: str
    name: str
    code: int
    """As subprocess gives it: negative for a death by signal."""

    def __str__(self) -> str:
        return f"{self.name} on {self.host} {describe_code(self.code)}"


@dataclass(frozen=True)
class NodeEnd:
    """The last report of a node."""

    host: str
    role: str
    phase: str
    message: str
    exit_code: int | None
    updated: float
    oom_kills: int | None = None
    skew_s: float = 0.0
    """By how much its clock is ahead of the file server's."""

    @property
    def has_not_reported_its_end(self) -> bool:
        """All of its processes were killed at once, or its host is gone."""
        return self.phase not in OVER


@dataclass(frozen=True)
class PostMortem:
    """All that `why` shows."""

    job: str
    running: bool
    head: HeadInfo | None
    end: EndReport | None
    nodes: tuple[NodeEnd, ...]
    deaths: tuple[Death, ...]
    found: tuple[Found, ...]
    last_lines: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of the failed host's logs: (host/file, lines)."""
    events: tuple[Event, ...] = ()
    log_dirs: tuple[str, ...] = ()
    log: str = ""
    missing: tuple[str, ...] = field(default=())
    """Nodes that were expected and never reported."""


def post_mortem(record: Record) -> PostMortem:
    """Read a record."""
    end, head = record.read_end(), record.read_head()
    reports = record.read_nodes()
    skews = {host: _skew_s(record, report) for host, report in reports.items()}
    nodes = tuple(
        NodeEnd(
            host=host,
            role=report.role,
            phase=report.phase,
            message=report.message,
            exit_code=report.exit_code,
            updated=report.updated - skews[host],
            oom_kills=report.oom_kills,
            skew_s=skews[host],
        )
        for host, report in reports.items()
    )
    deaths = [
        Death(one.when - skews[host], host, one.name, one.code)
        for host, report in reports.items()
        for one in report.deaths
        if not _drained(one, end)
    ]
    deaths.sort(key=lambda death: death.when)
    failed_host = (end.failed_host if end else "") or (deaths[0].host if deaths else "")
    return PostMortem(
        job=record.path.name,
        running=end is None and any(node.phase not in OVER for node in nodes),
        head=head,
        end=end,
        nodes=nodes,
        deaths=tuple(deaths),
        found=tuple(
            found
            for found in find_causes(_texts(record, end, reports, failed_host))
            if not _explained(found, bool(deaths), end)
        ),
        last_lines=tuple(_last_lines(record, failed_host)),
        events=tuple(record.read_events(limit=12)),
        log_dirs=tuple(str(path) for path in sorted((record.path / "logs").glob("*")) if path.is_dir()),
        log=reports[failed_host].log if failed_host in reports else "",
    )


def _explained(found: Found, anything_died: bool, end: EndReport | None) -> bool:
    """Whether a text only repeats what is known already.

    A node that died did not answer either; and every process that ends, a driver that failed by itself
    too, leaves lines of broken connections behind.
    """
    if found.cause.name == SILENCE:
        return anything_died
    driver_failed = end is not None and end.reason == "driver"
    return found.cause.secondary and (anything_died or driver_failed)


def _drained(death: ProcessDeath, end: EndReport | None) -> bool:
    """Whether a raylet exited cleanly because the cluster had ended: that is the end, not its cause."""
    on_purpose = end is not None and end.reason not in LOST
    return int(death.code) == 0 and (on_purpose or (end is not None and float(death.when) > end.when))


def _skew_s(record: Record, report: NodeReport) -> float:
    """By how much a node's clock is ahead of the file server's: its report's own time less the file's."""
    try:
        written = (record.path / "nodes" / f"{report.host}.json").stat().st_mtime
    except OSError:
        return 0.0
    skew_s = report.updated - written
    # A report may be written late (a file system that hung), never before it was made.
    return skew_s if abs(skew_s) > SKEW_S else 0.0


def _texts(
    record: Record, end: EndReport | None, reports: dict[str, NodeReport], failed_host: str
) -> Iterator[tuple[str, str]]:
    """Everything that may name a cause, the failed host's first."""
    if end is not None:
        yield "the record of the end", end.message
    hosts = sorted(reports, key=lambda host: (host != failed_host, host))
    for host in hosts:
        yield f"{host}'s last report", reports[host].message
    for host in hosts:
        for path in sorted((record.path / "logs" / host).glob("*"), key=_rank):
            yield f"{host}/{path.name}", read_tail(path)
    output = record.read_head()
    path_text = output.output if output else ""
    if path_text:
        yield path_text, read_tail(Path(path_text))


def _rank(path: Path) -> tuple[int, str]:
    order = ("raylet.err", "gcs_server.err", "ray-start.log", "raylet.out", "gcs_server.out")
    return (order.index(path.name) if path.name in order else len(order), path.name)


def read_tail(path: Path, size: int = READ_BYTES) -> str:
    """The end of a file; empty when it is not a readable file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return ""
            file.seek(max(found.st_size - size, 0))
            return file.read(size).decode("utf-8", "replace")
    except (OSError, ValueError):  # ValueError: the record names a path that no file can have
        return ""


def _last_lines(record: Record, failed_host: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The last lines of the raylet and the GCS of the node that ended first."""
    for name in ("raylet.err", "raylet.out", "gcs_server.err", "gcs_server.out"):
        path = record.path / "logs" / failed_host / name
        lines = (
            [line.rstrip() for line in read_tail(path, 16384).splitlines() if line.strip()]
            if failed_host
            else []
        )
        if lines:
            yield f"{failed_host}/{name}", tuple(lines[-LAST_LINES:])
