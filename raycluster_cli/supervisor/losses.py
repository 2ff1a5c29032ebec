"""Why a worker was lost: what the node itself reports, else what the GCS says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ..model.record import NodeReport
from ..model.status import EndReason, NodePhase
from ..policy.values import Cause, Worker
from ..state.record import Record
from ..system.process import describe_code
from .report_writer import ReportWriter

#: How long a lost worker's own report is waited for.
LAST_REPORT_S = 0.8

#: How often it is looked for.
POLL_S = 0.1

#: Phases of a node that ends.
ENDING = (NodePhase.STOPPING.value, NodePhase.FAILED.value, NodePhase.GONE.value)


async def cause_of_loss(
    worker: Worker, death: Mapping[str, Any], record: Record | None, reports: ReportWriter
) -> Cause:
    """Why a worker has left.  ``death``: the GCS's death info of the node (reason, message)."""
    report = await _last_report(worker.host, record, reports) if record is not None else None
    return cause(report, death)


def cause(report: NodeReport | None, death: Mapping[str, Any]) -> Cause:
    """The cause by a node's last report and the GCS's death info.

    >>> cause(None, {"reason": "UNEXPECTED_TERMINATION", "message": "health check failed"}).text
    'health check failed'
    """
    if report is not None and report.deaths:
        last = report.deaths[-1]
        return Cause(f"its {last.name} {describe_code(last.code)}")
    if report is not None and report.message:
        return Cause(report.message, signalled=report.reason == EndReason.SIGNAL.value)
    return Cause(str(death.get("message") or death.get("reason") or "no reason given"))


async def _last_report(host: str, record: Record, reports: ReportWriter) -> NodeReport | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LAST_REPORT_S
    while loop.time() < deadline:
        left_s = max(deadline - loop.time(), 0.05)
        report = await reports.look(record.read_node, host, timeout_s=left_s, default=None)
        if report is not None and (report.deaths or report.phase in ENDING):
            return report
        await asyncio.sleep(POLL_S)
    return None
