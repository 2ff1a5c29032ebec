"""A ClusterStatus whose texts cannot act on a terminal: job names, hosts and messages come from outside."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..model.cluster_status import ClusterStatus
from ..model.group_status import GroupStatus
from ..model.text import printable

_Value = TypeVar("_Value")


def safe_status(status: ClusterStatus) -> ClusterStatus:
    """The same with control characters escaped and line breaks as blanks, nodes and events included.

    The driver's arguments stay as they are: only report.command_text shows them, which escapes them itself.
    """
    return dataclasses.replace(_safe(status), driver=status.driver)


def safe_groups(groups: Sequence[GroupStatus]) -> tuple[GroupStatus, ...]:
    """The same for worker groups: Slurm's reasons and hosts come from outside."""
    return _safe(tuple(groups))


def _safe(value: _Value) -> _Value:
    """The value itself where there is nothing to change: of 500 nodes on a screen nearly always."""
    changed: Any = value
    if isinstance(value, str):  # members of an Enum are as the project wrote them
        changed = value if value.isprintable() else safe_text(value)
    elif isinstance(value, tuple):
        each = [_safe(one) for one in value]
        changed = value if all(map(operator.is_, each, value)) else tuple(each)
    elif isinstance(value, Mapping):
        if not all(type(one) is not str or one.isprintable() for pair in value.items() for one in pair):
            changed = {_safe(name): _safe(one) for name, one in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = vars(value)
        changes = {name: new for name, one in old.items() if (new := _safe(one)) is not one}
        changed = dataclasses.replace(value, **changes) if changes else value
    return changed  # type: ignore[no-any-return]


def safe_text(text: str) -> str:
    r"""
    >>> safe_text("worker\n  lost \x1b[2J")
    'worker lost \\x1b[2J'
    """
    return printable(" ".join(text.split()))
