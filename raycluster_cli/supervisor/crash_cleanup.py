"""The keeper's work after a crash of the supervisor: report it, keep the logs, remove the directory.

By then every process of the node has been ended; see keeper.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from ..model.errors import RayclusterError
from ..model.record import EndReport, ProcessDeath
from ..model.status import EndReason, NodePhase, Role
from ..node.log_archive import copy_logs
from ..node.sweep import sweep_root, sweep_stale
from ..state.record import Record
from ..system.cgroups import oom_kills
from ..system.keeper_link import KeeperNotes


def report_crash(notes: KeeperNotes, message: str, code: int, detail: str = "") -> None:
    """Write to the record how the supervisor ended, and copy the node's logs to it.

    ``code``: the supervisor's, as subprocess gives it; ``detail``: value of status.EndDetail.  A record that
    is missing or cannot be written is no error: there is no other place to report it.
    """
    with contextlib.suppress(RayclusterError, OSError):
        _write_reports(Record.open(Path(notes.record)), notes, message, code, detail)
    if notes.worker_jobs:
        from .worker_job_ends import cancel_after_crash  # of a head with worker groups only

        with contextlib.suppress(OSError):
            cancel_after_crash(Path(notes.record), notes.worker_jobs)
    if notes.keep_logs != "never" and notes.node_root:
        with contextlib.suppress(RayclusterError, OSError):
            log_dir = Record.open(Path(notes.record)).log_dir(notes.host)
            copy_logs(Path(notes.node_root), log_dir)


def clear_node(notes: KeeperNotes) -> None:
    """Remove the node's directory."""
    if not notes.node_root:
        return
    root = Path(notes.node_root)
    with contextlib.suppress(OSError):
        sweep_root(root)
        # `run --local`: its workers were children of the supervisor, and their keepers are ended too.
        sweep_stale({}, only_bases=[root.parent])


def _write_reports(record: Record, notes: KeeperNotes, message: str, code: int, detail: str) -> None:
    """Write the cluster's end first: other nodes look for it before they report a lost head."""
    host, now = notes.host, time.time()
    exit_code = 128 - code if code < 0 else code
    reason = (EndReason.SUPERVISOR_KILLED if code < 0 else EndReason.BUG).value
    if notes.role == Role.HEAD.value and record.read_end() is None:
        end = EndReport(now, exit_code, reason, host, message, detail)
        record.write_end(end)
        if notes.step and record.read_head() is None:
            record.write_refusal(notes.step, end)
    report = record.read_node(host)
    if report is None or report.has_ended:
        return
    record.write_node(
        replace(
            report,
            phase=NodePhase.FAILED.value,
            phases={**report.phases, NodePhase.FAILED.value: now},
            message=message,
            exit_code=exit_code,
            updated=now,
            reason=reason,
            detail=detail,
            deaths=(*report.deaths, ProcessDeath("raycluster", report.pid, code, now)),
            oom_kills=oom_kills(),
        )
    )
