"""The errors that a user can cause or meet, and the exit codes that they end with.

Every error that leaves the core is a :class:`RayclusterError`.  The command line
catches it once, prints one line made of ``message`` and ``hint``, and ends with
``exit_code``.  Any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import enum
import errno


class ExitCode(enum.IntEnum):
    """What the commands end with; the same table stands in the README.

    With a driver, its own code is passed on: 3 from a driver and 3 from
    raycluster look alike to a shell, so the last line on stderr names which it was.
    """

    OK = 0
    """The work ended well, or the cluster was ended on purpose."""
    FAILURE = 1
    """Something failed that has no code of its own."""
    USAGE = 2
    """An option, a variable or a file given by the user cannot be used."""
    HEAD_FAILED = 3
    """The head did not start."""
    WORKERS_MISSING = 4
    """Workers were missing at the deadline, or a worker found no head."""
    UNHEALTHY = 5
    """A running cluster lost a node or its head."""
    SIGINT = 130
    """Ended by SIGINT (Ctrl-C)."""
    SIGTERM = 143
    """Ended by SIGTERM (scancel, the time limit, preemption)."""


class RayclusterError(RuntimeError):
    """An error with a message, a hint and an exit code.

    ``message`` says what happened, what was found and what was needed;
    ``hint`` says what to do next (may be empty).
    """

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UsageError(RayclusterError):
    """Something the user gave cannot be used: exit code 2."""

    exit_code = ExitCode.USAGE


class HeadStartError(RayclusterError):
    """The head did not start: exit code 3."""

    exit_code = ExitCode.HEAD_FAILED


class WorkersMissingError(RayclusterError):
    """Workers did not come, or a worker found no head: exit code 4."""

    exit_code = ExitCode.WORKERS_MISSING


class ClusterUnhealthyError(RayclusterError):
    """A running cluster lost what it cannot do without: exit code 5."""

    exit_code = ExitCode.UNHEALTHY


def in_words(error: OSError) -> str:
    """Why a directory will not do, for people.

    >>> in_words(OSError(errno.ENOSPC, "No space left on device"))
    'it is full'
    """
    return {
        errno.ENOSPC: "it is full",
        errno.EDQUOT: "your quota there is used up",
        errno.EROFS: "it is read-only",
        errno.EACCES: "you may not write there",
        errno.EPERM: "you may not write there",
        errno.ENOENT: "there is no such directory",
        errno.ELOOP: "its links go round in circles",
    }.get(error.errno or 0, error.strerror or str(error))
