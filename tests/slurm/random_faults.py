"""Random faults: what is drawn from a seed, and the exit codes that are right for a fault in a phase."""

from __future__ import annotations

import enum
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

SIGKILLED, SIGTERMED, SIGINTED = 137, 143, 130

HEAD, WORKERS = "n1", ("n2", "n3")
HOSTS = (HEAD, *WORKERS)


class Phase(enum.IntEnum):
    """Where a run is; a run passes through all of them."""

    LAUNCHING = 1
    """raycluster runs on the host, and the GCS does not answer yet."""
    JOINING = 2
    """The GCS answers; workers join."""
    CONNECTING = 3
    """The driver runs, and is not connected to all nodes yet."""
    DRIVING = 4
    """The driver works on all nodes."""
    LEAVING = 5
    """The driver was told to exit; it is not known whether it has."""
    ENDING = 6
    """The head shuts the cluster down."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to a run."""

    kind: str
    """killed, stopped, cut, full, slow, cancelled or requeued."""
    what: str
    """A process; or what is full, slow or asked for."""
    host: str
    """On which host; login for what comes from outside."""
    lasts_s: float = 0.0
    """After so long it is over; 0: for good."""

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:g} s" if self.lasts_s else ""
        return f"{self.kind} {self.what} on {self.host}{lasts}"

    @property
    def on_head(self) -> bool:
        return self.host == HEAD


@dataclass(frozen=True)
class Draw:
    """All that a seed decides."""

    fault: Fault
    phase: Phase
    """In which phase the fault is to happen; LEAVING means: some time after the driver was told to exit."""
    delay_s: float
    """How long after the phase has begun."""
    driver_code: int
    """What the driver exits with if nothing happens to it."""
    shape: str = "run"
    """What it happens to, one of SHAPES."""
    user: str = "root"
    """Whose job it is."""

    @property
    def grows(self) -> bool:
        return self.shape == "grows"

    def __str__(self) -> str:
        shape = f" of {SHAPES[self.shape]}"
        when = f"{self.delay_s:.2f} s after {self.phase.name}"
        return f"{self.fault}, {when}{shape}, driver's code {self.driver_code}, {self.user}"


#: How long after its begin a fault can happen in a phase.
DELAYS_S = {
    Phase.LAUNCHING: 0.8,
    Phase.JOINING: 0.6,
    Phase.CONNECTING: 1.0,
    Phase.DRIVING: 1.0,
    Phase.LEAVING: 1.2,
}

#: What the faults happen to.
SHAPES = {
    "run": "one srun",
    "grows": "a cluster that grows: its job has the head alone, and it gets a worker job on n2",
    "apart": "a head in the batch step and workers under srun",
    "service": "a server",
    "beside": "one of two clusters of the user on the same nodes",
    "container": "one srun with --container",
    "staged": "one srun with --stage-env",
}

PROCESSES = ("keeper", "supervisor", "companion", "raylet", "agent", "worker")
HEAD_PROCESSES = (*PROCESSES, "watcher", "gcs_server", "driver")

#: A pause that is never taken for a loss, and a cut that always is; see docs/reliability.md.
PAUSE_S, CUT_S = 4.0, 25.0


def draw(seed: int) -> Draw:
    """The fault of a seed; each kind is as likely as the others."""
    chance = random.Random(seed)
    kind = chance.choice(("killed", "stopped", "cut", "full", "slow", "cancelled", "requeued"))
    host = chance.choice(HOSTS)
    processes = HEAD_PROCESSES if host == HEAD else PROCESSES
    match kind:
        case "killed":
            fault = Fault(kind, chance.choice(processes), host)
        case "stopped":
            for_good = [name for name in processes if name in ("keeper", "raylet", "gcs_server")]
            what = chance.choice((*processes, *for_good))
            lasts_s = 0.0 if what in for_good and chance.random() < 0.5 else PAUSE_S
            fault = Fault(kind, what, host, lasts_s)
        case "cut":
            fault = Fault(kind, "cable", host, chance.choice((PAUSE_S, CUT_S)))
        case "full":
            what = chance.choice(("record", "node's directory", "shared memory"))
            fault = Fault(kind, what, "login" if what == "record" else host)
        case "slow":
            what = chance.choice(("record", "processors", "network"))
            fault = Fault(kind, what, "login" if what == "record" else host, 6.0)
        case "cancelled":
            ways = ("scancel", "scancel --signal=TERM", "scancel --signal=INT", "raycluster stop", "SIGTERM")
            what = chance.choice(ways)
            fault = Fault(kind, what, host if what == "SIGTERM" else "login")
        case _:
            fault = Fault(kind, "scontrol requeue", "login")
    phase = chance.choice(tuple(DELAYS_S))
    delay_s, driver_code = chance.uniform(0, DELAYS_S[phase]), chance.choice((0, 7))
    shape = "grows" if chance.random() < 0.3 else chance.choice([one for one in SHAPES if one != "grows"])
    if shape == "grows" and fault.host in WORKERS:
        fault = replace(fault, host=WORKERS[0])
    if shape == "apart" and fault.what.startswith("scancel --signal"):
        fault = replace(fault, what="scancel")  # the step is that of the workers
    if shape == "beside" and fault.kind not in ("killed", "stopped", "cancelled", "requeued"):
        shape = "run"  # it would happen to both
    user = chance.choice(("root", "alice"))
    if fault.what == "record":
        user = "root"  # the disk is root's
        shape = "run" if shape == "container" else shape
    elif shape == "container":
        user = "alice"  # the image is hers
    return Draw(fault, phase, delay_s, driver_code, shape, user)


