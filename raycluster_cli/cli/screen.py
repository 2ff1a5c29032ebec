"""A ClusterStatus as a person sees it: lines of text that fit a terminal.

Everything here is a function of values: the status, the width, the height and the view.
The same lines make the live screen, `monitor --once` and `status JOB`.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ..model.status import ON_THE_WAY, ClusterPhase, ClusterStatus, NodePhase, NodeStatus, Usage
from ..slurm.hostlist import format_hostlist
from ..system.report import command_text

_STYLE = {
    ClusterPhase.PENDING: "yellow",
    ClusterPhase.STARTING: "yellow",
    ClusterPhase.RUNNING: "green",
    ClusterPhase.DEGRADED: "bold yellow",
    ClusterPhase.STOPPING: "yellow",
    ClusterPhase.ENDED: "green",
    ClusterPhase.STOPPED: "cyan",
    ClusterPhase.FAILED: "bold red",
    ClusterPhase.LOST: "bold red",
}

#: A job with less than this left is about to be ended by Slurm.
LITTLE_TIME_S = 600.0


@dataclass(frozen=True)
class Glyphs:
    """The signs that screens are drawn with."""

    full: str = "█"
    part: str = "▏▎▍▌▋▊▉"
    """Less than one full sign, least first."""
    empty: str = "░"
    levels: str = "·▁▂▃▄▅▆▇█"
    """A node in the map: idle to full."""
    bad: str = "✗"
    silent: str = "?"
    gone: str = "-"
    way: str = "▏▎▍▌▋"
    """A node on its way, by steps."""
    dash: str = "–"
    dot: str = " · "
    ellipsis: str = "…"
    rule: str = "─"
    up_down: str = "↑↓"


ASCII = Glyphs("#", "-", ".", ".123456789", "X", "?", "-", "abcde", "-", " | ", "~", "-", "up/down")
UNICODE = Glyphs()


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


# --------------------------------------------------------------------------- words and numbers


def clock_of(when: float) -> str:
    """Time of day, local."""
    return time.strftime("%H:%M:%S", time.localtime(when))


def span(seconds: float) -> str:
    """A short duration: 8s, 4m12s, 2h05m, 3d04h.

    >>> span(8.4), span(252), span(7500), span(273600)
    ('8s', '4m12s', '2h05m', '3d04h')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def size(count: float) -> str:
    """Bytes, in three characters or four and a unit.

    >>> size(0), size(900), size(1536 * 2**20), size(512 * 2**30)
    ('0', '900B', '1.5G', '512G')
    """
    if not count:
        return "0"
    for unit in "BKMGTP":
        if count < 1000 or unit == "P":
            return f"{count:.1f}{unit}" if count < 10 and unit != "B" else f"{count:.0f}{unit}"
        count /= 1024
    return ""


def amount(number: float) -> str:
    """CPUs and GPUs: 3, 0.5.

    >>> amount(3.0), amount(0.25)
    ('3', '0.25')
    """
    return f"{number:g}" if number < 1000 else f"{number:.0f}"


def bar(fraction: float, width: int, glyphs: Glyphs, style: str = "") -> Text:
    """A bar; without a style what is full is coloured by how full it is."""
    fraction = min(max(fraction, 0.0), 1.0)
    style = style or ("red" if fraction > 0.92 else "yellow" if fraction > 0.75 else "green")
    steps = len(glyphs.part) + 1
    count = round(fraction * width * steps)
    if fraction > 0 and count == 0:
        count = 1
    full, rest = divmod(count, steps)
    filled = glyphs.full * full + (glyphs.part[rest - 1] if rest else "")
    return Text.assemble((filled, style), (glyphs.empty * (width - len(filled)), "dim"))


def fit(text: str | Text, width: int, glyphs: Glyphs = UNICODE) -> Text:
    """Exactly ``width`` cells: cut with an ellipsis, or padded."""
    line = Text(text) if isinstance(text, str) else text.copy()
    line.truncate(max(width, 0), overflow="ellipsis" if glyphs is UNICODE else "crop", pad=True)
    return line


def hosts_of(nodes: Iterable[NodeStatus]) -> str:
    """n[001-120,122]"""
    return format_hostlist([node.host for node in nodes])


# --------------------------------------------------------------------------- the parts of a screen


