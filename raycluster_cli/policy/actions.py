"""What there is to do: the output of the policies, executed by the supervisor in their order."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.status import NodePhase
from .values import End, Worker


@dataclass(frozen=True)
class Say:
    """A line for people, and into the event log."""

    text: str


@dataclass(frozen=True)
class Warn:
    """The same as a warning."""

    text: str


@dataclass(frozen=True)
class Note:
    """Into the event log; on the screen only with --verbose."""

    text: str


@dataclass(frozen=True)
class Arm:
    """Fire the timer ``name`` at ``at``, on the clock of ``now``; an earlier one of that name is replaced."""

    name: str
    at: float


@dataclass(frozen=True)
class EnterPhase:
    """Report a phase in the record."""

    phase: NodePhase
    message: str = ""


@dataclass(frozen=True)
class Leave:
    """End Ray on this node, leave nothing behind, and end with this end."""

    end: End
    requeue: bool = False
    """Put the job back into Slurm's queue as the last act."""


@dataclass(frozen=True)
class Hurry:
    """End at once what is being ended in an orderly way: the driver gets SIGKILL."""


# -- of the head -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnnounceReady:
    """Tell people and programs that the cluster is ready."""


@dataclass(frozen=True)
class StartDriver:
    restarts: int = 0
    """How often it was started before."""


@dataclass(frozen=True)
class AskForDriver:
    """Ask the GCS whether a driver has connected; the answer is events.DriverKnown."""


@dataclass(frozen=True)
class TellDriver:
    """Hand a signal on to the driver."""

    number: int


@dataclass(frozen=True)
class StopDriver:
    """Tell all of the driver's processes to end, and kill what is left after the grace."""

    number: int
    grace_s: float


@dataclass(frozen=True)
class ExplainLoss:
    """Find out why a worker has left; the answer is events.WorkerLost."""

    worker: Worker


@dataclass(frozen=True)
class ReadReports:
    """Read the workers' reports now; the answer is events.ReportsRead."""


@dataclass(frozen=True)
class AskTimeLimit:
    """Find out when the job ends; the answer is events.TimeLimitKnown."""

    now: bool
    """Ask Slurm, even if the end is known from the job's start: limits can be changed."""


@dataclass(frozen=True)
class RestartGcs:
    """Start the head's GCS again, at the same address; raylet, driver and workers connect to it again."""

    delay_s: float


@dataclass(frozen=True)
class RestartHead:
    """Start all of the head's Ray again, at the same address; the driver is ended first."""

    delay_s: float


@dataclass(frozen=True)
class KillGcs:
    """End a GCS that does not answer; its death starts the recovery."""


# -- of a worker -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportLoss:
    """Tell the head by the record that this node's raylet is dead: it knows sooner than from the GCS."""


@dataclass(frozen=True)
class LookForEnd:
    """Look into the record for the cluster's end; each is answered by one events.EndLookedUp."""

    wait_s: float
    """How long to wait for it: the file server may be slow."""


@dataclass(frozen=True)
class RestartRaylet:
    """Start Ray again on this node."""

    delay_s: float
    attempt: int


Action = (
    Say
    | Warn
    | Note
    | Arm
    | EnterPhase
    | Leave
    | Hurry
    | AnnounceReady
    | StartDriver
    | AskForDriver
    | TellDriver
    | StopDriver
    | ExplainLoss
    | ReadReports
    | AskTimeLimit
    | RestartGcs
    | RestartHead
    | KillGcs
    | ReportLoss
    | LookForEnd
    | RestartRaylet
)
