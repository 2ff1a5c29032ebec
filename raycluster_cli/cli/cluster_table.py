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
    """A line for each cluster; a column is as wide as what is in it, so that the driver has the most room."""
    clusters = [safe_status(each) for each in clusters]
    names = ["JOB", "STATE", "NODES", "AGE", "LEFT"]
    over = any(each.is_over for each in clusters)
    names += ["CODE", "ENDED"] if over else []
    dashboards = width >= 100 and any(each.dashboard for each in clusters)
    names += ["DASHBOARD"] if dashboards else []
    rows = []
    for each in clusters:
        left = each.time_left_s
        row = [
            _list_title(each, clusters),
            each.phase.value,
            _node_count(each),
            span(each.age_s) if each.started else glyphs.dash,
            span(left) if left is not None else glyphs.dash,
        ]
        if over:
            row.append(glyphs.dash if each.exit_code is None else str(each.exit_code))
            row.append(_when(each.ended if each.is_over else None, each.read_at, glyphs))
        if dashboards:
            row.append(each.dashboard or glyphs.dash)
        rows.append(row)
    widths = [max(map(len, column)) + 2 for column in zip(names, *rows, strict=True)]
    head = "".join(f"{name:<{size}}" for name, size in zip(names, widths, strict=True))
    lines = [fit(Text(f"{head}DRIVER", "dim"), width, glyphs)]
    for each, row in zip(clusters, rows, strict=True):
        title, state, *others = (f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True))
        line = Text.assemble((title, "bold"), (state, STYLE[each.phase]), *others)
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
