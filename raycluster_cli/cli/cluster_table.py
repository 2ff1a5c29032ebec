"""The list of clusters: a line for each."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.text import Text

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..system.report import command_text
from .drawing import UNICODE, Glyphs, fit, span
from .safe_status import safe_status

STYLE = {
    ClusterPhase.PENDING: "yellow",
    ClusterPhase.NO_RECORD: "yellow",
    ClusterPhase.STARTING: "yellow",
    ClusterPhase.RUNNING: "green",
    ClusterPhase.DEGRADED: "bold yellow",
    ClusterPhase.STOPPING: "yellow",
    ClusterPhase.SUSPENDED: "yellow",
    ClusterPhase.ENDED: "green",
    ClusterPhase.STOPPED: "cyan",
    ClusterPhase.FAILED: "bold red",
    ClusterPhase.LOST: "bold red",
}


def cluster_lines(clusters: Sequence[ClusterStatus], width: int, glyphs: Glyphs = UNICODE) -> list[Text]:
    """A line for each cluster."""
    clusters = [safe_status(each) for each in clusters]
    titles = [_list_title(each, clusters) for each in clusters]
    job_width = max([len(title) for title in titles] + [3]) + 2
    state_width = max([len(each.phase.value) for each in clusters] + [5]) + 2
    dashboards = any(each.dashboard for each in clusters)
    over = any(each.is_over for each in clusters)
    head = f"{'JOB':<{job_width}}{'STATE':<{state_width}}{'NODES':<9}{'AGE':<8}{'LEFT':<8}"
    head += f"{'CODE':<6}{'ENDED':<14}" if over else ""
    if dashboards and width >= 100:
        head += f"{'DASHBOARD':<24}"
    lines = [fit(Text(head + "DRIVER", "dim"), width, glyphs)]
    for title, each in zip(titles, clusters, strict=True):
        left = each.time_left_s
        line = Text.assemble(
            (f"{title:<{job_width}}", "bold"),
            (f"{each.phase.value:<{state_width}}", STYLE[each.phase]),
            f"{_node_count(each):<9}",
            f"{span(each.age_s) if each.started else glyphs.dash:<8}",
            f"{span(left) if left is not None else glyphs.dash:<8}",
        )
        if over:
            code = glyphs.dash if each.exit_code is None else str(each.exit_code)
            line.append(f"{code:<6}{_when(each.ended if each.is_over else None, each.read_at, glyphs):<14}")
        if dashboards and width >= 100:
            line.append(f"{each.dashboard or glyphs.dash:<24}")
        if each.service is not None:
            line.append(f"{each.service.state}: ")
        line.append(command_text(each.driver) or each.job_name or glyphs.dash)
        lines.append(fit(line, width, glyphs))
    return lines


def _when(moment: float | None, now: float, glyphs: Glyphs) -> str:
    """The time of day, with the date where it was not today: `14:05`, `Nov 27 14:05`."""
    if moment is None:
        return glyphs.dash
    then, today = time.localtime(moment), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%b %d %H:%M", then)


def _list_title(status: ClusterStatus, among: Sequence[ClusterStatus]) -> str:
    several = len({each.slurm_cluster for each in among if each.slurm_cluster not in ("", "local")}) > 1
    return f"{status.slurm_cluster}/{status.title}" if several and status.slurm_cluster else status.title


def _node_count(status: ClusterStatus) -> str:
    if status.is_over or not status.expected_nodes:
        return str(status.expected_nodes or len(status.nodes) or "-")
    return f"{status.ready_nodes}/{status.expected_nodes}"
