"""Many nodes on a screen: a line for each state, and one character for each node."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ..model.cluster_status import ClusterStatus, NodeStatus
from ..model.status import ON_THE_WAY, NodePhase
from .drawing import BUSY, Glyphs, bar, fit
from .node_table import hosts_of, ordered, state_style, total_usage


def group_lines(status: ClusterStatus, width: int, glyphs: Glyphs) -> list[Text]:
    """The nodes summed up: a line for each state, with the hosts as a list."""
    groups: dict[str, list[NodeStatus]] = {}
    for node in ordered(status):
        groups.setdefault(node.label, []).append(node)
    lines = []
    for state, nodes in groups.items():
        lead = Text.assemble(f" {len(nodes):>5} ", (f"{state:<17}", state_style(nodes[0])))
        use = total_usage(nodes)
        if use is not None and width >= 70:
            share = use.cpus_used / use.cpus_total if use.cpus_total else 0.0
            lead.append_text(
                Text.assemble(("CPU ", "dim"), bar(share, 6, glyphs, BUSY), f" {share * 100:3.0f}%  ")
            )
        lead.append_text(Text(hosts_of(nodes), "dim"))
        lines.append(fit(lead, width, glyphs))
    return lines


def map_lines(status: ClusterStatus, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """One character for each node: how busy its CPUs (or GPUs) are, or what is wrong with it."""
    if height < 2:
        return []
    columns_ = max(width - 2, 1)
    nodes = list(status.nodes)
    room = (height - 1) * columns_
    per_character = -(-len(nodes) // room) if room else 1
    lines = []
    line = Text(" ")
    for start in range(0, len(nodes), per_character):
        line.append_text(_sign(nodes[start : start + per_character], glyphs))
        if line.cell_len > columns_:
            lines.append(fit(line, width, glyphs))
            line = Text(" ")
    if line.cell_len > 1:
        lines.append(fit(line, width, glyphs))
    each = "node" if per_character == 1 else f"{per_character} nodes"
    each += " (the worst of them)" if per_character > 1 and width >= 100 else ""
    bad = "lost, failed" if width >= 90 else "lost"
    key = (
        f" one character per {each}: {glyphs.levels[0]} idle {glyphs.levels[-1]} busy "
        f"{glyphs.way[0]}{glyphs.way[-1]} starting {glyphs.bad} {bad} {glyphs.silent} not reported"
    )
    return [*lines, fit(Text(key, "dim"), width, glyphs)]


def _sign(nodes: Sequence[NodeStatus], glyphs: Glyphs) -> Text:
    worst = min(nodes, key=lambda node: (not node.is_problem, node.is_member))
    if worst.is_problem:
        return Text(glyphs.bad, "bold red")
    if worst.phase is NodePhase.NOT_REPORTED:
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
