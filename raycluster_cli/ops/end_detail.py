"""What exactly ended a cluster: as its record says, and for older records by the text of its message."""

from __future__ import annotations

from ..model.record import EndReport
from ..model.status import EndDetail, EndReason
from .post_mortem import NodeEnd

#: What messages of ends had in versions whose records have no detail.
_TEXTS = {
    EndDetail.NEVER_CONNECTED: "no driver has connected to this cluster",
    EndDetail.ALL_AT_ONCE: "and all of its processes ended at once without reporting",
    EndDetail.KEEPER_TOO: "raycluster's supervisor and keeper",
    EndDetail.NOTHING_LISTENS: "nothing listens",
    EndDetail.NOT_FOUND: "is answered with 404",
    EndDetail.SIGINT: "ended by SIGINT",
    EndDetail.SIGHUP: "ended by SIGHUP",
    EndDetail.SIGTERM: "ended by SIGTERM",
}

_PROCESSES = {EndReason.KEEPER_KILLED.value: "keeper", EndReason.SUPERVISOR_KILLED.value: "supervisor"}


def end_detail(end: EndReport, failed: NodeEnd | None = None) -> str:
    """Value of status.EndDetail, or empty.  ``failed``: the last report of the host that caused the end.

    >>> end_detail(EndReport(1.0, 130, "signal", "n1", "ended by SIGINT"))
    'sigint'
    """
    if end.detail or (failed is not None and failed.detail):
        return end.detail or (failed.detail if failed is not None else "")
    return next((detail.value for detail, text in _TEXTS.items() if text in end.message), "")


def killed_process(end: EndReport, failed: NodeEnd | None = None) -> str:
    """Which process of raycluster was killed on the head or on the worker that was lost; empty for none."""
    for reason in (end.reason, failed.reason if failed is not None else ""):
        if reason in _PROCESSES:
            return f"raycluster's {_PROCESSES[reason]}"
    for name in _PROCESSES.values():
        if f"raycluster's {name} on {end.failed_host} was killed" in end.message:  # of older records
            return f"raycluster's {name}"
    return ""
