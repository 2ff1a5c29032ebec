"""`raycluster why`: a page that says which node or process failed first, why, and what to do."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ..model.cluster_status import ClusterPhase
from ..model.log_lines import shortened
from ..model.status import EndReason, NodePhase, Role
from ..model.text import printable
from ..model.wording import count, duration, told_once
from ..model.worker_job import WorkerJobState
from ..slurm.pending import explain
from ..system.report import command_text
from .groups import group_json
from .log_search import ON_PURPOSE
from .post_mortem import NodeEnd, PostMortem
from .verdict import judge


def why_json(post: PostMortem) -> dict[str, Any]:
    """Plain values for programs."""
    judgement = judge(post)
    raised = post.output.raised if post.output is not None else None
    return {
        "schema": 1,
        "job": post.job,
        "state": post.status.phase.value,
        "running": post.running,
        "exit_code": post.end.exit_code if post.end else None,
        "reason": post.end.reason if post.end else "",
        "failed_host": post.end.failed_host if post.end else "",
        "culprit": post.end.failed_host if post.end else "",  # its name before 0.2
        "message": post.end.message if post.end else post.status.message,
        "verdict": judgement.verdict,
        "remedies": list(dict.fromkeys(judgement.remedies)),
        "first": asdict(post.deaths[0]) if post.deaths else None,
        "exception": raised.summary if raised is not None and _shows_output(post) else None,
        "output": post.output.path if post.output is not None else None,
        "causes": [
            {"name": one.cause.name, "where": one.where, "line": one.line, "remedy": one.cause.remedy}
            for one in post.found
        ],
        "groups": [group_json(group) for group in post.groups],
        "nodes": [asdict(node) for node in post.nodes],
    }


def page(post: PostMortem, *, width: int = 100) -> str:
    """One page of plain text."""
    title, *more = _heading(post)
    lines = [*wrapped(title, width, ""), *(line for text in more for line in wrapped(text, width))]
    judgement = judge(post)
    lines += ["", "State" if post.running else "Likely cause", *wrapped(judgement.verdict, width)]
    if judgement.shown_by is not None:
        lines += [*wrapped(f"{judgement.shown_by.where}: {judgement.shown_by.line}", width, "  > ")]
    if judgement.remedies:
        lines += ["What to do"]
        for remedy in list(dict.fromkeys(judgement.remedies))[:3]:
            lines += wrapped(remedy, width, "  - ", "    ")
    if _shows_output(post):
        lines += _output_lines(post, width)
    if post.deaths:
        lines += ["", "What ended first"]
        for death in post.deaths[:5]:
            lines += hanging(f"{_clock(death.when)}  {death}", width)
    lines += ["", "Nodes", *(line for text in _node_lines(post) for line in hanging(text, width))]
    if about := list(group_notes(post)):
        lines += ["", "Worker groups", *(line for text in about for line in hanging(text, width))]
    if post.events:
        lines += ["", "Events"]
        for when, text in told_once([(event.when, event.text) for event in post.events])[-8:]:
            lines += hanging(f"{_clock(when)}  {text}", width)
    if not _is_the_drivers_own(post):
        for name, last in post.last_lines:
            lines += ["", f"Last lines of {name}"]
            for line in last:
                lines += hanging(line, width)
    if post.log_dirs:
        lines += ["", f"Logs: {', '.join(post.log_dirs)}"]
    elif not post.running:
        lines += ["", "No logs were kept (--keep-logs)."]
    return "\n".join(printable(line) for line in lines) + "\n"


def _is_the_drivers_own(post: PostMortem) -> bool:
    """Whether Ray's logs say nothing of the end: the driver's own error, or a good end."""
    if post.end is None:
        return False
    if post.end.exit_code == 0 or post.end.reason in ON_PURPOSE:
        return True
    if post.end.reason != EndReason.DRIVER.value:
        return False
    if post.status.slurm_cluster == "local":  # the driver's output is on a terminal
        return post.end.exit_code < 128 and not post.deaths and not post.found
    raised = post.output.raised if post.output is not None else None
    return raised is not None and not raised.is_of_another_process


def _shows_output(post: PostMortem) -> bool:
    """Whether the job's output may say why: not after a success, a stop or a signal, nor while it runs."""
    if post.output is None or post.running or (post.end and post.end.exit_code == 0):
        return False
    return post.end is None or post.end.reason not in ON_PURPOSE


def _output_lines(post: PostMortem, width: int) -> Iterator[str]:
    """The driver's exception or the last lines of the job's output, its file, and how to see more."""
    assert post.output is not None
    yield ""
    if not post.output.shown:  # all that it has is in the verdict
        yield f"Output: {post.output.path}"
        return
    what = "Exception" if post.output.raised is not None else "Last lines"
    yield f"{what} in {post.output.path}"
    for line in post.output.shown:
        yield from hanging_code(line, width)
    yield from wrapped(f"more: raycluster logs {post.job} --lines 100", width)


