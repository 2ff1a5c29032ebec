"""Lengths of time as people write them: 30m, 1h30m, 45."""

from __future__ import annotations

import re

from .errors import UsageError

_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", re.IGNORECASE)
_UNITS_S = (86400.0, 3600.0, 60.0, 1.0)


def parse_span_s(option: str, text: str) -> float:
    """Seconds; a number without a unit is one of seconds.  Raises UsageError.

    >>> parse_span_s("--idle-timeout", "1h30m"), parse_span_s("--idle-timeout", "20")
    (5400.0, 20.0)
    """
    found = _SPAN.fullmatch(text.strip())
    if not text.strip() or found is None:
        raise UsageError(f"{option} is {text!r}; it must be a time such as 30m, 1h30m or 45s.")
    return sum(float(part) * unit_s for part, unit_s in zip(found.groups(), _UNITS_S, strict=True) if part)
