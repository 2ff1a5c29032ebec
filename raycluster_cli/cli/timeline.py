"""The start of a cluster as bars: when each node did what, and what took longest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from ..model.cluster_status import ClusterStatus, NodeStatus
from ..model.status import ANSWERED, IMPORTED, ON_THE_WAY, RAYLET, NodePhase, Role
from .drawing import UNICODE, Glyphs, fit
from .safe_status import safe_status


@dataclass(frozen=True)
class Phase:
    """One phase of a node, in seconds from the first process of the cluster."""

    name: str
    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.begin_s


def phases_of(node: NodeStatus, origin: float, until: float) -> list[Phase]:
    """The phases that a node reported, in order; the last ends at ``until`` (Unix seconds)."""
    stamps = sorted(node.phases.items(), key=lambda pair: pair[1])
    last = (NodePhase.GONE.value, NodePhase.FAILED.value)
    found = []
    for number, (name, at) in enumerate(stamps):
        end = stamps[number + 1][1] if number + 1 < len(stamps) else until
        if name in last:
            end = at
        found.append(Phase(name, at - origin, max(end, at) - origin))
    return found


_PHASE_STYLE = (
    ("process started", "blue", "p"),
    (NodePhase.LAUNCHED.value, "bright_blue", "l"),
    (NodePhase.WAITING.value, "yellow", "w"),
    (NodePhase.FOUND.value, "cyan", "f"),
    (IMPORTED, "dark_orange", "i"),
    (NodePhase.STARTING.value, "magenta", "s"),
    (ANSWERED, "bright_magenta", "a"),
    (RAYLET, "bright_green", "y"),
    (NodePhase.JOINED.value, "green", "j"),
    (NodePhase.READY.value, "green", "r"),
    (NodePhase.DRIVING.value, "bold green", "D"),
    (NodePhase.STOPPING.value, "red", "x"),
)

#: Phases that come when the start is over.
_AFTER = (NodePhase.STOPPING.value, NodePhase.DRIVING.value, NodePhase.READY.value)


def timing_lines(
    status: ClusterStatus, width: int, glyphs: Glyphs = UNICODE, *, letters: bool = False, rows: int = 40
) -> list[Text]:
    """The start of each node as bars, and which node and phase took longest.

    ``letters``: a letter for each phase, where colours cannot tell them apart.

    Time runs from the first process to READY (or to now); the last line has what comes after.
    """
    status = safe_status(status)
    nodes = [node for node in status.nodes if node.phases]
    if not nodes:
        return [Text("No node has reported yet.")]
    origin = min(min(node.phases.values()) for node in nodes)
    ready = _ready_at(status) or max(max(node.phases.values()) for node in nodes)
    length = max(ready - origin, 0.001)
    table = {node.host: phases_of(node, origin, status.ended or status.read_at) for node in nodes}
    slowest = slowest_phase(status)
    label = max(min(max(cell_len(node.host) for node in nodes), 20), 5)
    wide = max(width - label - 14, 10)
    joined = {node.host: _joined_after(node, origin) for node in nodes}
    shown = sorted(nodes, key=lambda node: -joined[node.host])[:rows]
    lines = [fit(Text.assemble((" " * (label + 2), ""), (_scale(length, wide), "dim")), width, glyphs)]
    for node in shown:
        line = Text.assemble((f" {fit(node.host, label, glyphs).plain} ", "bold"))
        line.append_text(_timeline(table[node.host], length, wide, glyphs.full if not letters else ""))
        line.append(f" {joined[node.host]:6.2f} s", "bold" if slowest and slowest[0] == node.host else "")
        lines.append(fit(line, width, glyphs))
    if len(shown) < len(nodes):
        lines.append(Text(f" {glyphs.ellipsis} and {len(nodes) - len(shown)} that were faster", "dim"))
    lines += _key(table, width, glyphs.full if not letters else "")
    if slowest:
        host, name, seconds = slowest
        lines.append(Text(f" slowest: {host}, {seconds:.2f} s {_label(name)!r}; ready after {length:.2f} s"))
    stop = _stop_length(nodes)
    if stop:
        lines.append(Text(f" end: {stop[1]:.2f} s until the last node had exited ({stop[0]})"))
    return lines


def _key(table: Mapping[str, Sequence[Phase]], width: int, mark: str) -> list[Text]:
    """What the characters stand for, in as many lines as it takes."""
    present = {phase.name for phases in table.values() for phase in phases}
    lines = [Text(" ")]
    for name, style, letter in _PHASE_STYLE:
        if name in present and name not in _AFTER:
            if lines[-1].cell_len + len(name) + 4 > width:
                lines.append(Text(" "))
            lines[-1].append(mark or letter, style).append(f" {_label(name)}  ", "dim")
    return lines


def _label(name: str) -> str:
    """A phase for people.

    >>> _label("starting ray"), _label("ray imported"), _label("joined")
    ('starting Ray', 'Ray imported', 'joined')
    """
    return re.sub(r"\bray\b", "Ray", name).replace("gcs", "GCS")


def _ready_at(status: ClusterStatus) -> float | None:
    for node in status.nodes:
        if node.role is Role.HEAD:
            return node.phases.get(NodePhase.READY.value)
    return None


def _joined_after(node: NodeStatus, origin: float) -> float:
    at = node.phases.get(NodePhase.JOINED.value)
    return (at if at is not None else max(node.phases.values())) - origin


def slowest_phase(status: ClusterStatus) -> tuple[str, str, float] | None:
    """(host, phase, seconds) of the longest phase on the way of the node that joined last."""
    nodes = [node for node in status.nodes if node.phases]
    if not nodes:
        return None
    origin = min(min(node.phases.values()) for node in nodes)
    last = max(nodes, key=lambda node: _joined_after(node, origin))
    way = phases_of(last, origin, status.ended or status.read_at)
    on_the_way = {"process started", IMPORTED, ANSWERED, RAYLET, *(each.value for each in ON_THE_WAY)}
    before = [phase for phase in way if phase.name in on_the_way]
    if not before:
        return None
    longest = max(before, key=lambda phase: phase.length_s)
    return last.host, longest.name, longest.length_s


def _stop_length(nodes: Sequence[NodeStatus]) -> tuple[str, float] | None:
    begins = [
        node.phases[NodePhase.STOPPING.value] for node in nodes if NodePhase.STOPPING.value in node.phases
    ]
    gone = [
        (node.phases[end], node.host)
        for node in nodes
        for end in (NodePhase.GONE.value, NodePhase.FAILED.value)
        if end in node.phases
    ]
    if not begins or not gone:
        return None
    at, host = max(gone)
    return host, at - min(begins)


def _timeline(phases: Sequence[Phase], length_s: float, width: int, mark: str) -> Text:
    """The phases within the first ``length_s`` seconds; ``mark`` for all, or empty: each phase's letter."""
    styles = {name: (style, letter) for name, style, letter in _PHASE_STYLE}
    line = Text()
    for column in range(width):
        at = (column + 0.5) * length_s / width
        phase = next((each for each in phases if each.begin_s <= at < each.end_s), None)
        if phase is None or phase.name not in styles:
            line.append(" ")
        else:
            style, letter = styles[phase.name]
            line.append(mark or letter, style)
    return line


def _scale(length_s: float, width: int) -> str:
    end = f"{length_s:.2f} s"
    middle = f"{length_s / 2:.2f}"
    line = "0" + " " * (width - 1)
    at = width // 2
    line = line[:at] + middle + line[at + len(middle) :]
    return line[: width - len(end)] + end
