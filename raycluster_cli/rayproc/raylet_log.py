"""What a raylet's own log says: that it is registered, and why it ended."""

from __future__ import annotations

import os
import re


def drain_reason(raylet_out: str) -> str | None:
    """The reason that the head gave when it drained this raylet; None when it did not drain it.

    From raylet.out, in the words of Ray 2.52 to 2.60.  The exit code does not tell: it is 0 after a drain,
    after SIGTERM, and also when the raylet ended itself because one of its agents had died.

    >>> drain_reason("[..] node_manager.cc:2036: Drain raylet RPC has been received. Deadline is 0. "
    ...              "Drain reason: DRAIN_NODE_REASON_PREEMPTION. Drain reason message: the driver completed")
    'the driver completed'
    """
    match = re.search(r"Drain raylet RPC.*Drain reason message: (.*)", raylet_out)
    return match[1].strip() if match else None


def read_drain_reason(path: str, most_bytes: int = 65536) -> str | None:
    """:func:`drain_reason` of the end of a raylet.out; None also when the file cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - most_bytes, 0))
            return drain_reason(file.read().decode("utf-8", "replace"))
    except OSError:
        return None


def says_registered(raylet_out: str, node_id: str) -> bool:
    """Whether a raylet says that the GCS has registered it, in the words of Ray 2.52 to 2.60.

    >>> says_registered("[..] node_manager.cc:355: Raylet of id, ab12 started. Raylet consists of ..", "ab12")
    True
    """
    return f"Raylet of id, {node_id} started" in raylet_out


def is_registered(path: str, node_id: str, most_bytes: int = 65536) -> bool:
    """:func:`says_registered` of the begin of a raylet.out; false also when the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return says_registered(file.read(most_bytes).decode("utf-8", "replace"), node_id)
    except OSError:
        return False
