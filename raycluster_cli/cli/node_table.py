"""The nodes of a cluster on a screen: a line for each, the total, or many of them summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ..model.cluster_status import ClusterPhase, ClusterStatus, NodeStatus, Usage
from ..model.hostlist import format_hostlist
from ..model.status import ON_THE_WAY, NodePhase
from .drawing import BUSY, Glyphs, amount, bar, clock_of, fit, size, span


def hosts_of(nodes: Iterable[NodeStatus]) -> str:
    """n[001-120,122]"""
    return format_hostlist([node.host for node in nodes])


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


@dataclass(frozen=True)
class Column:
    title: str
    width: int
    cell: Callable[[NodeStatus, ClusterStatus, Glyphs, int], Text]
    worth: int
    """Columns that are worth least are left out first when the terminal is narrow."""


def needs_a_look(node: NodeStatus, status: ClusterStatus) -> bool:
    """Whether a person should look at this node before the others."""
    return node.is_problem or (node.phase is NodePhase.NOT_REPORTED and not status.is_over)


def ordered(status: ClusterStatus) -> list[NodeStatus]:
    """Nodes with problems first, then those that have not reported, then the head and the rest by name."""

    def rank(pair: tuple[int, NodeStatus]) -> tuple[int, int]:
        number, node = pair
        if node.is_problem:
            return 0, number
        if needs_a_look(node, status):
            return 1, number
        starting = node.phase in ON_THE_WAY and status.phase is not ClusterPhase.STARTING
        return (2 if starting and not status.is_over else 3), number

    return [node for _, node in sorted(enumerate(status.nodes), key=rank)]


def state_style(node: NodeStatus) -> str:
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
    return fit(Text(node.label, state_style(node)), width, glyphs)


def _gauge(used: float | None, total: float, text: str, glyphs: Glyphs, width: int, style: str = "") -> Text:
    if used is None or total <= 0:
        return fit(Text(glyphs.dash, "dim"), width, glyphs)
    bar_width = 4 if width < 19 else 8
    return fit(Text.assemble(bar(used / total, bar_width, glyphs, style), f" {text}"), width, glyphs)


def _cpu(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    use = node.usage or Usage()
    text = f"{amount(use.cpus_used)}/{amount(use.cpus_total)}"
    return _gauge(use.cpus_used, use.cpus_total, text, glyphs, width, BUSY)


def _gpu(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    use = node.usage or Usage()
    text = f"{amount(use.gpus_used)}/{amount(use.gpus_total)}"
    return _gauge(use.gpus_used, use.gpus_total, text, glyphs, width, BUSY)


def _memory(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    use = node.usage or Usage()
    used = size(use.memory_used_bytes or 0)
    text = used if width < 19 else f"{used}/{size(use.memory_total_bytes)}"
    return _gauge(use.memory_used_bytes, use.memory_total_bytes, text, glyphs, width)


def _store(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    use = node.usage or Usage()
    used = size(use.object_store_used_bytes)
    text = used if width < 19 else f"{used}/{size(use.object_store_total_bytes)}"
    return _gauge(use.object_store_used_bytes, use.object_store_total_bytes, text, glyphs, width)


def _processes(node: NodeStatus, _: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    count = node.usage.worker_processes if node.usage else None
    return fit(Text(glyphs.dash, "dim") if count is None else str(count), width, glyphs)


def _progress(node: NodeStatus, status: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    """How far a node is in its start."""
    done = len(ON_THE_WAY) if node.is_member else 0
    if node.phase in ON_THE_WAY:
        done = ON_THE_WAY.index(node.phase)
    style = "green" if node.is_member else "red" if node.is_problem else "yellow"
    return bar(done / len(ON_THE_WAY), width - 1, glyphs, style).append(" ")


def last_report(node: NodeStatus, status: ClusterStatus) -> str:
    """What the node reported last, or for how long it has been in its state."""
    if node.phase is NodePhase.NOT_REPORTED:
        if status.is_over:
            return "never reported"
        return f"not reported for {span(status.read_at - node.since)}" if node.since else "not reported yet"
    if node.is_lost:
        return "Ray no longer sees this node"
    if node.message and not (node.is_member and node.message == status.message):
        return node.message
    if node.state == "ready" and node.idle_since:
        return f"idle for {span(max(status.read_at - node.idle_since, 0.0))}"
    if node.state in ("ready", "unknown"):
        return f"joined {clock_of(node.phases.get(NodePhase.JOINED.value, node.since))}"
    ago = span(max(status.read_at - node.since, 0.0)) if not status.is_over else clock_of(node.since)
    return f"for {ago}" if not status.is_over else f"at {ago}"


def _report(node: NodeStatus, status: ClusterStatus, glyphs: Glyphs, width: int) -> Text:
    text = " ".join(last_report(node, status).split())
    return fit(Text(text, "red" if node.is_problem else ""), width, glyphs)


#: The worth of columns that show what is in use.
_MEASURED = range(40, 81)


def columns(status: ClusterStatus, width: int) -> list[Column]:
    """The columns that fit, the last report in what is left."""
    names = max((cell_len(node.host) for node in status.nodes), default=4)
    longest = max(min(names, 28 if width >= 110 else 16), 4)
    states = max((len(node.label) for node in status.nodes), default=5)
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
    return [*chosen, Column("LAST REPORT", rest, _report, 0)] if rest > 4 else chosen


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
                line.append_text(_report(node, status, glyphs, width - line.cell_len))
                break
            line.append_text(each.cell(node, status, glyphs, each.width))
        lines.append(fit(line, width, glyphs))
    return lines
