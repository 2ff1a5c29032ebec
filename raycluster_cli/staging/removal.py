"""What the keeper removes at the end of a node: its copy of the environment, and what told others of it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ..node.staged_copy import read_about, remove_unused
from ..system.keeper_link import KeeperNotes


def clear_copy(notes: KeeperNotes) -> None:
    """Remove the copy unless another process uses it or it is kept, and, after a head, note and pack."""
    if notes.stage_note:
        note = Path(notes.stage_note)
        for path in (note, note.with_suffix(".pack")):
            path.unlink(missing_ok=True)
        for directory in (note.parent, note.parent.parent):
            with contextlib.suppress(OSError):  # another start's note is in it
                os.rmdir(directory)
    if not notes.staged:
        return
    copy = Path(notes.staged)
    if notes.keep_env and read_about(copy):
        return
    done = remove_unused(copy)
    for left in done.left if done else ():
        print(f"raycluster: could not remove {left}", file=sys.stderr, flush=True)
