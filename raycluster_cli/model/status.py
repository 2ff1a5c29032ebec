"""Roles, phases and reasons, with the values that the record keeps."""

from __future__ import annotations

import enum


class Role(str, enum.Enum):
    """What a node is in the Ray cluster."""

    HEAD = "head"
    WORKER = "worker"


class HeadState(str, enum.Enum):
    """How far the head is, as it says in the record."""

    STARTING = "starting"
    """The head has its address and ports; its GCS is not up yet."""
    UP = "up"
    """The GCS answers: workers can join."""


class EndReason(str, enum.Enum):
    """Why a node or a cluster ended, in one word for programs."""

    DRIVER = "driver"
    """The driver ended; its exit code is the cluster's."""
    SIGNAL = "signal"
    """SIGTERM, SIGINT or SIGHUP: scancel, the time limit, preemption, Ctrl-C."""
    STOP = "stop"
    """A request: `raycluster stop`, or the program that started the node ended."""
    TIME_LIMIT = "time-limit"
    """The job's time limit is near (--stop-before)."""
    WORKER_LOST = "worker-lost"
    HEAD_LOST = "head-lost"
    """The head's GCS or raylet ended, or its host stopped responding."""
    RAYLET_LOST = "raylet-lost"
    """This worker's own raylet ended, and --on-worker-loss does not start it again."""
    SERVICE = "service"
    """The server (--service) did not become ready, or stopped answering."""
    IDLE = "idle"
    """The server had no work for --idle-timeout."""
    SUPERVISOR_KILLED = "supervisor-killed"
    KEEPER_KILLED = "keeper-killed"
    ENDED = "ended"
    """Of a worker: the cluster ended, and this worker did its part."""
    ERROR = "error"
    """An error that the user can do something about (errors.RayclusterError)."""
    BUG = "bug"
    """An error in raycluster."""


class EndDetail(str, enum.Enum):
    """What exactly ended a node or a cluster, where its EndReason leaves that open."""

    SIGHUP = "sighup"
    SIGINT = "sigint"
    SIGTERM = "sigterm"
    NEVER_CONNECTED = "never-connected"
    """The driver completed, and no driver has connected to the cluster."""
    NOTHING_LISTENS = "nothing-listens"
    """Nothing listens on the server's port."""
    NOT_FOUND = "not-found"
    """The server answers the path of the health checks with 404."""
    ALL_AT_ONCE = "all-at-once"
    """All processes of the head have ended without reporting, on a host that runs."""
    BY_STOP = "by-stop"
    """`raycluster stop` has ended the cluster in another way and written the end: its head did not react."""
    KEEPER_TOO = "keeper-too"
    """The supervisor was killed, and its keeper too."""


class NodePhase(str, enum.Enum):
    """What a node's raycluster process was doing at its last status report.

    The order is the order in which a good run passes through them.  The values stand in records and in JSON,
    and stay as they are; people read :attr:`label`.
    """

    NOT_REPORTED = "no word"
    """The node is expected, but has not reported yet.  Never in a record."""
    LAUNCHED = "launched"
    """raycluster runs on the node and has read its environment."""
    WAITING = "waiting for head"
    """A worker looks for its head."""
    FOUND = "head found"
    """A worker knows its head's address, and the GCS answers there."""
    STARTING = "starting ray"
    """Ray's processes are being started."""
    JOINED = "joined"
    """The raylet is registered with the GCS."""
    READY = "ready"
    """On the head: every expected worker has joined."""
    DRIVING = "driver running"
    """On the head: the driver runs."""
    STOPPING = "stopping"
    """Ray's processes are being ended."""
    GONE = "gone"
    """Exited cleanly; nothing of the cluster is left on the node."""
    FAILED = "failed"
    """Ended because of an error; ``message`` says which."""

    @property
    def label(self) -> str:
        """For people.

        >>> NodePhase.NOT_REPORTED.label, NodePhase.JOINED.label
        ('not reported', 'joined')
        """
        return _LABELS.get(self.value, self.value)


_LABELS = {"no word": "not reported", "starting ray": "starting Ray", "gone": "exited"}


#: Phases of a node that is a member of the cluster.
MEMBER = (NodePhase.JOINED, NodePhase.READY, NodePhase.DRIVING)

#: Phases of a node that has ended: its raycluster has nothing left to do.
FINAL = (NodePhase.GONE, NodePhase.FAILED)

#: Steps within these phases that nodes stamp as well.
IMPORTED, ANSWERED, RAYLET = "ray imported", "gcs answered", "raylet started"

#: The steps of a start in which a node that has not joined may be, in their order.
ON_THE_WAY = (
    NodePhase.NOT_REPORTED,
    NodePhase.LAUNCHED,
    NodePhase.WAITING,
    NodePhase.FOUND,
    NodePhase.STARTING,
)
