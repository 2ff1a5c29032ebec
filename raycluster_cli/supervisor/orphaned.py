"""What clears a node whose supervisor and keeper were both killed.

One of Ray's agents notices that the supervisor has ended (rayproc.lazy_agent) and starts this.  While the
keeper lives, the node is the keeper's, and this process ends.  Otherwise it does the same as the keeper does
after a crash: the record first, since the other nodes look there, then the processes and the directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from ..model.errors import RayclusterError
from ..model.status import EndDetail, Role
from ..node.directory import ORPHANED
from ..node.staged_copy import remove_own_copy
from ..node.sweep import keeper_is_alive
from ..state.record import Record
from ..system.keeper_link import KeeperNotes
from .crash_cleanup import clear_node, report_crash
from .keeper import RECORD_WAIT_S, in_child

#: How long a keeper may take to end this process: it ends all that its supervisor has left.
KEEPER_S = 10.0

POLL_S = 0.05


def main(root: str) -> None:
    """Clear the node whose directory is ``root``; of several agents that start this the first does it."""
    try:
        notes = KeeperNotes.from_known(json.loads((Path(root) / ORPHANED).read_text())["notes"])
    except OSError:
        return  # the node was cleared already
    deadline = time.monotonic() + KEEPER_S
    while keeper_is_alive(Path(root)):
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_S)
    try:
        os.close(os.open(f"{root}/.cleared", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return
    message = f"raycluster's supervisor and keeper on {notes.host} were killed"

    def report() -> None:
        with contextlib.suppress(RayclusterError, OSError):
            _tell_loss(Record.open(Path(notes.record)), notes)
        report_crash(notes, message, -signal.SIGKILL, EndDetail.KEEPER_TOO.value)

    if notes.record:
        in_child(report, RECORD_WAIT_S)
    clear_node(notes)
    remove_own_copy(sys.prefix)


def _tell_loss(record: Record, notes: KeeperNotes) -> None:
    """Tell the head, so that it need not wait until the GCS notices the loss of this node."""
    report = record.read_node(notes.host)
    if notes.role == Role.WORKER.value and report is not None and report.node_id:
        record.tell_loss(report.node_id)
