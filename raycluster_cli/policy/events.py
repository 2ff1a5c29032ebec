"""The events that can happen to a run: the input of the policies."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..model.record import EndReport
from ..model.unmet_demand import UnmetDemand
from ..model.value import Value
from .values import Cause, End, Worker, WorkerReport

# -- to every node -----------------------------------------------------------------------------------


class SignalReceived(Value):
    """A signal for raycluster, sent to the keeper, to the supervisor, or to both."""

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
    """The node of a worker in a job of its own will be taken away soon: its job's time limit is near."""

    why: str
    left_s: float


class GraceTimeKnown(Value):
    """What Slurm says about the SIGTERM that this worker's job got."""

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
    """Files that Ray needs on this node were removed while it ran."""

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
    """The GCS, or the worker itself, says that its raylet is gone.  WorkerLost follows, with the cause."""

    worker: Worker


class WorkerLost(Value):
    """Why a worker has left."""

    worker: Worker
    cause: Cause


class ReportsRead(Value):
    """The workers' status reports were read from the record."""

    reports: Mapping[str, WorkerReport] = MappingProxyType({})
    without_task: tuple[str, ...] = ()
    """Hosts that reported nothing (new) and on which the task of this step has ended, says Slurm."""


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
    """The head's Ray is back: all that was started again is running (otherwise: RecoveryFailed)."""

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
    """What waits for resources that no node has; looked up every few seconds."""

    unplaceable: tuple[UnmetDemand, ...]


class DriverKnown(Value):
    """Whether a driver has connected to the GCS since the cluster is up."""

    connected: bool | None
    """None: the GCS did not answer."""


class DriverStopped(Value):
    """The last of the driver's processes has ended, after a request to stop."""

    code: int | None
    """The driver's own return code; None when not even SIGKILL ended it."""


class ServerAnswered(Value):
    """A health check of the server (--service) has succeeded."""


class ServerSilent(Value):
    """A health check of the server has failed."""

    why: str
    never_ready: bool = False
    """The server cannot become ready any more: waiting is useless."""
    detail: str = ""
    """Value of status.EndDetail, where there is one for it."""


class ServerCleared(Value):
    """Nothing is left of a server that will be started again, and the pause before its start is over."""

    problem: str = ""
    """What could not be cleared."""


class ServerIdle(Value):
    """The server has had no work for as long as --idle-timeout says."""

    idle_s: float


# -- to a worker -------------------------------------------------------------------------------------


class Joined(Value):
    """This node's raylet is registered with the head's GCS and is running; also after a restart."""


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
    """Nothing answers: its host or the network to it has failed."""


class GcsAway(Value):
    """The GCS of a head that recovers (--head-recovery) does not answer; it may come back."""

    why: str


class GcsBack(Value):
    """A GCS that was away answers again."""


class EndLookedUp(Value):
    """What the record says of the cluster's end: one answer to each actions.LookForEnd."""

    end: EndReport | None


class RestartFailed(Value):
    """Ray did not start again on this node."""

    error: str
    log: str = ""
