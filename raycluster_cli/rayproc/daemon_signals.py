"""Which signals reach Ray's daemons: what is meant for the driver does not end them."""

from __future__ import annotations

import signal


def ignore_user_signals() -> None:
    """For a child before its exec: SIGINT is blocked, SIGUSR1 and SIGUSR2 are ignored.

    As Ray and the companion have it for GCS and raylet.  `--signal=USR1@300` and `scancel --signal=INT` reach
    every process of a step.  Neither call needs a lock that another thread may hold.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
