"""Values that events, actions and states are made of."""

from __future__ import annotations

import enum

from ..model.errors import ExitCode
from ..model.status import EndReason
from ..model.value import Value


class Phase(enum.Enum):
    """The phases of a run, as its policy sees them."""

    LAUNCHED = "launched"
    """The head opens the cluster's record and takes its lease."""
    STARTING = "starting"
    """The head starts its GCS and raylet; a worker looks for its head and joins it."""
    WAITING = "waiting"
    """The head's Ray is up, and it waits for its workers."""
    RUNNING = "running"
    """The driver runs, or the cluster is ready for drivers; of a worker: joined."""
    RECOVERING = "recovering"
    """Ray on this node is being started again."""
    STOPPING = "stopping"
    """The end is known; the driver, then Ray are being ended."""


#: Ends that the driver or another node caused, or that somebody asked for.
_NOT_ITS_OWN = (
    EndReason.DRIVER.value,
    EndReason.SERVICE.value,
    EndReason.WORKER_LOST.value,
    *(EndReason.SIGNAL.value, EndReason.STOP.value, EndReason.TIME_LIMIT.value),
)


class End(Value):
    """How a run ended: its exit code, and who or what was the reason."""

    code: int
    message: str = ""
    reason: str = ""
    """Value of status.EndReason."""
    failed_host: str = ""
    """The host that caused it."""
    log: str = ""
    """A log file worth reading."""
    detail: str = ""
    """Value of status.EndDetail, where there is one for it."""

    @property
    def on_purpose(self) -> bool:
        return self.code == ExitCode.OK

    @property
    def failed(self) -> bool:
        """Whether this node itself failed, and was neither stopped nor ended by the driver or another node.

        >>> End(5, reason="worker-lost").failed, End(5, reason="raylet-lost").failed
        (False, True)
        """
        if self.reason == EndReason.RAYLET_LOST.value:
            return True
        return self.code != ExitCode.OK and self.reason not in _NOT_ITS_OWN

    @property
    def keeps_logs(self) -> bool:
        """Whether --keep-logs=on-failure keeps this node's logs."""
        if self.reason == EndReason.RAYLET_LOST.value:
            return True
        return self.code != ExitCode.OK and self.reason != EndReason.STOP.value


class Worker(Value):
    """A worker as the GCS knows it."""

    node_id: str
    host: str
    ip: str = ""
    job: str = ""
    """The worker job that it runs in; empty for a worker of the head's own job."""


class Cause(Value):
    """Why a worker was lost, as far as it is known."""

    text: str
    signalled: bool = False
    """A signal ended it, which probably reaches the other nodes too."""
    orderly: bool = False
    """It left as intended: it was drained, or its cluster had ended."""


class WorkerReport(Value):
    """What a worker that is waited for last reported."""

    phase: str
    """Value of status.NodePhase."""
    message: str = ""
    age_s: float = 0.0
    """Seconds since the report, when the reports were read."""
