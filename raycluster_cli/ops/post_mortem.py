"""What is known of a cluster that ended: :func:`post_mortem` reads its record, its logs and the job's output.

It works after the job, without Slurm's accounting, and from any machine that sees the record.  What Slurm
still knows of the job is used where the caller has asked it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..model.cause_search import Found
from ..model.cluster_status import ClusterStatus
from ..model.group_status import GroupStatus
from ..model.record import EndReport, Event, HeadInfo, NodeReport, ProcessDeath
from ..model.status import FINAL, EndReason, NodePhase, Role
from ..model.wording import describe_code
from ..slurm.job_state import JobState
from ..state.record import Record
from .groups import read_groups
from .log_search import JobOutput, last_log_lines, listed, read_output, search
from .reader import read_cluster

#: A node's clock counts as wrong when it is this far from the file server's.
SKEW_S = 5.0

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
    in_worker_job: bool = False
    """Whether it was a process of a worker job (--cluster), whose loss the cluster survives."""

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
    reason: str = ""
    """Why it ended, a value of status.EndReason."""
    detail: str = ""
    """What exactly ended it, a value of status.EndDetail."""
    skew_s: float = 0.0
    """By how much its clock is ahead of the file server's."""

    @property
    def has_not_reported_its_end(self) -> bool:
        """All of its processes were killed at once, or its host is gone."""
        return self.phase not in FINAL


@dataclass(frozen=True)
class PostMortem:
    """All that `why` shows."""

    job: str
    status: ClusterStatus
    """As `raycluster status` shows it."""
    head: HeadInfo | None
    end: EndReport | None
    nodes: tuple[NodeEnd, ...]
    deaths: tuple[Death, ...]
    found: tuple[Found, ...]
    slurm: JobState | None = None
    """What Slurm says of the job; None when it was not asked, or does not know it any more."""
    output: JobOutput | None = None
    """The end of the job's output; None when it cannot be read from here, or there is no file."""
    last_lines: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of the failed host's logs: (host/file, lines)."""
    events: tuple[Event, ...] = ()
    log_dirs: tuple[str, ...] = ()
    log: str = ""
    groups: tuple[GroupStatus, ...] = ()
    """The worker groups as they were last, with jobs that ended."""
    missing: tuple[str, ...] = field(default=())
    """Nodes that were expected and never reported."""

    @property
    def running(self) -> bool:
        """Whether the cluster has not ended yet."""
        return self.end is None and not self.status.is_over

    @property
    def oom_kills(self) -> int:
        """Processes that the kernel killed for memory, on all nodes."""
        return sum(node.oom_kills or 0 for node in self.nodes)


def post_mortem(
    record: Record,
    *,
    status: ClusterStatus | None = None,
    slurm: JobState | None = None,
    outputs: Sequence[Path] | None = None,
) -> PostMortem:
    """Read a record.

    ``status``: the cluster's as it was read with Slurm's answer.  ``outputs``: the job's output, and the file
    of its errors where that is another; without them the output that the record names.
    """
    end, head = record.read_end(), record.read_head()
    status = read_cluster(record) if status is None else status
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
            reason=report.reason,
            detail=report.detail,
            skew_s=skews[host],
        )
        for host, report in reports.items()
    )
    deaths = [
        Death(one.when - skews[host], host, one.name, one.code, bool(report.job))
        for host, report in reports.items()
        for one in report.deaths
        if not _drained(one, end) and not (report.job and one.code == 0)  # a worker job that was not needed
    ]
    deaths.sort(key=lambda death: death.when)
    failed_host = (end.failed_host if end else "") or (deaths[0].host if deaths else "")
    if outputs is None:
        outputs = [Path(head.output)] if head is not None and head.output else []
    driver_failed = end is not None and end.reason == EndReason.DRIVER.value
    output = read_output(
        outputs,
        end.exit_code if end is not None and driver_failed else None,
        address=head.address if head is not None else "",
        drove=not _ended_before_its_driver(end, reports),
    )
    found = (
        ()
        if end is None and not status.is_over and not deaths
        else search(
            record,
            end,
            reports,
            output,
            failed_host=failed_host,
            anything_died=bool(deaths),
            died_by=_died_by(end, head, nodes, deaths, failed_host, slurm),
            loss=end is not None and _is_loss(end, head),
        )
    )
    return PostMortem(
        job=record.path.name,
        status=status,
        head=head,
        end=end,
        nodes=nodes,
        deaths=tuple(deaths),
        found=found,
        slurm=slurm,
        output=output,
        last_lines=tuple(last_log_lines(record, failed_host)),
        events=tuple(record.read_events(limit=12)),
        log_dirs=tuple(str(path) for path in sorted(listed(record.path / "logs")) if os.path.isdir(path)),
        log=reports[failed_host].log if failed_host in reports else "",
        groups=read_groups(record.path) if head is not None and head.worker_groups else (),
    )


def _ended_before_its_driver(end: EndReport | None, reports: Mapping[str, NodeReport]) -> bool:
    """Whether the driver was never started: what the job has printed before is of another run."""
    report = next((one for one in reports.values() if one.role == Role.HEAD.value), None)
    if end is None or report is None or NodePhase.DRIVING.value in report.phases:
        return False
    never_ready = bool(report.phases) and NodePhase.READY.value not in report.phases
    return end.reason == EndReason.ERROR.value or never_ready


def _is_loss(end: EndReport, head: HeadInfo | None) -> bool:
    """Whether the cluster ended because it had lost a node, also where the driver was the first to say so."""
    driver_failed = end.reason == EndReason.DRIVER.value and end.exit_code != 0
    return end.reason in LOST or (driver_failed and lost_host(end, head) != "")


def lost_host(end: EndReport, head: HeadInfo | None) -> str:
    """The worker whose loss the end names; empty when it names none."""
    known = head.host if head is not None else ""
    return end.failed_host if known and end.failed_host != known else ""


def _died_by(
    end: EndReport | None,
    head: HeadInfo | None,
    nodes: Sequence[NodeEnd],
    deaths: Sequence[Death],
    failed_host: str,
    slurm: JobState | None,
) -> int | None:
    """The signal by which the process died that ended the cluster; None when it ended itself.

    A host that stopped responding counts as one whose processes were killed.
    """
    if end is None:
        killed = slurm is not None and slurm.shell_code == 128 + signal.SIGKILL
        return signal.SIGKILL if killed else None
    if not _is_loss(end, head):
        by_signal = end.reason == EndReason.DRIVER.value and 128 < end.exit_code < 160
        return end.exit_code - 128 if by_signal else None
    if end.reason in (EndReason.KEEPER_KILLED.value, EndReason.SUPERVISOR_KILLED.value):
        return signal.SIGKILL
    first = next((one for one in deaths if one.host == failed_host), None)
    if first is not None:
        return -first.code if first.code < 0 else None
    failed = next((node for node in nodes if node.host == failed_host), None)
    return signal.SIGKILL if failed is not None and failed.has_not_reported_its_end else None


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
