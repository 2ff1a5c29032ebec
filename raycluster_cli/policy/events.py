"""What can happen to a run: the input of the policies."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..model.record import EndReport
from ..model.unmet_demand import UnmetDemand
from ..model.value import Value
from .values import Cause, End, Worker, WorkerReport

# -- to every node -----------------------------------------------------------------------------------


class SignalReceived(Value):
    """A signal for raycluster, by whichever way it came."""

    number: int
    count: int = 1
    """How often this signal has come by now."""


class KeeperEnded(Value):
    """The keeper was killed: its pipe closed."""


class ParentEnded(Value):
    """The program that started this node through the Python functions ended."""

    orderly: bool = False
    """It called cleanup_ray; otherwise it died."""


class NodeGoes(Value):
    """The node of a worker in a job of its own will be gone soon: its job's time limit is near."""

    why: str
    left_s: float


class GraceTimeKnown(Value):
    """What Slurm says of the SIGTERM that this worker's job has got."""

    left_s: float | None = None
    """The rest of its GraceTime, where it is preempted; None in all other cases, and without an answer."""


class StartEnded(Value):
    """The start is over without a node: an error, or a cluster that has ended meanwhile.

    Of a head also: the driver could not be started.
    """

    end: End


class GuardFailed(Value):
    """A background task failed for good: an error in raycluster."""

    name: str
    error: str


class FilesGone(Value):
    """Files that Ray on this node cannot do without were removed while it ran."""

    path: str


class TimerFired(Value):
    """A timer that the policy armed."""

    name: str


# -- to the head -------------------------------------------------------------------------------------


class LeaseTaken(Value):
    """The record is this head's."""


class RayStarted(Value):
    """GCS and raylet of the head are up."""


class WorkerJoined(Value):
    worker: Worker


class WorkerLeft(Value):
    """The GCS, or the worker itself, says that its raylet is gone.  Why follows as a WorkerLost."""

    worker: Worker


class WorkerLost(Value):
    """Why a worker has left."""

    worker: Worker
    cause: Cause


class ReportsRead(Value):
    """The workers' status reports were read from the record."""

    reports: Mapping[str, WorkerReport] = MappingProxyType({})
    without_task: tuple[str, ...] = ()
    """Hosts that reported nothing and on which the task of this step has ended, says Slurm."""


class HeadProcessDied(Value):
    """gcs_server or raylet of the head ended, and raycluster did not end it."""

    name: str
    code: int
    """Return code as subprocess gives it: negative for a death by signal."""
    log: str = ""


class GcsSilent(Value):
    """The head's GCS runs but no longer answers."""

    why: str
    log: str = ""


class HeadRayletSilent(Value):
    """The head's raylet runs, and the GCS has marked its node as dead: it does not respond."""

    why: str
    """In the GCS's words."""
    log: str = ""


class Recovered(Value):
    """The head's Ray is back: what was started again runs at this moment (otherwise: RecoveryFailed)."""

    took_s: float = 0.0


class RecoveryFailed(Value):
    error: str
    log: str = ""


class StopRequested(Value):
    """`raycluster stop` asks for the end."""

    by: str = ""
    """user@host."""


class TimeLimitKnown(Value):
    """How much time the job has left."""

    left_s: float | None
    """None: Slurm does not say; what it said before still counts."""
    asked_now: bool = False
    """Slurm was asked just now; otherwise it is what was known at the job's start."""


class DriverExited(Value):
    """The driver ended by itself."""

    code: int
    """Return code as subprocess gives it."""
    ran_s: float = 0.0


class DemandKnown(Value):
    """What waits for resources that no node has; looked up now and then."""

    unplaceable: tuple[UnmetDemand, ...]


class DriverKnown(Value):
    """Whether a driver has connected to the GCS since the cluster is up."""

    connected: bool | None
    """None: the GCS did not answer."""


class DriverStopped(Value):
    """The last of the driver's processes has ended after the driver was told to."""

    code: int | None
    """The driver's own return code; None when not even SIGKILL ended it."""


class ServerAnswered(Value):
    """A health check of the server (--service) has succeeded."""


class ServerSilent(Value):
    """A health check of the server has failed."""

    why: str
    for_ever: bool = False
    """It will not be ready, however long one waits."""


class ServerCleared(Value):
    """All of a server that is to be started again is gone, and the rest before the start is over."""

    problem: str = ""
    """What could not be cleared."""


class ServerIdle(Value):
    """The server has had no work for as long as --idle-timeout says."""

    idle_s: float


# -- to a worker -------------------------------------------------------------------------------------


class Joined(Value):
    """This node's raylet is registered with the head's GCS and runs at this moment; also after a restart."""


class RayletDied(Value):
    """This worker's raylet ended, and raycluster did not end it."""

    code: int
    drained: str | None = None
    """Why the head told it to leave, from its log; None when it was not told to.  Counts with code 0 only."""
    log: str = ""


class GcsLost(Value):
    """The head's GCS is gone: on purpose, or lost."""

    why: str
    silent: bool = False
    """Nobody answers: its host or the way to it is gone."""


class GcsAway(Value):
    """The GCS of a head that recovers (--head-recovery) is gone; it may come back."""

    why: str


class GcsBack(Value):
    """It is back."""


class EndLookedUp(Value):
    """What the record says of the cluster's end: one answer to each actions.LookForEnd."""

    end: EndReport | None


class RestartFailed(Value):
    """Ray did not start again on this node."""

    error: str
    log: str = ""
