"""The event log of a record: what happened to a cluster, one JSON object a line.

Only the head appends: O_APPEND of several hosts mixes lines on NFS.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from ..model.record import MAX_TIME_S, Event
from .secrets import Secrets

#: How the event of a failed write begins.
UNWRITTEN = "the record could not be written"

#: How the message of a cluster begins whose end could not be written.
UNWRITTEN_END = "the end could not be written to the record"

#: Above this size the file is set aside, once, as events.log.1.
MAX_BYTES = 1 << 20


class EventLog(Secrets):
    """``events.log`` of a record."""

    def append_event(self, text: str, when: float | None = None) -> bool:
        """Append an event; only the head does.  Never raises: returns whether it was written."""
        path = self.path / "events.log"
        line = json.dumps({"t": round(time.time() if when is None else when, 3), "text": self.masked(text)})
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line.encode() + b"\n")
                if os.fstat(fd).st_size > MAX_BYTES:
                    os.rename(path, path.with_name("events.log.1"))
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def read_events(self, limit: int = 200) -> list[Event]:
        """The last events, oldest first.  A line that is not a whole event is left out."""
        data = b""
        for name in ("events.log.1", "events.log"):
            with contextlib.suppress(OSError):
                fd = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    size = os.fstat(fd).st_size
                    begin = max(0, size - limit * 400)
                    data += os.pread(fd, size - begin, begin)
                finally:
                    os.close(fd)
        events = [event for line in data.split(b"\n") if (event := parse_event(line)) is not None]
        return events[-limit:]

    def unwritten_end(self) -> str:
        """That the head could not write how the cluster ended, and its last event; empty where none says so.

        An event needs less space than a file: it often fits on a disk on which a new file does not.
        """
        texts = [event.text for event in self.read_events(limit=12)]
        failed = [text for text in texts if text.startswith(UNWRITTEN) and "/end.json: " in text]
        if not failed:
            return ""
        error = failed[-1].partition("/end.json: ")[2].partition(".")[0]
        return f"{UNWRITTEN_END}: {error}. The last event: {texts[-1]}"


def parse_event(line: bytes) -> Event | None:
    """An event from its line; None when it is not one.

    >>> parse_event(b'{"t": 1.5, "text": "head up"}')
    Event(when=1.5, text='head up')
    >>> parse_event(b'{"t": NaN, "text": "head up"}') is None
    True
    """
    try:
        values = json.loads(line)
        when, text = values["t"], values["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    number = isinstance(when, (int, float)) and not isinstance(when, bool)
    if not (number and isinstance(text, str)) or not abs(when) <= MAX_TIME_S:
        return None
    return Event(float(when), text)
