"""Why a worker was lost: what the node itself reports, else what the GCS says."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from ..model.record import EndReport, NodeReport
from ..model.status import FINAL, EndDetail, EndReason, NodePhase
from ..model.wording import describe_code
from ..policy.values import Cause, Worker
from ..rayproc.listed_node import NodeDeath
from ..state.record import Record
from .report_writer import ReportWriter
from .silent_hosts import responds

#: How long a lost worker's own report is waited for.
LAST_REPORT_S = 0.8

#: How often it is looked for.
POLL_S = 0.1

#: What can end all processes of a node at once, so that none of them reports it.
KILLED_AT_ONCE = "Slurm kills all when the first one is killed, and the kernel may when memory is short"

#: Phases of a node that ends or has ended.
STOPPING_OR_ENDED = (NodePhase.STOPPING, *FINAL)


async def cause_of_loss(
    worker: Worker,
    death: NodeDeath,
    record: Record | None,
    reports: ReportWriter,
    probe: Callable[[str], Awaitable[bool]] = responds,
) -> Cause:
    """Why a worker has left.  ``death``: what the GCS says of the node.

    ``probe`` says whether the host at an address responds.
    """
    if worker.job and death.drained:
        return Cause((death.message or "it was drained").rstrip("."), orderly=True)
    report = await _last_report(worker.host, record, reports) if record is not None else None
    if worker.job and report is not None and report.deaths and left_by_itself(report):
        return Cause("it was drained", orderly=True)
    found = cause(report, death)
    if record is not None and report is None and worker.ip and await probe(worker.ip):
        return Cause(f"{found.text}; its host responds, but raycluster there has not reported why")
    return found


def cause(report: NodeReport | None, death: NodeDeath) -> Cause:
    """The cause by a node's last report and what the GCS says of it.

    >>> cause(None, NodeDeath("unexpected_termination", "health check failed")).text
    'health check failed'
    """
    if report is not None and report.deaths:
        last = report.deaths[-1]
        return Cause(f"its {last.name} {describe_code(last.code)}")
    if report is not None and report.message:
        return Cause(
            report.message,
            signalled=report.reason == EndReason.SIGNAL.value,
            orderly=report.reason == EndReason.ENDED.value,
        )
    return Cause(death.message or death.reason or "no reason given")


def left_by_itself(report: NodeReport) -> bool:
    """Whether the node's raylet ended with 0, as it does when it was drained."""
    last = report.deaths[-1]
    return last.name == "raylet" and last.code == 0


def end_by_report(report: NodeReport | None, since: float) -> EndReport | None:
    """How a cluster ended by its head's last report; None when that says nothing of an end.

    For a head that was killed while it ended: Slurm kills all processes of a task at once when its first one
    is killed, where it tracks them by cgroup.  ``since``: when this head began, in Unix seconds.

    >>> end_by_report(NodeReport("n1", "head", "joined", updated=9.0), since=5.0) is None
    True
    """
    if report is None or report.phase not in STOPPING_OR_ENDED or report.updated < since or not report.reason:
        return None
    code = report.exit_code if report.exit_code is not None else 128 + signal.SIGKILL
    return EndReport(report.updated, code, report.reason, report.host, report.message, report.detail)


def end_without_report(host: str, when: float) -> EndReport:
    """How a cluster ended whose head has gone from a host that runs, before it could report anything."""
    text = f"raycluster on {host} and all of its processes ended at once without reporting: {KILLED_AT_ONCE}"
    reason, detail = EndReason.SUPERVISOR_KILLED.value, EndDetail.ALL_AT_ONCE.value
    return EndReport(when, 128 + signal.SIGKILL, reason, host, text, detail)


async def _last_report(host: str, record: Record, reports: ReportWriter) -> NodeReport | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LAST_REPORT_S
    while loop.time() < deadline:
        left_s = max(deadline - loop.time(), 0.05)
        report = await reports.look(record.read_node, host, timeout_s=left_s, default=None)
        if report is not None and (report.deaths or report.phase in STOPPING_OR_ENDED):
            return report
        await asyncio.sleep(POLL_S)
    return None
