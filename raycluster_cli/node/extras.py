"""What a node starts while the driver runs: the dashboard of a head, the log monitor."""

from __future__ import annotations

from collections.abc import Callable

from ..model.settings import Settings
from ..model.status import Role
from ..rayproc.companion_client import CompanionClient, Started
from ..rayproc.failure import StartFailure
from ..rayproc.plan import NodePlan
from ..system.report import Report
from .processes import NodeProcesses

#: How long the log monitor or the dashboard may take to start; the dashboard imports for seconds.
EXTRA_START_S = 120.0


def wanted_extras(role: Role, settings: Settings) -> list[str]:
    """What a node of this role starts, in this order."""
    dashboard = ["dashboard"] if role is Role.HEAD and settings.dashboard else []
    return [*dashboard, *(["log_monitor"] if settings.log_monitor else [])]


async def start_extras(
    wanted: list[str],
    companion: CompanionClient,
    plan: NodePlan,
    started: Started,
    *,
    host: str,
    processes: NodeProcesses,
    report: Report,
    on_dashboard: Callable[[str], None],
) -> None:
    """Start them one by one.  One that does not start is reported, and the cluster continues without it."""
    for what in wanted:
        try:
            done = await companion.start_extra(what, plan, started, EXTRA_START_S)
        except StartFailure as failed:
            report.warn(f"the {what.replace('_', ' ')} did not start on {host}: {failed.message}")
            continue
        for one in done.get("processes", []):
            processes.adopt(one["name"], one["pid"])
        if done.get("url"):
            report.say(f"dashboard: http://{done['url']}")
            on_dashboard(str(done["url"]))
