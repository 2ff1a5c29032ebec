"""What can happen to a run: the input of the policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..model.record import EndReport
from .values import Cause, End, Worker, WorkerReport

# -- to every node -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignalReceived:
    """A signal for raycluster, by whichever way it came."""

    number: int
    count: int = 1
    """How often this signal has come by now."""


@dataclass(frozen=True)
class KeeperEnded:
    """The keeper was killed: its pipe closed."""


@dataclass(frozen=True)
class ParentEnded:
    """The program that started this node through the Python functions ended."""

    orderly: bool = False
    """It called cleanup_ray; otherwise it died."""


@dataclass(frozen=True)
class StartEnded:
    """The start is over without a node: an error, or a cluster that has ended meanwhile.

    Of a head also: the driver could not be started.
    """

    end: End


@dataclass(frozen=True)
class GuardFailed:
    """A background task failed for good: an error in raycluster."""

    name: str
    error: str


@dataclass(frozen=True)
class TimerFired:
    """A timer that the policy armed."""

    name: str


# -- to the head -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeaseTaken:
    """The record is this head's."""


@dataclass(frozen=True)
class RayStarted:
    """GCS and raylet of the head are up."""


@dataclass(frozen=True)
class WorkerJoined:
    worker: Worker


@dataclass(frozen=True)
class WorkerLeft:
    """The GCS, or the worker itself, says that its raylet is gone.  Why follows as a WorkerLost."""

    worker: Worker


@dataclass(frozen=True)
class WorkerLost:
    """Why a worker has left."""

    worker: Worker
    cause: Cause


@dataclass(frozen=True)
class ReportsRead:
    """The workers' status reports were read from the record."""

    reports: Mapping[str, WorkerReport] = field(default_factory=dict)
    without_task: tuple[str, ...] = ()
    """Hosts that reported nothing and on which the task of this step has ended, says Slurm."""


@dataclass(frozen=True)
class HeadProcessDied:
    """gcs_server or raylet of the head ended, and raycluster did not end it."""

    name: str
    code: int
    """Return code as subprocess gives it: negative for a death by signal."""
    log: str = ""


@dataclass(frozen=True)
class GcsSilent:
    """The head's GCS runs but no longer answers."""

    why: str
    log: str = ""


@dataclass(frozen=True)
class Recovered:
    """The head's Ray is back: what was started again runs at this moment (otherwise: RecoveryFailed)."""

    took_s: float = 0.0


@dataclass(frozen=True)
class RecoveryFailed:
    error: str
    log: str = ""


@dataclass(frozen=True)
class StopRequested:
    """`raycluster stop` asks for the end."""

    by: str = ""
    """user@host."""


@dataclass(frozen=True)
class TimeLimitKnown:
    """How much time the job has left."""

    left_s: float | None
    """None: Slurm does not say; what it said before still counts."""
    asked_now: bool = False
    """Slurm was asked just now; otherwise it is what was known at the job's start."""


@dataclass(frozen=True)
class DriverExited:
    """The driver ended by itself."""

    code: int
    """Return code as subprocess gives it."""
    ran_s: float = 0.0


@dataclass(frozen=True)
class DriverKnown:
    """Whether a driver has connected to the GCS since the cluster is up."""

    connected: bool | None
    """None: the GCS did not answer."""


@dataclass(frozen=True)
class DriverStopped:
    """The last of the driver's processes has ended after the driver was told to."""

    code: int | None
    """The driver's own return code; None when not even SIGKILL ended it."""


# -- to a worker -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    """This node's raylet is registered with the head's GCS and runs at this moment; also after a restart."""


@dataclass(frozen=True)
class RayletDied:
    """This worker's raylet ended, and raycluster did not end it."""

    code: int
    drained: str | None = None
    """Why the head told it to leave, from its log; None when it was not told to.  Counts with code 0 only."""
    log: str = ""


@dataclass(frozen=True)
class GcsLost:
    """The head's GCS is gone: on purpose, or lost."""

    why: str
    silent: bool = False
    """Nobody answers: its host or the way to it is gone."""


@dataclass(frozen=True)
class GcsAway:
    """The GCS of a head that recovers (--head-recovery) is gone; it may come back."""

    why: str


@dataclass(frozen=True)
class GcsBack:
    """It is back."""


@dataclass(frozen=True)
class EndLookedUp:
    """What the record says of the cluster's end: one answer to each actions.LookForEnd."""

    end: EndReport | None


@dataclass(frozen=True)
class RestartFailed:
    """Ray did not start again on this node."""

    error: str
    log: str = ""
