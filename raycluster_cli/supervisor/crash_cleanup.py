"""What the keeper does when the supervisor was killed: the directory, and the last words.

By then every process of the node has been ended; see keeper.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..model.errors import RayclusterError
from ..model.record import EndReport, ProcessDeath
from ..model.status import NodePhase, Role
from ..node.log_archive import copy_logs
from ..node.sweep import sweep_root, sweep_stale
from ..state.record import Record
from ..system.cgroups import oom_kills


def record_killed_supervisor(notes: Mapping[str, str], message: str, exit_code: int) -> None:
    """Keep the logs, remove the node's directory, and write how it ended.  Never raises what a full
    disk or a missing record can cause: there is nobody left to tell."""
    root = Path(notes["node_root"]) if notes.get("node_root") else None
    with contextlib.suppress(RayclusterError, OSError):
        if notes.get("record"):
            _write_reports(Record.open(Path(notes["record"])), notes, message, exit_code)
    with contextlib.suppress(RayclusterError, OSError):
        if notes.get("record") and notes.get("keep_logs") != "never" and root is not None:
            copy_logs(root, Record.open(Path(notes["record"])).log_dir(notes["host"]))
    if root is not None:
        with contextlib.suppress(OSError):
            sweep_root(root)
            # `run --local`: its workers were children of the killed one, and their keepers are ended too.
            sweep_stale({}, only_bases=[root.parent])


def _write_reports(record: Record, notes: Mapping[str, str], message: str, exit_code: int) -> None:
    """The end first: other nodes wait for it before they believe in a loss."""
    host, now = notes["host"], time.time()
    if notes.get("role") == Role.HEAD.value and record.read_end() is None:
        end = EndReport(now, exit_code, "supervisor-killed", host, message)
        record.write_end(end)
        if notes.get("step") and record.read_head() is None:
            record.write_refusal(notes["step"], end)
    word = record.read_node(host)
    if word is None:
        return
    death = ProcessDeath("raycluster", word.pid, 128 - exit_code, now)
    record.write_node(
        replace(
            word,
            phase=NodePhase.FAILED.value,
            phases={**word.phases, NodePhase.FAILED.value: now},
            message=message,
            exit_code=exit_code,
            updated=now,
            deaths=(*word.deaths, death),
            oom_kills=oom_kills(),
        )
    )
