"""The actions of a run: the output of the policies, executed by the supervisor in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.status import NodePhase
from ..model.value import Value
from .values import End, Worker

if TYPE_CHECKING:
    from ..model.service import ServiceState


class Say(Value):
    """Print a line, and write it into the event log."""

    text: str


class Warn(Value):
    """Print a warning, and write it into the event log."""

    text: str


class Note(Value):
    """Write a line into the event log; print it only with --verbose."""

    text: str


class Arm(Value):
    """Fire the timer ``name`` at ``at``, on the clock of ``now``; an earlier one of that name is replaced."""

    name: str
    at: float


class EnterPhase(Value):
    """Report a phase in the record."""

    phase: NodePhase
    message: str = ""


class Leave(Value):
    """End Ray on this node, leave nothing behind, and end with this end."""

    end: End
    requeue: bool = False
    """Put the job back into Slurm's queue as the last act."""


class Hurry(Value):
    """Shut down without waiting any longer: the driver gets SIGKILL."""


# -- of the head -------------------------------------------------------------------------------------


class AnnounceReady(Value):
    """Tell people and programs that the cluster is ready."""


class StartDriver(Value):
    restarts: int = 0
    """How often it was started before."""


class AskForDriver(Value):
    """Ask the GCS whether a driver has connected; the answer is events.DriverKnown."""


class WriteEnd(Value):
    """Write into the record how the cluster ends, at once: there may be no time for more."""

    end: End


class TellDriver(Value):
    """Pass a signal on to the driver."""

    number: int


class StopDriver(Value):
    """Send all of the driver's processes a signal, and kill what is left after the grace."""

    number: int
    grace_s: float


class ExplainLoss(Value):
    """Find out why a worker has left; the answer is events.WorkerLost."""

    worker: Worker


class ReadReports(Value):
    """Read the workers' reports now; the answer is events.ReportsRead."""


class ShowDemand(Value):
    """Write into the record what waits for resources that no node has; empty: nothing waits any more."""

    unplaceable: tuple[str, ...]


class AskTimeLimit(Value):
    """Find out when the job ends; the answer is events.TimeLimitKnown."""

    now: bool
    """Ask Slurm even if the limit is known from the job's start: it can be changed."""


class RestartGcs(Value):
    """Start the head's GCS again, at the same address; raylet, driver and workers connect to it again."""

    delay_s: float


class RestartHead(Value):
    """Start all of the head's Ray again, at the same address; the driver is ended first."""

    delay_s: float


class KillSilent(Value):
    """End a process of the head's Ray that does not respond; its death starts the recovery."""

    name: str
    """gcs_server or raylet."""


class ReportServer(Value):
    """Write the new state of the server (--service) into the record."""

    state: ServiceState
    message: str = ""


class ClearServer(Value):
    """End what is left of the server, its actors and placement groups, then pause for ``rest_s``; the answer
    is events.ServerCleared."""

    grace_s: float
    rest_s: float


# -- of a worker -------------------------------------------------------------------------------------


class ReportLoss(Value):
    """Write into the record that this node's raylet is dead: the head sees it sooner than in the GCS."""


class LookForEnd(Value):
    """Look into the record for the cluster's end; each is answered by one events.EndLookedUp."""

    wait_s: float
    """How long to wait for it: the file server may be slow."""


class GiveNotice(Value):
    """Write a notice into the record, so that the head lets Ray drain this node."""

    why: str
    left_s: float


class AskGraceTime(Value):
    """Ask Slurm whether this worker's job is being preempted, and when its GraceTime is over."""


class RestartRaylet(Value):
    """Start Ray again on this node."""

    delay_s: float


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
    | WriteEnd
    | StopDriver
    | ExplainLoss
    | ReadReports
    | ShowDemand
    | AskTimeLimit
    | RestartGcs
    | RestartHead
    | KillSilent
    | ReportServer
    | ClearServer
    | ReportLoss
    | LookForEnd
    | GiveNotice
    | AskGraceTime
    | RestartRaylet
)
