"""Which signals reach Ray's daemons: what is meant for the driver does not end them."""

from __future__ import annotations

import signal

from ..system.keeper_link import IGNORED_BY_RAY


def ignore_user_signals() -> None:
    """For a child before its exec: SIGINT is blocked, what is meant for the driver is ignored.

    As Ray and the companion have it for GCS and raylet.  `--signal=USR1@300` and `scancel --signal=INT` reach
    every process of a step.  Neither call needs a lock that another thread may hold.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for number in IGNORED_BY_RAY:
        signal.signal(number, signal.SIG_IGN)