def head_lines(status: ClusterStatus, width: int, glyphs: Glyphs) -> list[Text]:
    """Which cluster, its state in plain words, its time."""
    style = _STYLE[status.phase]
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
    lines = [_sides(left, right, width, glyphs)]
    lines += _wrapped(_sentence(status.headline), width, style, 3, glyphs)
    for node in status.problems[:1] if not status.is_over else ():
        lines += _wrapped(f"{node.host}: {last_word(node, status)}", width, "red", 2, glyphs)
    about = []
    if status.driver:
        about.append(f"driver: {command_text(status.driver)}")
        since = status.driver_since
        if since and not status.is_over:
            about[-1] += f" ({span(status.read_at - since)})"
    if status.pending_tasks:
        about.append(f"{status.pending_tasks} tasks wait for resources")
    if status.dashboard:
        about.append(f"dashboard {status.dashboard}")
    elif status.address and width >= 100:
        about.append(f"address {status.address}")
    if about:
        lines.append(fit(Text(" " + glyphs.dot.join(about), "dim"), width, glyphs))
    return lines


def _wrapped(text: str, width: int, style: str, most: int, glyphs: Glyphs) -> list[Text]:
    """So many lines at most, each begun by a blank."""
    room = max(width - 2, 10)
    parts = textwrap.wrap(" ".join(text.split()), room, max_lines=most, placeholder=f" {glyphs.ellipsis}")
    return [fit(Text(f" {part}", style), width, glyphs) for part in parts]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sides(left: Text, right: Text, width: int, glyphs: Glyphs) -> Text:
    room = width - right.cell_len - 1
    return (
        Text.assemble(fit(left, max(room, 0), glyphs), " ", right) if room > 20 else fit(left, width, glyphs)
    )


def total_usage(nodes: Iterable[NodeStatus]) -> Usage | None:
    """The sum over nodes of what is known; None when nothing is."""
    found = [node.usage for node in nodes if node.usage is not None and node.alive is not False]
    if not found:
        return None
    known = [each for each in found if each.memory_used_bytes is not None]
    return Usage(
        cpus_total=sum(each.cpus_total for each in found),
        cpus_used=sum(each.cpus_used for each in found),
        gpus_total=sum(each.gpus_total for each in found),
        gpus_used=sum(each.gpus_used for each in found),
        object_store_total_bytes=sum(each.object_store_total_bytes for each in found),
        object_store_used_bytes=sum(each.object_store_used_bytes for each in found),
        memory_total_bytes=sum(each.memory_total_bytes for each in known),
        memory_used_bytes=sum(each.memory_used_bytes or 0 for each in known) if known else None,
        worker_processes=sum(each.worker_processes or 0 for each in known) if known else None,
    )


def total_lines(status: ClusterStatus, width: int, glyphs: Glyphs) -> list[Text]:
    """What all nodes together have in use, in one line or two."""
    total = total_usage(status.nodes)
    if total is None:
        return []
    cells: list[Text] = []
    bar_width = 6 if width < 100 else 12

    def add(name: str, used: float, of: float, words: str) -> None:
        if of > 0:
            shown = bar(used / of, bar_width, glyphs)
            cells.append(Text.assemble((f"{name} ", "dim"), shown, f" {words}"))

    add("CPU", total.cpus_used, total.cpus_total, f"{amount(total.cpus_used)}/{amount(total.cpus_total)}")
    add("GPU", total.gpus_used, total.gpus_total, f"{amount(total.gpus_used)}/{amount(total.gpus_total)}")
    if total.memory_used_bytes is not None:
        words = f"{size(total.memory_used_bytes)}/{size(total.memory_total_bytes)}"
        add("mem", total.memory_used_bytes, total.memory_total_bytes, words)
    words = f"{size(total.object_store_used_bytes)}/{size(total.object_store_total_bytes)}"
    add("store", total.object_store_used_bytes, total.object_store_total_bytes, words)
    if total.worker_processes is not None:
        words = "worker processes " if width >= 100 else "procs "
        cells.append(Text.assemble((words, "dim"), str(total.worker_processes)))
    lines: list[Text] = []
    line = Text(" ")
    for cell in cells:
        if line.cell_len + cell.cell_len + 2 > width and line.plain.strip():
            lines.append(fit(line, width, glyphs))
            line = Text(" ")
        line.append_text(cell).append("  ")
    return [*lines, fit(line, width, glyphs)]