def right_codes(fault: Fault, phases: Iterable[Phase], driver_code: int, *, shape: str = "run") -> set[int]:
    """The exit codes that are right for the job when ``fault`` happened in one of ``phases``.

    A cluster that grows gets another worker job for one that it loses.
    """
    if shape == "grows" and (fault.host in WORKERS or fault.kind == "cut"):
        return {driver_code}
    if shape == "apart" and fault.host in WORKERS:
        return {code for phase in phases for code in _codes_apart(fault, phase, driver_code)}
    return {code for phase in phases for code in _codes(fault, phase, driver_code)}


def _codes_apart(fault: Fault, phase: Phase, done: int) -> set[int]:
    """The head's code is the job's, and not that of a worker that was killed or told to end."""
    if phase is Phase.LEAVING:
        return _codes_apart(fault, Phase.DRIVING, done) | _codes_apart(fault, Phase.ENDING, done)
    gone = fault.kind == "killed" and fault.what in ("keeper", "supervisor")
    if not gone and fault.kind != "cancelled":
        return _codes(fault, phase, done)
    return _ray_lost(replace(fault, what="raylet"), phase, done)


def _codes(fault: Fault, phase: Phase, done: int) -> set[int]:
    if phase is Phase.LEAVING:
        return _codes(fault, Phase.DRIVING, done) | _codes(fault, Phase.ENDING, done)
    match fault.kind:
        case "killed":
            return _killed(fault, phase, done)
        case "stopped":
            forgotten = fault.what == "keeper"  # it is continued at the end
            return {done} if fault.lasts_s or forgotten else _ray_lost(fault, phase, done)
        case "cut":
            return {done} if fault.lasts_s < CUT_S else _cut(fault, phase, done)
        case "full":
            return {done} if phase >= Phase.DRIVING else {done, *_full_from_the_start(fault)}
        case "slow":
            return {done}
        case "cancelled":
            return _cancelled(fault, phase, done)
        case "requeued":
            return {done}  # that of the run after it
    raise ValueError(fault.kind)


def _killed(fault: Fault, phase: Phase, done: int) -> set[int]:
    ending = phase is Phase.ENDING
    match fault.what:
        case "keeper" | "supervisor":
            return {SIGKILLED, done} if ending else {SIGKILLED}
        case "driver":
            return {done} if ending else {SIGKILLED}
        case "companion" | "watcher":
            # It starts Ray: while it does, its end is that of the start.
            return {done} if phase > Phase.JOINING else {done, 3 if fault.on_head else 4}
        case "worker":
            # Ray's and the driver's affair; one that connects may have lost its actor.
            return {done, 1} if phase is Phase.CONNECTING else {done}
        case _:
            return _ray_lost(fault, phase, done)


def _ray_lost(fault: Fault, phase: Phase, done: int) -> set[int]:
    """A raylet, its agent or the GCS ends, or does not respond any more."""
    if phase is Phase.ENDING:
        return {done}
    if phase < Phase.CONNECTING:
        # Ray's start is tried once more in another way (docs/decisions/0001).
        return {done, 3, 4, 5} if fault.on_head else {done, 4, 5}
    # A driver that connects, or works there, can see it first, and ends by itself.
    return {1, 5} if phase is Phase.CONNECTING or fault.on_head else {5}


def _cut(fault: Fault, phase: Phase, done: int) -> set[int]:
    if phase is Phase.ENDING:
        return {done}
    # Workers that have not joined yet may do so once the cable is back: the head waits longer than that.
    return {done, 4, 5} if phase < Phase.CONNECTING else {1, 5}


def _full_from_the_start(fault: Fault) -> set[int]:
    return {1, 2} if fault.what == "record" else {2, 3, 4}


def _cancelled(fault: Fault, phase: Phase, done: int) -> set[int]:
    code = SIGINTED if fault.what.endswith("INT") else SIGTERMED
    return {code, done} if phase is Phase.ENDING else {code}
