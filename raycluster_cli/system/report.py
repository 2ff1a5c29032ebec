"""What raycluster tells people: lines on stderr, the same as events of the record, and texts in them."""

from __future__ import annotations

import os
import shlex
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import TextIO

from ..model.dataclass import dataclass
from ..model.text import printable, without_secrets


def command_text(argv: Sequence[str], most: int = 200) -> str:
    """A command on one line, as a shell would take it, secrets masked; long ones are cut.

    >>> command_text(["python", "a b.py", "x\\ny", "--api-key=7"])
    "python 'a b.py' 'x\\\\ny' --api-key=REDACTED"
    """
    text = printable(shlex.join(without_secrets(argv)))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def say(text: str) -> None:
    """A line on stderr from a command that a person runs."""
    print(f"raycluster: {printable(text)}", file=sys.stderr, flush=True)


def has_open_line(stream: TextIO) -> bool:
    """Whether the last line in the file that a stream writes to has no end: a program left it so.

    Only a file can be asked, as of a batch script; not a pipe, as of srun's tasks, nor a terminal.
    """
    try:
        fd = stream.fileno()
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return False
        # By its own descriptor: this one may be open for writing only.
        with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
            file.seek(found.st_size - 1)
            return file.read(1) not in (b"\n", b"")
    except (OSError, ValueError):
        return False


@dataclass
class Report:
    """Lines on stderr, each made to be read alone in a job's log among others' lines."""

    prefix: str = "raycluster"
    verbose: bool = False
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.time
    on_event: Callable[[float, str], None] | None = None
    """Called with (Unix seconds, text) for all but details: the record's event log."""
    mask: Callable[[str], str] = str
    """Takes secrets out of a text."""

    def say(self, text: str) -> None:
        """Something a person wants to know in a good run.  There are few of these."""
        self._write(text)
        self._event(text)

    def warn(self, text: str) -> None:
        """Something that does not end the cluster but needs attention."""
        self._write(f"warning: {text}")
        self._event(f"warning: {text}")

    def note(self, text: str) -> None:
        """An event that goes to the record, and to the screen only when asked for."""
        if self.verbose:
            self._write(text)
        self._event(text)

    def _event(self, text: str) -> None:
        if self.on_event is not None:
            self.on_event(self.clock(), self.mask(text))

    def _write(self, text: str) -> None:
        try:
            # One write for a line: several tasks of a step share one log file.
            begin = "\n" if has_open_line(self.stream) else ""
            self.stream.write(f"{begin}{self.prefix}: {printable(self.mask(text))}\n")
            self.stream.flush()
        except (OSError, ValueError):
            pass  # the terminal or the log is gone; the work must not end for that