# -- nodes, a line each


@dataclass(frozen=True)
class Column:
    title: str
    width: int
    cell: Callable[[NodeStatus, ClusterStatus, Glyphs, int], Text]
    worth: int
    """Columns that are worth least are left out first when the terminal is narrow."""


def needs_a_look(node: NodeStatus, status: ClusterStatus) -> bool:
    """Whether a person should look at this node before the others."""
    return node.is_problem or (node.phase is NodePhase.UNHEARD and not status.is_over)


def ordered(status: ClusterStatus) -> list[NodeStatus]:
    """Problem nodes first, then those that are missing, then the head and the rest by name."""

    def rank(pair: tuple[int, NodeStatus]) -> tuple[int, int]:
        number, node = pair
        if node.is_problem:
            return 0, number
        if needs_a_look(node, status):
            return 1, number
        starting = node.phase in ON_THE_WAY and status.phase is not ClusterPhase.STARTING
        return (2 if starting and not status.is_over else 3), number

    return [node for _, node in sorted(enumerate(status.nodes), key=rank)]


def _state_style(node: NodeStatus) -> str:
    if node.is_problem:
        return "bold red"
    if node.is_member:
        return "green"
    if node.phase in ON_THE_WAY or node.phase is NodePhase.STOPPING:
        return "yellow"
    return "dim"


