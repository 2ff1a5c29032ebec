"""The errors that users can cause or meet, and the exit codes of the commands.

Expected errors are :class:`RayclusterError`.  The command line catches them once, prints ``message`` and
``hint`` on one line and exits with ``exit_code``.  Any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import enum
import errno


class ExitCode(enum.IntEnum):
    """The exit codes of the commands; the README has the same table.

    The driver's own exit code is passed on.  A shell cannot tell 3 from a driver and 3 from raycluster apart,
    so the last line on stderr says which it was.
    """

    OK = 0
    """The work completed, or the cluster was stopped on purpose."""
    FAILURE = 1
    """A failure that has no code of its own."""
    USAGE = 2
    """An option, a variable or a file of the user's cannot be used."""
    HEAD_FAILED = 3
    """The head failed to start."""
    WORKERS_MISSING = 4
    """Workers were missing at the deadline, or a worker found no head."""
    UNHEALTHY = 5
    """A running cluster lost a worker or its head."""
    SIGINT = 130
    """Stopped by SIGINT (Ctrl-C)."""
    SIGTERM = 143
    """Stopped by SIGTERM (scancel, the time limit, preemption)."""


class RayclusterError(RuntimeError):
    """An error with a message, a hint and an exit code.

    ``message`` says what happened, what was found and what was needed; ``hint`` says what to do next and can
    be empty.  Both are whole sentences.
    """

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UsageError(RayclusterError):
    """An option, a variable or a file of the user's cannot be used: exit code 2."""

    exit_code = ExitCode.USAGE


class HeadStartError(RayclusterError):
    """The head failed to start: exit code 3."""

    exit_code = ExitCode.HEAD_FAILED


class WorkersMissingError(RayclusterError):
    """Workers did not join in time, or a worker found no head: exit code 4."""

    exit_code = ExitCode.WORKERS_MISSING


class ClusterUnhealthyError(RayclusterError):
    """A running cluster lost a node that it needs: exit code 5."""

    exit_code = ExitCode.UNHEALTHY


def error_text(error: BaseException) -> str:
    """An error as part of a message: of one that users can cause only its text, of others its kind too.

    >>> error_text(RayclusterError("Slurm refused it.", "Ask for less."))
    'Slurm refused it. Ask for less.'
    >>> error_text(KeyError("port"))
    "KeyError: 'port'"
    """
    return str(error) if isinstance(error, RayclusterError) else f"{type(error).__name__}: {error}"


def in_words(error: OSError) -> str:
    """Why a directory cannot be used, as part of a message.

    >>> in_words(OSError(errno.ENOSPC, "No space left on device"))
    'it is full'
    """
    return {
        errno.ENOSPC: "it is full",
        errno.EDQUOT: "your disk quota is exhausted",
        errno.EROFS: "it is read-only",
        errno.EACCES: "you have no permission to write there",
        errno.EPERM: "you have no permission to write there",
        errno.ENOENT: "there is no such directory",
        errno.ELOOP: "it is a loop of symbolic links",
    }.get(error.errno or 0, error.strerror or str(error))
