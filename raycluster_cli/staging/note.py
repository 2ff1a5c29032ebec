"""What a head tells its workers about the copy: a file in the state directory, replaced as a whole.

``<state directory>/.environments/<Slurm cluster>/<key>/<launch>.json``, and beside it the pack.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..model.errors import RayclusterError
from ..state.files import read_bytes, write_whole
from ..system.removal import remove_tree

DIRECTORY = ".environments"

#: The states of a note.
SEARCHING, PACKING, READY, SHARED = "searching", "packing", "ready", "shared"

POLL_S = 0.2

#: How often a head changes its note.
BEAT_S = 2.0

#: How long notes and packs of another start are left alone.
KEEP_S = 3 * 86400.0


def note_path(state_dir: Path, slurm_cluster: str, key: str, launch: str) -> Path:
    """Where the note of one start is."""
    name = re.sub(r"[^A-Za-z0-9._+-]", "_", launch) or "head"
    return state_dir / DIRECTORY / slurm_cluster / key / f"{name}.json"


def remove_old(directory: Path, *, older_than_s: float = KEEP_S, now: float | None = None) -> list[Path]:
    """Remove notes and packs of heads whose nodes lost power: their directories, unchanged for this long.

    ``directory``: of one Slurm cluster.  A worker that still wants such a pack makes its own copy.
    """
    before = (time.time() if now is None else now) - older_than_s
    removed = []
    for path in directory.iterdir():
        if max((each.lstat().st_mtime for each in (path, *path.iterdir())), default=0.0) < before:
            remove_tree(path)
            removed.append(path)
    return removed


class NoteWriter:
    """The head's side.

    As a context it writes the note anew every two seconds in which something was done: on a slow file system
    a look at all files takes minutes, and on one that does not answer it takes for ever.
    """

    def __init__(self, path: Path | None, *, beat_s: float = BEAT_S) -> None:
        self.path = path
        self._content: dict[str, Any] = {}
        self._beat = 0
        self._done = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._go_on, args=(beat_s,), daemon=True)

    def __enter__(self) -> NoteWriter:
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._beating.join()

    def write(self, **changes: Any) -> None:
        """Change the note.  Raises RayclusterError where it cannot be written."""
        if self.path is None:
            return
        with self._lock:
            self._beat += 1
            self._content |= changes
            os.makedirs(self.path.parent, mode=0o700, exist_ok=True)
            write_whole(self.path, json.dumps(self._content | {"beat": self._beat}).encode())

    def moved(self) -> None:
        """A part of the work is done.  May be called by any thread."""
        self._done += 1

    def _go_on(self, beat_s: float) -> None:
        told = -1
        while not self._over.wait(beat_s):
            if self._done != told:
                told = self._done
                with contextlib.suppress(RayclusterError, OSError):
                    self.write()


class NoHead(Exception):
    """No head has written a note, or it stopped writing."""


def wait_for_note(
    path: Path,
    enough: Callable[[Mapping[str, Any]], bool],
    *,
    first_s: float,
    silent_s: float,
    poll_s: float = POLL_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """The note, once it says enough.

    Raises NoHead when there is none within ``first_s``, or when it has not changed for ``silent_s``.
    """
    begun = seen = clock()
    beat = None
    while True:
        text = read_bytes(path)
        note: dict[str, Any] = {}
        if text:
            try:
                note = json.loads(text)
            except ValueError:
                note = {}
        now = clock()
        if note and enough(note):
            return note
        if note and note.get("beat") != beat:
            beat, seen = note.get("beat"), now
        if beat is None and now - begun > first_s:
            raise NoHead(f"the head did not say within {first_s:g} s which copy to use")
        if beat is not None and now - seen > silent_s:
            raise NoHead(f"the head has not reported for {silent_s:g} s")
        sleep(poll_s)
