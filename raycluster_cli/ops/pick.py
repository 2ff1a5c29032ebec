"""Which clusters a person wants to see in the list: by state, and by when they ran."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.errors import UsageError

_UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S")


@dataclass(frozen=True)
class Pick:
    """The clusters that are wanted; without states and time all of them."""

    phases: frozenset[ClusterPhase] = frozenset()
    since: float | None = None
    """Unix seconds."""

    def __bool__(self) -> bool:
        return bool(self.phases) or self.since is not None

    @classmethod
    def parse(cls, states: str, since: str, now: float | None = None) -> Pick:
        """From --state and --since.  Raises UsageError.

        >>> Pick.parse("failed, lost", "").phases == {ClusterPhase.FAILED, ClusterPhase.LOST}
        True
        """
        phases = {_phase(name.strip()) for name in states.split(",") if name.strip()}
        return cls(frozenset(phases), parse_since(since, time.time() if now is None else now))

    def wants(self, status: ClusterStatus) -> bool:
        """Whether a cluster is one of those: in one of the states, and not over before that time."""
        if self.phases and status.phase not in self.phases:
            return False
        return self.since is None or status.ended is None or status.ended >= self.since


def _phase(name: str) -> ClusterPhase:
    try:
        return ClusterPhase(name.lower().replace("-", " ").replace("_", " "))
    except ValueError:
        known = ", ".join(phase.value for phase in ClusterPhase)
        raise UsageError(f"--state is {name!r}; a cluster's states are {known}.") from None


def parse_since(text: str, now: float) -> float | None:
    """Unix seconds; None for an empty text.  Raises UsageError.

    >>> parse_since("2h", 10_000.0), parse_since("", 10_000.0)
    (2800.0, None)
    """
    if not text.strip():
        return None
    span = re.fullmatch(r"(\d{1,6})\s*([a-z]+)", text.strip())
    if span is not None and span[2] in _UNITS_S:
        return now - int(span[1]) * _UNITS_S[span[2]]
    for form in _FORMATS:
        try:
            return time.mktime(time.strptime(text.strip(), form))
        except (ValueError, OverflowError):
            continue
    raise UsageError(f"--since is {text!r}; it must be like 30min, 2h, 3d or 2026-11-27.")
