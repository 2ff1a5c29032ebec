"""Worker groups and their jobs on a screen: a line for each group, and one for each job."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.text import Text

from ..model.group_status import GroupStatus
from ..model.worker_job import WorkerJob, WorkerJobState
from .drawing import Glyphs, fit, span, wrapped

STYLE = {
    WorkerJobState.WANTED.value: "yellow",
    WorkerJobState.PENDING.value: "yellow",
    WorkerJobState.STARTING.value: "yellow",
    WorkerJobState.READY.value: "green",
    WorkerJobState.IDLE.value: "cyan",
    WorkerJobState.DRAINING.value: "yellow",
    WorkerJobState.ENDED.value: "dim",
}


#: States as a group's line shows them: what is there, then what is to come.
_SHOWN = ("ready", "idle", "draining", "starting", "pending", "wanted")


def group_lines(groups: Sequence[GroupStatus], width: int, now: float, glyphs: Glyphs) -> list[Text]:
    """A line for each group: nodes, bounds, what the nodes do; below it what is wrong with the group."""
    if not groups:
        return []
    names = max([5, *(len(group.name) for group in groups)]) + 2
    bounds = max([8, *(len(group.range) for group in groups)]) + 2
    lines = [fit(Text(f" {'GROUP':<{names}}{'NODES':<7}{'MIN..MAX':<{bounds}}STATE", "dim"), width, glyphs)]
    for group in groups:
        line = Text.assemble(
            " ", (f"{group.name:<{names}}", "bold"), f"{group.joined_nodes:<7}", f"{group.range:<{bounds}}"
        )
        line.append_text(_doing(group, now, glyphs))
        lines.append(fit(line, width, glyphs))
        if problem := problem_of(group, now):
            lines += [
                fit(Text.assemble("  ", each), width, glyphs)
                for each in wrapped(problem, width - 2, "yellow", 3, glyphs)
            ]
    return lines


def _doing(group: GroupStatus, now: float, glyphs: Glyphs) -> Text:
    """How many nodes are in each state; for those in the queue why, and when the first may start."""
    counts = group.nodes_by_state()
    if not counts:
        return Text("no jobs", "dim")
    text = Text()
    for state in sorted(counts, key=lambda one: _SHOWN.index(one) if one in _SHOWN else len(_SHOWN)):
        text.append(", " if text.plain else "").append(f"{counts[state]} {state}", STYLE.get(state, ""))
        if state == WorkerJobState.PENDING:
            text.append(_why_pending(group, now), "dim")
    return text


def _why_pending(group: GroupStatus, now: float) -> str:
    waiting = [job for job in group.live_jobs if job.state == WorkerJobState.PENDING]
    reasons = list(dict.fromkeys(job.reason for job in waiting if job.reason))
    starts = [job.expected_start for job in waiting if job.expected_start > now]
    parts = [*reasons[:2], *([f"starts about {_clock(min(starts), now)}"] if starts else [])]
    return f" ({', '.join(parts)})" if parts else ""


def problem_of(group: GroupStatus, now: float) -> str:
    """What keeps a group from growing, in one line; empty when nothing does."""
    parts = [group.problem.rstrip(".")] if group.problem else []
    if group.paused_until > now:
        parts.append(f"paused for another {span(group.paused_until - now)}")
    if group.excluded:
        more = f" and {len(group.excluded) - 4} more" if len(group.excluded) > 4 else ""
        parts.append(f"not used any more: {', '.join(group.excluded[:4])}{more}")
    return "; ".join(parts)


def job_lines(
    groups: Sequence[GroupStatus],
    width: int,
    now: float,
    glyphs: Glyphs,
    most: int,
    *,
    away_only: bool = False,
) -> list[Text]:
    """A line for each job that is not over, those that are not in the cluster first.

    ``most``: lines in all; ``away_only``: leave out jobs whose nodes are in the cluster to stay.
    """
    order = [state.value for state in WorkerJobState]
    away = ("wanted", "pending", "starting", "draining")
    jobs = sorted(
        (job for group in groups for job in group.live_jobs if not away_only or job.state in away),
        key=lambda job: (order.index(job.state) if job.state in order else 9, job.since),
    )
    if not jobs or most < 2:
        return []
    ids = max([3, *(len(job.job_id) for job in jobs)]) + 2
    names = max([5, *(len(job.group) for job in jobs)]) + 2
    title = f" {'JOB':<{ids}}{'GROUP':<{names}}{'STATE':<10}{'FOR':<8}"
    lines = [fit(Text(f"{title}HOSTS, REASON", "dim"), width, glyphs)]
    shown = jobs if len(jobs) < most else jobs[: most - 2]
    for job in shown:
        line = Text.assemble(
            " ",
            (f"{job.job_id or glyphs.dash:<{ids}}", "bold"),
            f"{job.group:<{names}}",
            (f"{_state(job):<10}", STYLE.get(job.state, "")),
            f"{span(max(now - job.since, 0.0)):<8}",
            _about(job, now),
        )
        lines.append(fit(line, width, glyphs))
    if len(shown) < len(jobs):
        lines.append(fit(Text(f" {glyphs.ellipsis} and {len(jobs) - len(shown)} more", "dim"), width, glyphs))
    return lines


def _state(job: WorkerJob) -> str:
    return str(job.state.value) if isinstance(job.state, WorkerJobState) else job.state


def _about(job: WorkerJob, now: float) -> str:
    """The hosts of a job, why it waits or leaves, and when it is expected to start."""
    parts = [", ".join(job.hosts)] if job.hosts else [f"{job.nodes} nodes"] if job.nodes > 1 else []
    parts += [job.reason] if job.reason else []
    if job.expected_start > now and job.state == WorkerJobState.PENDING:
        parts.append(f"starts about {_clock(job.expected_start, now)}")
    return "; ".join(parts)


def _clock(when: float, now: float) -> str:
    then, today = time.localtime(when), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%b %d %H:%M", then)
