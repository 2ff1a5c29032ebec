"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SLOWER = float(os.environ.get("RAYCLUSTER_SLOWER", "1"))
"""How many times longer than usual things may take: for emulated machines (:mod:`tests.bed.machine`)."""


def wait_until(
    condition: Callable[[], T | None], *, timeout_s: float, what: str, interval_s: float = 0.1
) -> T:
    """Asks ``condition`` until it says something true, and gives that back.

    Raises AssertionError with ``what`` and the last answer when that does not happen within
    ``timeout_s`` times SLOWER; an exception of ``condition`` ends the wait at once.
    """
    timeout_s *= SLOWER
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s (last answer: {answer!r})")
        time.sleep(interval_s)
    return answer
