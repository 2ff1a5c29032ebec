"""What a raylet's own log says about why it ended."""

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
