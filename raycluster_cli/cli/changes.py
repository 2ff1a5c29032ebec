"""A cluster as lines for a log: each event and each change of state once."""

from __future__ import annotations

from typing import Any

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.status import NodePhase
from ..model.wording import duration
from .drawing import clock_of
from .node_table import last_report
from .safe_status import safe_status

#: A line with the state is printed at least this often, so that the log shows that the monitor runs.
QUIET_S = 60.0


class Changes:
    """What has changed in a cluster since the last look, so that each change is printed once."""

    def __init__(self) -> None:
        self._event = 0.0
        self._texts: set[str] = set()
        self._state: tuple[Any, ...] = ()
        self._at = 0.0

    def any(self, status: ClusterStatus) -> bool:
        """Whether states or the measured usage have changed since the last time."""
        state = (*self._state_of(status), status.usage_at)
        changed, self._state = state != self._state, state
        return changed

    @staticmethod
    def _state_of(status: ClusterStatus) -> tuple[Any, ...]:
        nodes = tuple((node.host, node.state) for node in status.nodes)
        return status.phase, status.ready_nodes, nodes, len(status.events)

    def lines(self, status: ClusterStatus) -> list[str]:
        """What is new since the last time, in lines for a log."""
        status = safe_status(status)
        found = []
        for when, text in status.events:
            if when > self._event or (when == self._event and text not in self._texts):
                self._texts = self._texts | {text} if when == self._event else {text}
                self._event = when
                found.append(f"{clock_of(when)} {text}")
        state = (status.phase, status.ready_nodes)
        quiet = status.read_at - self._at >= QUIET_S
        if state != self._state[:2] or quiet:
            found.append(f"{clock_of(status.read_at)} {_summary(status)}")
            self._at = status.read_at
        self._state = state
        return found


def _summary(status: ClusterStatus) -> str:
    """The state in a line."""
    text = f"{status.phase.value}: {status.headline}"
    if status.phase is ClusterPhase.STARTING:
        away = [node for node in status.nodes if not node.is_member and node.phase is not NodePhase.GONE]
        if away:
            text += f"; {', '.join(f'{node.host}: {node.label}' for node in away[:4])}"
            text += f" and {len(away) - 4} more" if len(away) > 4 else ""
    for node in status.problems[:3]:
        text += f"; {node.host}: {last_report(node, status)}"
    left = status.time_left_s
    if left is not None:
        text += f"; {duration(left)} left"
    return text