def _host(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    return fit(Text(node.host, "bold red" if node.is_problem else "bold"), width, glyphs)


def _role(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    return fit(Text(node.role.value, "dim"), width, glyphs)


def _state(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    return fit(Text(node.state, _state_style(node)), width, glyphs)


def _gauge(used: float | None, total: float, words: str, glyphs: Glyphs, width: int) -> Text:
    if used is None or total <= 0:
        return fit(Text(glyphs.dash, "dim"), width, glyphs)
    bar_width = 4 if width < 19 else 8
    return fit(Text.assemble(bar(used / total, bar_width, glyphs), f" {words}"), width, glyphs)


def _cpu(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    use = node.usage or Usage()
    words = f"{amount(use.cpus_used)}/{amount(use.cpus_total)}"
    return _gauge(use.cpus_used, use.cpus_total, words, glyphs, width)


def _gpu(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    use = node.usage or Usage()
    words = f"{amount(use.gpus_used)}/{amount(use.gpus_total)}"
    return _gauge(use.gpus_used, use.gpus_total, words, glyphs, width)


def _memory(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    use = node.usage or Usage()
    used = size(use.memory_used_bytes or 0)
    words = used if width < 19 else f"{used}/{size(use.memory_total_bytes)}"
    return _gauge(use.memory_used_bytes, use.memory_total_bytes, words, glyphs, width)


def _store(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    use = node.usage or Usage()
    used = size(use.object_store_used_bytes)
    words = used if width < 19 else f"{used}/{size(use.object_store_total_bytes)}"
    return _gauge(use.object_store_used_bytes, use.object_store_total_bytes, words, glyphs, width)


def _processes(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    count = node.usage.worker_processes if node.usage else None
    return fit(Text(glyphs.dash, "dim") if count is None else str(count), width, glyphs)


def _progress(node: NodeStatus, status: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    """How far a node is on its way into the cluster."""
    done = len(ON_THE_WAY) if node.is_member else 0
    if node.phase in ON_THE_WAY:
        done = ON_THE_WAY.index(node.phase)
    style = "green" if node.is_member else "red" if node.is_problem else "yellow"
    return bar(done / len(ON_THE_WAY), width - 1, glyphs, style).append(" ")


def last_word(node: NodeStatus, status: ClusterStatus) -> str:
    """What the node said last, or since when it has been what it is."""
    if node.phase is NodePhase.UNHEARD:
        if status.is_over:
            return "never heard of"
        return f"expected for {span(status.read_at - node.since)}" if node.since else "expected"
    if node.is_lost:
        return "Ray's head does not see it any more"
    if node.message and not (node.is_member and node.message == status.message):
        return node.message
    if node.state in ("ready", "unknown"):
        return f"joined {clock_of(node.phases.get(NodePhase.JOINED.value, node.since))}"
    ago = span(max(status.read_at - node.since, 0.0)) if not status.is_over else clock_of(node.since)
    return f"for {ago}" if not status.is_over else f"at {ago}"


def _word(node: NodeStatus, status: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    text = " ".join(last_word(node, status).split())
    return fit(Text(text, "red" if node.is_problem else ""), width, glyphs)


#: The worth of columns that show what is in use.
_MEASURED = range(40, 81)


def columns(status: ClusterStatus, width: int) -> list[Column]:
    """The columns that fit, the last word in what is left."""
    names = max((cell_len(node.host) for node in status.nodes), default=4)
    longest = max(min(names, 28 if width >= 110 else 16), 4)
    states = max((len(node.state) for node in status.nodes), default=5)
    chosen = [
        Column("NODE", longest + 1, _host, 100),
        Column("ROLE", 7, _role, 20),
        Column("STATE", max(states, 5) + 1, _state, 90),
    ]
    wide = 19 if width >= 130 else 10
    measured = [node.usage for node in status.nodes if node.usage]
    if status.phase is ClusterPhase.STARTING:
        chosen.insert(2, Column("PROGRESS", 16 if width < 110 else 26, _progress, 85))
    elif measured:
        most = max(len(f"{amount(use.cpus_used)}/{amount(use.cpus_total)}") for use in measured)
        chosen.append(Column("CPU", max(most + 6, 10), _cpu, 80))
        if any(use.gpus_total for use in measured):
            most = max(len(f"{amount(use.gpus_used)}/{amount(use.gpus_total)}") for use in measured)
            chosen.append(Column("GPU", max(most + 6, 10), _gpu, 75))
        if any(use.memory_used_bytes is not None for use in measured):
            chosen.append(Column("MEMORY", wide + 1, _memory, 70))
        chosen.append(Column("STORE", wide + 1, _store, 60))
        if any(use.worker_processes is not None for use in measured):
            chosen.append(Column("PROCS", 6, _processes, 40))
    least = 14 if width >= 60 else 0
    while sum(each.width for each in chosen) + 1 + least > width and len(chosen) > 1:
        chosen.remove(min(chosen, key=lambda each: each.worth))
    rest = width - 1 - sum(each.width for each in chosen)
    return [*chosen, Column("LAST WORD", rest, _word, 0)] if rest > 4 else chosen


def node_lines(
    nodes: Sequence[NodeStatus], status: ClusterStatus, width: int, glyphs: Glyphs, title: bool = True
) -> list[Text]:
    """A table of these nodes."""
    shown = columns(status, width)
    lines = []
    if title:
        titles = " " + "".join(set_cell_size(each.title, each.width) for each in shown)
        lines.append(fit(Text(titles, "dim"), width, glyphs))
    for node in nodes:
        line = Text(" ")
        for each in shown:
            if each.worth in _MEASURED and node.usage is None and needs_a_look(node, status):
                # Nothing to measure, but something to say: it takes the place.
                line.append_text(_word(node, status, glyphs, width - line.cell_len))
                break
            line.append_text(each.cell(node, status, glyphs, each.width))
        lines.append(fit(line, width, glyphs))
    return lines


# -- many nodes


def group_lines(status: ClusterStatus, width: int, glyphs: Glyphs) -> list[Text]:
    """The nodes summed up: a line for each state, with the hosts as a list."""
    groups: dict[str, list[NodeStatus]] = {}
    for node in ordered(status):
        groups.setdefault(node.state, []).append(node)
    lines = []
    for state, nodes in groups.items():
        lead = Text.assemble(f" {len(nodes):>5} ", (f"{state:<17}", _state_style(nodes[0])))
        use = total_usage(nodes)
        if use is not None and width >= 70:
            share = use.cpus_used / use.cpus_total if use.cpus_total else 0.0
            lead.append_text(Text.assemble(("CPU ", "dim"), bar(share, 6, glyphs), f" {share * 100:3.0f}%  "))
        lead.append_text(Text(hosts_of(nodes), "dim"))
        lines.append(fit(lead, width, glyphs))
    return lines


def map_lines(status: ClusterStatus, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """One sign for each node: how busy its CPUs (or GPUs) are, or what is wrong with it."""
    if height < 2:
        return []
    columns_ = max(width - 2, 1)
    nodes = list(status.nodes)
    room = (height - 1) * columns_
    per_sign = -(-len(nodes) // room) if room else 1
    lines = []
    line = Text(" ")
    for start in range(0, len(nodes), per_sign):
        line.append_text(_sign(nodes[start : start + per_sign], glyphs))
        if line.cell_len > columns_:
            lines.append(fit(line, width, glyphs))
            line = Text(" ")
    if line.cell_len > 1:
        lines.append(fit(line, width, glyphs))
    each = f"{per_sign} nodes a sign, the worst of them" if per_sign > 1 else "a sign a node"
    key = (
        f" {each}: {glyphs.levels[0]} idle {glyphs.levels[4]} half {glyphs.levels[-1]} busy  "
        f"{glyphs.way[0]}{glyphs.way[-1]} starting  {glyphs.bad} failed  {glyphs.silent} no word"
    )
    return [*lines, fit(Text(key, "dim"), width, glyphs)]


def _sign(nodes: Sequence[NodeStatus], glyphs: Glyphs) -> Text:
    worst = min(nodes, key=lambda node: (not node.is_problem, node.is_member))
    if worst.is_problem:
        return Text(glyphs.bad, "bold red")
    if worst.phase is NodePhase.UNHEARD:
        return Text(glyphs.silent, "yellow")
    if worst.phase in ON_THE_WAY:
        return Text(glyphs.way[min(ON_THE_WAY.index(worst.phase), len(glyphs.way) - 1)], "yellow")
    if not worst.is_member:
        return Text(glyphs.gone, "dim")
    share = max(_busy(node) for node in nodes)
    if share is None or share <= 0:
        return Text(glyphs.levels[0], "green")
    number = min(1 + int(share * (len(glyphs.levels) - 1)), len(glyphs.levels) - 1)
    return Text(glyphs.levels[number], "green")


def _busy(node: NodeStatus) -> float:
    use = node.usage
    if use is None:
        return 0.0
    shares = [
        used / of for used, of in ((use.cpus_used, use.cpus_total), (use.gpus_used, use.gpus_total)) if of
    ]
    return max(shares, default=0.0)


# -- start-up


def start_lines(status: ClusterStatus, width: int, glyphs: Glyphs) -> list[Text]:
    """How far the start is: a bar of all nodes, and what the rest are doing."""
    expected = max(status.expected_nodes, len(status.nodes), 1)
    ready = status.ready_nodes
    words = f" {ready} of {expected} ready"
    wide = max(min(width - len(words) - 4, 60), 10)
    line = Text.assemble(" ", bar(ready / expected, wide, glyphs, "green"), words)
    lines = [fit(line, width, glyphs)]
    doing: dict[str, int] = {}
    for node in status.nodes:
        if not node.is_member:
            doing[node.phase.value] = doing.get(node.phase.value, 0) + 1
    if doing:
        parts = [f"{number} {what}" for what, number in doing.items()]
        lines.append(fit(Text(" " + glyphs.dot.join(parts), "yellow"), width, glyphs))
    return lines


# -- events


def event_lines(status: ClusterStatus, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """The last events, oldest first."""
    lines = []
    for when, text in status.events[-height:] if height > 0 else ():
        bad = text.startswith(("warning:", "error")) or " is lost" in text or "killed" in text
        line = Text.assemble(
            (f" {clock_of(when)} ", "dim"), (" ".join(text.split()), "yellow" if bad else "")
        )
        lines.append(fit(line, width, glyphs))
    return lines


def rule(title: str, width: int, glyphs: Glyphs) -> Text:
    """A line that begins a part."""
    line = f" {title} "
    return Text(line + glyphs.rule * max(width - cell_len(line) - 1, 0), "dim", no_wrap=True)


# --------------------------------------------------------------------------- whole screens


def live_screen(
    status: ClusterStatus, width: int, height: int, view: View, glyphs: Glyphs = UNICODE
) -> list[Text]:
    """Exactly ``height`` lines."""
    lines = head_lines(status, width, glyphs)
    if view.stale_s:
        lines.append(
            fit(Text(f" The record has not answered for {span(view.stale_s)}.", "bold yellow"), width, glyphs)
        )
    if status.phase is ClusterPhase.STARTING and status.nodes:
        lines += start_lines(status, width, glyphs)
    lines += total_lines(status, width, glyphs)
    foot = 1
    room = height - len(lines) - foot
    events = min(len(status.events), max(room // 4, 3 if room > 10 else 0))
    # What the nodes leave is the events'; and nodes that nearly fit get the events' room, but for the last.
    spare = room - len(status.nodes) - 3
    if spare > 0:
        events = min(len(status.events), spare)
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


def _node_part(
    status: ClusterStatus, width: int, space: int, view: View, glyphs: Glyphs
) -> tuple[list[Text], int, int]:
    """The nodes in so many lines; the first and last of those that have a line of their own."""
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
    keys = f"q quit{glyphs.dot}{glyphs.up_down} scroll{glyphs.dot}g groups" if view.keys else "Ctrl-C ends"
    right = Text(glyphs.dot.join(part for part in (where, clock_of(status.read_at)) if part), "dim")
    return _sides(Text(f" {keys}", "dim"), right, width, glyphs)


def report(status: ClusterStatus, width: int, glyphs: Glyphs = UNICODE, rows: int = 40) -> list[Text]:
    """The whole of a cluster below one another, as `status JOB` and `monitor --once` print it."""
    lines = head_lines(status, width, glyphs)
    if status.phase is ClusterPhase.STARTING and status.nodes:
        lines += start_lines(status, width, glyphs)
    lines += total_lines(status, width, glyphs)
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
    """What else `status JOB` tells: where it is, with which versions, how to go on."""
    versions = ", ".join(f"{name} {number}" for name, number in status.versions.items() if number)
    guard = "token" if status.auth else "none: whoever reaches a port runs code as you"
    found = [
        ("address", status.address),
        ("head", status.head_host),
        ("dashboard", status.dashboard),
        ("driver", command_text(status.driver)),
        ("versions", versions),
        ("protection", (guard + (", TLS" if status.tls else "")) if status.address else ""),
        ("Slurm", ", ".join(part for part in (status.job_name, status.slurm_state.lower()) if part)),
        ("record", status.record),
    ]
    return [(name, value) for name, value in found if value]


# --------------------------------------------------------------------------- the list of clusters


def cluster_lines(clusters: Sequence[ClusterStatus], width: int, glyphs: Glyphs = UNICODE) -> list[Text]:
    """A line for each cluster."""
    titles = [_list_title(each, clusters) for each in clusters]
    job_width = max([len(title) for title in titles] + [3]) + 2
    state_width = max([len(each.phase.value) for each in clusters] + [5]) + 2
    dashboards = any(each.dashboard for each in clusters)
    head = f"{'JOB':<{job_width}}{'STATE':<{state_width}}{'NODES':<9}{'AGE':<8}{'LEFT':<8}"
    if dashboards and width >= 100:
        head += f"{'DASHBOARD':<24}"
    lines = [fit(Text(head + "DRIVER", "dim"), width, glyphs)]
    for title, each in zip(titles, clusters, strict=True):
        left = each.time_left_s
        line = Text.assemble(
            (f"{title:<{job_width}}", "bold"),
            (f"{each.phase.value:<{state_width}}", _STYLE[each.phase]),
            f"{_nodes_word(each):<9}",
            f"{span(each.age_s) if each.started else glyphs.dash:<8}",
            f"{span(left) if left is not None else glyphs.dash:<8}",
        )
        if dashboards and width >= 100:
            line.append(f"{each.dashboard or glyphs.dash:<24}")
        line.append(command_text(each.driver) or each.job_name or glyphs.dash)
        lines.append(fit(line, width, glyphs))
    return lines


def _list_title(status: ClusterStatus, among: Sequence[ClusterStatus]) -> str:
    several = len({each.slurm_cluster for each in among if each.slurm_cluster not in ("", "local")}) > 1
    return f"{status.slurm_cluster}/{status.title}" if several and status.slurm_cluster else status.title


def _nodes_word(status: ClusterStatus) -> str:
    if status.is_over or not status.expected_nodes:
        return str(status.expected_nodes or len(status.nodes) or "-")
    return f"{status.ready_nodes}/{status.expected_nodes}"
