"""Whether one setting has a value that it may have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .errors import UsageError
from .option_text import parse_size_bytes


def check_value(option: str, value: Any, kind: Mapping[str, Any]) -> None:
    """Check a value by itself, without the other settings.  Raises UsageError.

    ``kind`` is the metadata of its field in :class:`.settings.Settings`: ``unit`` (port, span, size),
    ``usual`` (a span's default), ``least`` and ``choices``.
    """
    if kind.get("unit") == "port" and value is not None and not 1 <= value <= 65535:
        raise UsageError(
            f"{option} is {value}; a port is a number from 1 to 65535.",
            "Leave the option out, and raycluster chooses a free port.",
        )
    if kind.get("unit") == "span" and value and value != kind["usual"]:
        from .time_span import parse_span_s  # a start without such an option does not import it

        parse_span_s(option, value)
    if kind.get("unit") == "size" and value:
        parse_size_bytes(option, value)
    if isinstance(value, bool):
        return
    least = kind.get("least", 0)
    if isinstance(value, float) and not (math.isfinite(value) and value >= least):
        raise UsageError(f"{option} is {value:g}; it must be a number of seconds, {least:g} or more.")
    if isinstance(value, int) and value < least:
        raise UsageError(f"{option} is {value}; it must be {least:g} or more.")
    choices = kind.get("choices")
    if choices and value not in choices:
        raise UsageError(f"{option} is {value!r}; it must be one of {', '.join(choices)}.")
