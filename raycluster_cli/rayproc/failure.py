"""How a start of Ray fails: of which kind, found by the text that Ray prints and logs."""

from __future__ import annotations

from typing import Literal

FailureKind = Literal[
    "refused", "no route", "timed out", "wrong cluster", "version mismatch", "auth", "ports", "ray"
]

# Text that Ray logs or prints, the kind of failure, and what it means; the first match counts.
_TEXTS: tuple[tuple[str, FailureKind, str], ...] = (
    ("Version mismatch", "version mismatch", "Ray or Python differs between head and node."),
    ("InvalidAuthToken", "auth", "The cluster refused the authentication token."),
    ("UNAUTHENTICATED", "auth", "The cluster refused the authentication token."),
    ("Unauthenticated", "auth", "The cluster refused the authentication token."),
    ("Authentication token", "auth", "The authentication token is missing or wrong."),
    ("does not match persisted value", "ports", "The GCS port belongs to another cluster."),
    ("Address already in use", "ports", "Another process uses a port of this node."),
    ("address already in use", "ports", "Another process uses a port of this node."),
    ("already running at", "ports", "Another Ray uses the GCS port."),
    ("is used by other components", "ports", "Two components were given the same port."),
    ("No available ports", "ports", "Too few ports for worker processes."),
    ("cannot exceed 107 bytes", "ray", "The temporary directory's path is too long for Ray's sockets."),
    ("No space left on device", "ray", "A file system is full."),
    ("Resource temporarily unavailable", "ray", "The limit of processes (ulimit -u) is reached."),
    ("Too many open files", "ray", "The limit of open files (ulimit -n) is reached."),
    ("ermission denied", "ray", "Permission to use a file or directory is denied."),
    ("Timed out while waiting for GCS", "timed out", "The GCS did not answer in time."),
    ("timed out during startup", "timed out", "The raylet did not register with the GCS in time."),
)


def explain(text: str) -> tuple[FailureKind, str] | None:
    """The likely cause of a failed start, from what Ray printed and logged.

    >>> explain("... Check failed: ... Address already in use")
    ('ports', 'Another process uses a port of this node.')
    """
    for needle, kind, meaning in _TEXTS:
        if needle in text:
            return kind, meaning
    return None


class StartFailure(Exception):
    """A failed start: its kind, one line that says what happened, and the log to read.

    Not a RayclusterError: the supervisor decides whether to try again.
    """

    def __init__(self, kind: FailureKind, message: str, log: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.log = log

    @classmethod
    def from_text(cls, text: str, *, default: tuple[FailureKind, str], log: str = "") -> StartFailure:
        """The failure that ``text`` (Ray's output and logs) shows, with its line; else ``default``.

        With the latter goes the line by which one of Ray's daemons has ended itself, where there is one.
        """
        known = explain(text)
        if known is None:
            from ..model.log_lines import fatal_text, shortened  # only a start that fails pays for it

            kind, message = default
            fatal = fatal_text(text)
            return cls(kind, f"{message} Ray said: {shortened(fatal)}" if fatal else message, log)
        needle = next(one for one, _, _ in _TEXTS if one in text)
        line = next(line.strip() for line in text.splitlines() if needle in line)
        return cls(known[0], f"{known[1]} Ray said: {line[:300]}", log)
