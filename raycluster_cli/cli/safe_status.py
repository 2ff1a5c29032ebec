"""A ClusterStatus whose texts cannot act on a terminal: job names, hosts and messages come from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from ..model.status import ClusterStatus
from ..model.text import printable

_Value = TypeVar("_Value")


def safe_status(status: ClusterStatus) -> ClusterStatus:
    """The same with control characters escaped and line breaks as blanks, nodes and events included.

    The driver's arguments stay as they are: only report.command_text shows them, which escapes them itself.
    """
    return dataclasses.replace(_safe(status), driver=status.driver)


def _safe(value: _Value) -> _Value:
    changed: Any = value
    if isinstance(value, str):
        changed = value if type(value) is not str or value.isprintable() else safe_text(value)
    elif isinstance(value, tuple):
        changed = tuple(_safe(each) for each in value)
    elif isinstance(value, Mapping):
        changed = {_safe(name): _safe(each) for name, each in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        changes = {name: new for name, old in fields.items() if (new := _safe(old)) is not old}
        changed = dataclasses.replace(value, **changes) if changes else value
    return changed  # type: ignore[no-any-return]


def safe_text(text: str) -> str:
    r"""
    >>> safe_text("worker\n  lost \x1b[2J")
    'worker lost \\x1b[2J'
    """
    return printable(" ".join(text.split()))
