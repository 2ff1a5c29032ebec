"""A ClusterStatus as a person sees it: lines of text that fit a terminal.

Everything here is a function of values: the status, the width, the height and the view.
The same lines make the live screen, `monitor --once` and `status JOB`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.text import Text

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.wording import count, told_once
from ..system.report import command_text
from .cluster_table import STYLE
from .drawing import BUSY, UNICODE, Glyphs, amount, bar, clock_of, fit, rule, sides, size, span, wrapped
from .group_table import group_lines as worker_group_lines
from .group_table import job_lines
from .node_map import group_lines, map_lines
from .node_table import last_report, needs_a_look, node_lines, ordered, total_usage
from .safe_status import safe_status

#: A job with less than this left is about to be ended by Slurm.
LITTLE_TIME_S = 600.0


@dataclass(frozen=True)
class View:
    """What the person has chosen to see."""

    offset: int = 0
    """First node shown."""
    groups: bool | None = None
    """Nodes summed up by state; None: when they are more than two screens."""
    keys: bool = False
    """Keys can be pressed: the last line says which."""
    stale_s: float = 0.0
    """Seconds since the record could be read, when that is too long."""

    def moved(self, by: int, nodes: int) -> View:
        return replace(self, offset=max(0, min(self.offset + by, max(nodes - 1, 0))))


def head_lines(status: ClusterStatus, width: int, glyphs: Glyphs) -> list[Text]:
    """Which cluster, its state, its time."""
    style = STYLE[status.phase]
    name = f" {status.job_name}" if status.job_name and width > 60 else ""
    left = Text.assemble(
        (" raycluster ", "dim"),
        (status.title, "bold"),
        (name, "dim"),
        "  ",
        (status.phase.value.upper(), style),
    )
    time_left = status.time_left_s
    right = Text()
    if status.started:
        what = "ran" if status.is_over else "up"
        right.append(f"{what} {span(status.age_s)}", "dim")
    if time_left is not None:
        right.append(glyphs.dot if right.plain else "", "dim")
        right.append(f"{span(time_left)} left", "bold red" if time_left < LITTLE_TIME_S else "")
    lines = [sides(left, right, width, glyphs)]
    lines += wrapped(_sentence(status.headline), width, style, 3, glyphs)
    for node in status.problems[:1] if not status.is_over else ():
        lines += wrapped(f"{node.host}: {last_report(node, status)}", width, "red", 2, glyphs)
    about = []
    if status.driver:
        about.append(f"driver: {command_text(status.driver)}")
        since = status.driver_since
        if since and not status.is_over:
            about[-1] += f" ({span(status.read_at - since)})"
    if status.pending_tasks:
        waiting = count(status.pending_tasks, "task")
        about.append(f"{waiting} {'waits' if status.pending_tasks == 1 else 'wait'} for resources")
    if status.dashboard:
        about.append(f"dashboard {status.dashboard}")
    elif status.address and width >= 100:
        about.append(f"address {status.address}")
    if about:
        lines.append(fit(Text(" " + glyphs.dot.join(about), "dim"), width, glyphs))
    return lines


def _sentence(text: str) -> str:
    return text if text.startswith("raycluster ") else text[:1].upper() + text[1:]


def total_lines(status: ClusterStatus, width: int, glyphs: Glyphs) -> list[Text]:
    """What is in use on all nodes together, in one line or two."""
    total = total_usage(status.nodes)
    if total is None:
        return []
    cells: list[Text] = []
    bar_width = 6 if width < 100 else 12

    def add(name: str, used: float, of: float, text: str, style: str = "") -> None:
        if of > 0:
            shown = bar(used / of, bar_width, glyphs, style)
            cells.append(Text.assemble((f"{name} ", "dim"), shown, f" {text}"))

    add(
        "CPU",
        total.cpus_used,
        total.cpus_total,
        f"{amount(total.cpus_used)}/{amount(total.cpus_total)}",
        BUSY,
    )
    gpus = f"{amount(total.gpus_used)}/{amount(total.gpus_total)}"
    add("GPU", total.gpus_used, total.gpus_total, gpus, BUSY)
    if total.memory_used_bytes is not None:
        text = f"{size(total.memory_used_bytes)}/{size(total.memory_total_bytes)}"
        add("mem", total.memory_used_bytes, total.memory_total_bytes, text)
    text = f"{size(total.object_store_used_bytes)}/{size(total.object_store_total_bytes)}"
    add("store", total.object_store_used_bytes, total.object_store_total_bytes, text)
    if total.worker_processes is not None:
        label = "worker processes " if width >= 100 else "procs "
        cells.append(Text.assemble((label, "dim"), str(total.worker_processes)))
    lines: list[Text] = []
    line = Text(" ")
    for cell in cells:
        if line.cell_len + cell.cell_len + 2 > width and line.plain.strip():
            lines.append(fit(line, width, glyphs))
            line = Text(" ")
        line.append_text(cell).append("  ")
    return [*lines, fit(line, width, glyphs)]


def start_lines(status: ClusterStatus, width: int, glyphs: Glyphs) -> list[Text]:
    """How far the start is: a bar of all nodes, and what the others are doing."""
    expected = max(status.expected_nodes, len(status.nodes), 1)
    ready = status.ready_nodes
    label = f" {ready} of {expected} ready"
    wide = max(min(width - len(label) - 4, 60), 10)
    line = Text.assemble(" ", bar(ready / expected, wide, glyphs, "green"), label)
    lines = [fit(line, width, glyphs)]
    doing: dict[str, int] = {}
    for node in status.nodes:
        if not node.is_member:
            doing[node.label] = doing.get(node.label, 0) + 1
    if doing:
        parts = [f"{number} {what}" for what, number in doing.items()]
        lines.append(fit(Text(" " + glyphs.dot.join(parts), "yellow"), width, glyphs))
    return lines


def event_lines(status: ClusterStatus, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """The last events, oldest first."""
    lines = []
    for when, text in told_once(status.events)[-height:] if height > 0 else ():
        bad = text.startswith(("warning:", "error")) or " is lost" in text or "killed" in text
        line = Text.assemble(
            (f" {clock_of(when)} ", "dim"), (" ".join(text.split()), "yellow" if bad else "")
        )
        lines.append(fit(line, width, glyphs))
    return lines


def live_screen(
    status: ClusterStatus, width: int, height: int, view: View, glyphs: Glyphs = UNICODE
) -> list[Text]:
    """Exactly ``height`` lines."""
    status = safe_status(status)
    lines = head_lines(status, width, glyphs)
    if view.stale_s:
        lines.append(
            fit(
                Text(f" The record could not be read for {span(view.stale_s)}.", "bold yellow"), width, glyphs
            )
        )
    if status.phase is ClusterPhase.STARTING and status.nodes:
        lines += start_lines(status, width, glyphs)
    lines += total_lines(status, width, glyphs)
    lines += _group_part(status, width, height // 3, glyphs)
    foot = 1
    room = height - len(lines) - foot
    count = len(told_once(status.events))
    events = min(count, max(room // 4, 3 if room > 10 else 0))
    # What the nodes leave is the events'; and nodes that nearly fit get the events' room, but for the last.
    spare = room - len(status.nodes) - 3
    if spare > 0:
        events = min(count, spare)
    space = room - (events + 1 if events else 0)
    body, first, last = _node_part(status, width, space, view, glyphs)
    lines += body
    if events > 0:
        lines += [Text("")] * (height - foot - len(lines) - events - 1)
        lines.append(rule("EVENTS", width, glyphs))
        lines += event_lines(status, width, events, glyphs)
    lines = lines[: height - foot]
    lines += [Text("")] * (height - foot - len(lines))
    return [*lines, _foot(status, width, view, glyphs, first, last)]


def _group_part(status: ClusterStatus, width: int, space: int, glyphs: Glyphs) -> list[Text]:
    """The worker groups, and jobs that are not in the cluster yet, in at most this many lines."""
    if not status.groups or space < 5:
        return []
    lines = [rule("WORKER GROUPS", width, glyphs)]
    lines += worker_group_lines(status.groups, width, status.read_at, glyphs)[: space - 1]
    lines += job_lines(status.groups, width, status.read_at, glyphs, space - len(lines), away_only=True)
    return lines


def _node_part(
    status: ClusterStatus, width: int, space: int, view: View, glyphs: Glyphs
) -> tuple[list[Text], int, int]:
    """The nodes in this many lines; the first and last of those that have a line of their own."""
    nodes = ordered(status)
    if not nodes or space < 2:
        return [], 0, 0
    grouped = view.groups if view.groups is not None else len(nodes) > 2 * space
    lines: list[Text] = [rule("NODES", width, glyphs)]
    if grouped:
        lines += group_lines(status, width, glyphs)[: max(space // 3, 1)]
        # The map gets what it needs, but leaves room for the nodes that a person should look at.
        keep = min(sum(needs_a_look(node, status) for node in nodes), space // 3) + 1
        if len(nodes) > 8:
            lines += map_lines(status, width, space - len(lines) - max(keep, 3), glyphs)
    left = space - len(lines) - 1
    offset = min(view.offset, max(len(nodes) - max(left, 1), 0))
    shown = nodes[offset : offset + max(left, 0)]
    if shown:
        lines += node_lines(shown, status, width, glyphs)
    return lines[:space], offset + 1 if shown else 0, offset + len(shown)


def _foot(status: ClusterStatus, width: int, view: View, glyphs: Glyphs, first: int, last: int) -> Text:
    where = (
        f"nodes {first}{glyphs.dash}{last} of {len(status.nodes)}"
        if last < len(status.nodes) or first > 1
        else ""
    )
    keys = f"q quit{glyphs.dot}{glyphs.up_down} scroll{glyphs.dot}g groups" if view.keys else "Ctrl-C quits"
    right = Text(glyphs.dot.join(part for part in (where, clock_of(status.read_at)) if part), "dim")
    return sides(Text(f" {keys}", "dim"), right, width, glyphs)


def report(status: ClusterStatus, width: int, glyphs: Glyphs = UNICODE, rows: int = 40) -> list[Text]:
    """All parts of a cluster one below the other, as `status JOB` and `monitor --once` print it."""
    status = safe_status(status)
    lines = head_lines(status, width, glyphs)
    if status.phase is ClusterPhase.STARTING and status.nodes:
        lines += start_lines(status, width, glyphs)
    lines += total_lines(status, width, glyphs)
    if status.groups:
        lines += [Text(""), *worker_group_lines(status.groups, width, status.read_at, glyphs)]
        if jobs := job_lines(status.groups, width, status.read_at, glyphs, rows, away_only=True):
            lines += [Text(""), *jobs]
    nodes = ordered(status)
    if nodes:
        lines.append(Text(""))
        if len(nodes) > rows:
            lines += group_lines(status, width, glyphs)
            lines += map_lines(status, width, 12, glyphs)
        if len(nodes) <= rows:
            shown = nodes
        else:
            shown = ([node for node in nodes if needs_a_look(node, status)] or nodes)[:rows]
        lines += node_lines(shown, status, width, glyphs)
        if len(shown) < len(nodes):
            lines.append(
                fit(Text(f" {glyphs.ellipsis} and {len(nodes) - len(shown)} more", "dim"), width, glyphs)
            )
    if status.events:
        lines += [Text(""), *event_lines(status, width, 10, glyphs)]
    return lines


def facts(status: ClusterStatus) -> list[tuple[str, str]]:
    """What else `status JOB` shows: addresses, versions, the record."""
    status = safe_status(status)
    versions = ", ".join(f"{name} {number}" for name, number in status.versions.items() if number)
    guard = "token" if status.auth else "none: anyone who can connect can run code as you"
    found = [
        ("cause", status.cause if status.cause.rstrip(".") != status.message else ""),
        ("address", status.address),
        ("head", status.head_host),
        ("dashboard", status.dashboard),
        ("driver", command_text(status.driver)),
        ("server", status.service_line.removeprefix("server is ")),
        ("versions", versions),
        ("protection", (guard + (", TLS" if status.tls else "")) if status.address else ""),
        ("Slurm", ", ".join(part for part in (status.job_name, status.slurm_state.lower()) if part)),
        ("record", status.record),
    ]
    return [(name, value) for name, value in found if value]
