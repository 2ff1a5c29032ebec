"""A cluster in a notebook and in an interpreter: text and HTML made of its status."""

from __future__ import annotations

from html import escape

from ..model.cluster_status import ClusterStatus

#: Nodes that a table shows; more are counted.
MOST_NODES = 32


def as_text(kind: str, status: ClusterStatus | None, name: str) -> str:
    """One line: what kind of cluster, which, and its state.

    >>> as_text("SlurmCluster", None, "")
    '<SlurmCluster: not started>'
    """
    if not name:
        return f"<{kind}: not started>"
    return f"<{kind} {name}: {status.headline if status is not None else 'not known'}>"


def as_html(kind: str, status: ClusterStatus | None, name: str) -> str:
    """A heading, the facts, and a table of the nodes.  All texts are escaped."""
    if status is None:
        return f"<b>{escape(as_text(kind, status, name)[1:-1])}</b>"
    facts = {
        "state": f"{status.phase.value}: {status.headline}",
        "address": status.address,
        "server": status.service.url if status.service is not None else "",
        "exit code": str(status.exit_code) if status.is_over and status.exit_code is not None else "",
    }
    rows = "".join(
        f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{escape(value)}</td></tr>"
        for name, value in facts.items()
        if value
    )
    return f"<b>{escape(kind)} {escape(status.title)}</b><table>{rows}</table>{_nodes(status)}"


def _nodes(status: ClusterStatus) -> str:
    if not status.nodes:
        return ""
    cells = [(node.host, node.role.value, node.label, node.message) for node in status.nodes[:MOST_NODES]]
    rows = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in cells
    )
    head = "".join(
        f"<th style='text-align:left'>{title}</th>" for title in ("node", "role", "state", "last report")
    )
    left = len(status.nodes) - len(cells)
    more = f"<p>and {left} more</p>" if left else ""
    return f"<table><tr>{head}</tr>{rows}</table>{more}"