def _heading(post: PostMortem) -> Iterator[str]:
    head, end = post.head, post.end
    driver = f": {command_text(head.driver)}" if head and head.driver else ""
    yield shortened(f"Cluster {post.job}{driver}", 160)
    if end is None:
        runs = "is suspended" if post.status.phase is ClusterPhase.SUSPENDED else "runs"
        yield runs if post.running else f"{post.status.phase.value}: has not reported its end"
        return
    ran = f" after {duration(max(end.when - head.started, 0))}" if head and head.started else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end.when))
    yield f"ended {when}{ran}, exit code {end.exit_code}"
    where = f" ({end.failed_host})" if end.failed_host else ""
    yield f"{end.message}{where if end.failed_host not in end.message else ''}"


def _node_lines(post: PostMortem) -> Iterator[str]:
    """Those that failed or stopped responding first; of many good ones only the number."""
    ended = not post.running

    def bad(node: NodeEnd) -> bool:
        failed = bool(node.exit_code) or node.phase == NodePhase.FAILED.value
        return failed or (ended and node.has_not_reported_its_end) or bool(node.oom_kills)

    troubled = [node for node in post.nodes if bad(node)]
    for node in sorted(troubled, key=lambda node: (node.role != Role.HEAD.value, node.host))[:12]:
        code = f"code {node.exit_code}" if node.exit_code is not None else "exited without reporting"
        oom = f", {count(node.oom_kills, 'process', 'processes')} killed for memory" if node.oom_kills else ""
        skew = f", its clock is off by {node.skew_s:+.0f} s" if node.skew_s else ""
        yield f"{node.host:<12} {node.role:<6} {code}{oom}{skew}: {node.message or node.phase}"
    if len(troubled) > 12:
        yield f"and {len(troubled) - 12} more"
    good = len(post.nodes) - len(troubled)
    if good:
        yield f"{count(good, 'node')} {'exited cleanly' if ended else 'without problems'}"
    skewed = [f"{node.host} ({node.skew_s:+.0f} s)" for node in post.nodes if node.skew_s]
    if skewed:
        yield f"clocks that differ from the file server's: {', '.join(skewed[:8])}"


def group_notes(post: PostMortem) -> Iterator[str]:
    """What keeps the worker groups from growing, which jobs wait and why, and how others ended."""
    now = post.status.read_at
    for group in post.groups:
        counts = group.nodes_by_state() if post.running else {}
        states = ", ".join(f"{number} {state}" for state, number in counts.items())
        yield f"{group.name}: {states or 'no jobs'}, of {group.range}"
        if group.problem:
            yield f"  {group.problem}"
        if group.paused_until > now and post.running:
            yield f"  no job is submitted until {_clock(group.paused_until)[:8]}"
        if group.excluded:
            yield f"  hosts that are not used any more: {', '.join(group.excluded[:8])}"
        waiting = [job for job in group.jobs if job.state == WorkerJobState.PENDING and job.reason]
        for reason in list(dict.fromkeys(job.reason for job in waiting))[:3] if post.running else ():
            jobs = [job.job_id for job in waiting if job.reason == reason]
            more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
            explained = explain(reason, jobs[0])
            yield f"  {', '.join(jobs[:3])}{more} pending: {reason}{f': {explained}' if explained else ''}"
        for job in group.jobs:
            if job.state == WorkerJobState.ENDED and job.reason:
                yield f"  {job.job_id} ended {_clock(job.since)[:8]}: {job.reason}"
    for text in post.status.left_in_slurm:
        yield f"Slurm still has {text}"


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when % 1 * 10)}"


def wrapped(text: str, width: int, first: str = "  ", rest: str = "    ") -> list[str]:
    """Lines of at most ``width`` characters, without control characters.

    >>> wrapped("use less memory", 14, "  - ", "    ")
    ['  - use less', '    memory']
    """
    rest = rest if first.strip() or len(rest) > len(first) + 2 else first
    text = printable(" ".join(text.splitlines()))
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def hanging_code(line: str, width: int) -> list[str]:
    """A line of a program's output, with its indentation.

    >>> hanging_code("    raise ValueError", 40)
    ['      raise ValueError']
    """
    text = line.expandtabs(4)
    indent = " " * min(2 + len(text) - len(text.lstrip()), width // 2)
    return wrapped(text.strip(), width, indent, f"{indent}    ") or [""]


def hanging(text: str, width: int) -> list[str]:
    """A line of a list, continued below its own beginning.

    >>> hanging("n1  worker  the raylet died", 20)
    ['  n1  worker  the', '      raylet died']
    """
    return wrapped(text, width, "  ") if len(text) + 2 <= width else _continued(text, width)


def _continued(text: str, width: int) -> list[str]:
    first, *others = wrapped(text, width, "  ")
    return [first, *wrapped(" ".join(line.strip() for line in others), width, "      ")]
