"""Numbers, durations and exit codes, as people read them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence


def duration(seconds: float) -> str:
    """A duration for people.

    >>> duration(0.84), duration(75), duration(7260)
    ('0.8 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> count(1, "worker"), count(3, "worker")
    ('1 worker', '3 workers')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def shell_code(code: int) -> int:
    """A return code as a shell shows it: 128 + N for a death by signal N.

    >>> shell_code(-9)
    137
    """
    return 128 - code if code < 0 else code


def describe_code(code: int) -> str:
    """A return code in words.

    >>> describe_code(-9)
    'was killed by SIGKILL'
    >>> describe_code(3)
    'ended with code 3'
    """
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def told_once(events: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The events without those that the next one repeats with more to it, as the last line of a run does.

    >>> told_once([(1.0, "the driver ended"), (2.0, "the driver ended; exit code 1")])
    [(2.0, 'the driver ended; exit code 1')]
    """
    following = [text for _, text in events[1:]]
    return [
        event
        for event, after in zip(events, [*following, ""], strict=False)
        if not after.startswith(f"{event[1]};")
    ]
