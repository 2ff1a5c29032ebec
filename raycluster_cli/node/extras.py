"""What a node starts while the driver runs and its start need not wait for: the log monitor."""

from __future__ import annotations

from ..rayproc.companion_client import CompanionClient, Started
from ..rayproc.failure import StartFailure
from ..rayproc.plan import NodePlan
from ..system.report import Report
from .processes import NodeProcesses

#: How long the log monitor may take to start.
EXTRA_START_S = 120.0


async def start_log_monitor(
    companion: CompanionClient,
    plan: NodePlan,
    started: Started,
    *,
    host: str,
    processes: NodeProcesses,
    report: Report,
) -> None:
    """Start it.  If it does not start, that is reported, and the cluster continues without it."""
    try:
        done = await companion.start_extra("log_monitor", plan, started, EXTRA_START_S)
    except StartFailure as failed:
        report.warn(f"the log monitor did not start on {host}: {failed.message}")
        return
    for one in done["processes"]:
        processes.adopt(one["name"], one["pid"])
