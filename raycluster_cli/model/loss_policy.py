"""What a cluster does when it loses a worker: the value of --on-worker-loss, parsed here and nowhere else."""

from __future__ import annotations

import enum
import re

from .errors import UsageError
from .value import Value


class WorkerLossAction(str, enum.Enum):
    """What to do when a worker is lost.  The values are the words of the option."""

    FAIL = "fail"
    """End the cluster with exit code 5."""
    CONTINUE = "continue"
    """Go on with the workers that are left, as long as there are --min-workers of them."""
    WAIT = "wait"
    """Wait for a replacement; end the cluster when none has joined in time."""


class WorkerLossPolicy(Value):
    """A parsed --on-worker-loss."""

    kind: WorkerLossAction
    wait_s: float = 0.0
    """How long to wait for a replacement, in seconds; 0 unless ``kind`` is WAIT."""

    @classmethod
    def parse(cls, text: str) -> WorkerLossPolicy:
        """Read ``fail``, ``continue`` or ``wait:SECONDS``.  Raises UsageError.

        >>> WorkerLossPolicy.parse("wait:60").wait_s
        60.0
        """
        kind, colon, seconds = text.partition(":")
        if kind in ("fail", "continue") and not colon:
            return cls(WorkerLossAction(kind))
        if kind == "wait" and re.fullmatch(r"\d{1,9}(\.\d{1,6})?", seconds, re.ASCII):
            return cls(WorkerLossAction.WAIT, float(seconds))
        raise UsageError(
            f"--on-worker-loss is {text!r}; it must be fail, continue or wait:SECONDS.",
            "For example: --on-worker-loss wait:120.",
        )
