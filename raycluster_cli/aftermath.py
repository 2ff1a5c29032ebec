"""What the keeper does when the supervisor was killed: the directory, and the last words.

By then every process of the node has been ended; see keeper.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .errors import RayclusterError
from .evidence import copy_logs
from .node_root import sweep_root
from .record import EndWord, Record
from .status import NodePhase, Role


def record_killed_supervisor(notes: Mapping[str, str], message: str, exit_code: int) -> None:
    """Keep the logs, remove the node's directory, and write how it ended.  Never raises what a full
    disk or a missing record can cause: there is nobody left to tell."""
    root = Path(notes["node_root"]) if notes.get("node_root") else None
    with contextlib.suppress(RayclusterError, OSError):
        if notes.get("record"):
            record = Record.open(Path(notes["record"]))
            host = notes["host"]
            if root is not None:
                copy_logs(root, record.log_dir(host))
            word = record.read_node(host)
            if word is not None:
                now = time.time()
                phases = {**word.phases, NodePhase.FAILED.value: now}
                record.write_node(
                    replace(
                        word,
                        phase=NodePhase.FAILED.value,
                        phases=phases,
                        message=message,
                        exit_code=exit_code,
                        updated=now,
                    )
                )
            if notes.get("role") == Role.HEAD.value and record.read_end() is None:
                record.write_end(EndWord(time.time(), exit_code, "supervisor-killed", host, message))
    if root is not None:
        with contextlib.suppress(OSError):
            sweep_root(root)
