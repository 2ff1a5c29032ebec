"""A worker's policy: its raylet, its head, the end of the cluster.

``step(rules, state, event, now)`` is the only place where a worker that has joined decides.  How it finds its
head and joins is supervisor/joining.py's.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any

from ..model.dataclass import dataclass
from ..model.errors import ExitCode
from ..model.loss_policy import WorkerLossPolicy
from ..model.record import EndReport
from ..model.status import EndReason, NodePhase
from ..model.value import Value
from ..model.wording import count, describe_code
from . import events as on
from .actions import (
    Action,
    Arm,
    AskGraceTime,
    EnterPhase,
    GiveNotice,
    Leave,
    LookForEnd,
    Note,
    ReportLoss,
    RestartRaylet,
    Say,
    Warn,
)
from .loss import worker_restarts
from .stopping import (
    ENDING,
    HURRY,
    Hurrying,
    bug_end,
    files_gone_text,
    keeper_end,
    on_ceiling,
    on_ending_signal,
    parent_end,
    signal_end,
)
from .values import End, Phase

#: How long a worker looks in the record for the reason of its head's end before it counts as a loss.
REASON_WAIT_S = 3.0

#: The same where a report is less likely: a host that stopped responding writes none.
LOOK_AGAIN_S = 0.5

#: The same after a restart that failed.
AFTER_RESTART_S = 0.3

#: Rest before a raylet is started again: this, doubled each time, up to the maximum.
RESTART_DELAY_S, MAX_RESTART_DELAY_S = 0.5, 30.0

#: Reasons of a cluster's end that are a loss of its head, for every node.
HEAD_LOST = (
    EndReason.HEAD_LOST.value,
    EndReason.SUPERVISOR_KILLED.value,
    EndReason.KEEPER_KILLED.value,
)

#: The timer at which a worker that has given notice leaves; what it keeps for its own end; what it may take
#: after SIGTERM: Slurm kills 30 s later by default (KillWait).
NOTICE, OWN_END_S, SIGTERM_NOTICE_S = "notice", 4.0, 24.0

#: The timer at which a worker whose head is away looks again for the cluster's end.
LOOK = "look"


class WorkerRules(Value):
    """What a worker's decisions depend on besides events."""

    host: str
    loss: WorkerLossPolicy
    """The head's --on-worker-loss, where the record has it."""
    max_restarts: int = 0
    grace_s: float = 0.0
    head_host: str = ""
    head_address: str = ""
    has_record: bool = True
    """Whether the record can say how the cluster ended."""
    elastic: bool = False
    """It runs in a job of its own: it can leave before the cluster ends."""


@dataclass(frozen=True)
class WorkerState:
    """The state of a worker's run."""

    phase: Phase = Phase.STARTING
    restarts: int = 0
    """How often Ray was started again on this node."""
    raylet: on.RayletDied | None = None
    """The death of our raylet, until its consequence is decided."""
    failure: on.RestartFailed | None = None
    lost: on.GcsLost | None = None
    """The loss of the head's GCS, until its consequence is decided."""
    away: str = ""
    """Why a GCS that may come back is away; empty when it is not."""
    away_told: bool = False
    looks: int = 0
    """How many looks for the cluster's end have not been answered yet."""
    leaves: End | None = None
    """Its end, once notice was given: as soon as the raylet has left, and at the deadline at the latest."""
    terminated: float | None = None
    """When the first SIGTERM came that this node gives notice of."""
    end: End | None = None
    hurrying: Hurrying = field(default_factory=Hurrying)

    @property
    def drained(self) -> bool:
        """Whether the head has drained our raylet.  It was ending the cluster then, so its own end that
        follows is no loss, even where the record cannot say so (its disk is full).

        >>> WorkerState(raylet=on.RayletDied(0, drained="the driver ended with code 0")).drained
        True
        >>> WorkerState(raylet=on.RayletDied(-9)).drained
        False
        """
        return self.raylet is not None and self.raylet.code == 0 and self.raylet.drained is not None


Step = tuple[WorkerState, list[Action]]


#: How the reasons begin with which Ray's autoscaler drains a node: idle, or above its group's maximum.
ONLY_THIS_NODE = ("Termination of node that's idle", "the worker group has more nodes than wanted")


def step(rules: WorkerRules, state: WorkerState, event: object, now: float) -> Step:
    """Decide: the new state and the actions that follow from an event."""
    return _STEPS[type(event)](rules, state, event, now)


def end_of_cluster(report: EndReport) -> End:
    """This worker's end, once the head has said how the cluster ended.

    A lost head is this worker's end too; in all other cases this worker did its part.
    """
    if report.reason in HEAD_LOST:
        code, reason = ExitCode.UNHEALTHY, EndReason.HEAD_LOST.value
    else:
        code, reason = ExitCode.OK, EndReason.ENDED.value
    return End(code, f"the cluster ended: {report.message}", reason, failed_host=report.failed_host)


# -- joined ------------------------------------------------------------------------------------------


def _joined(rules: WorkerRules, state: WorkerState, event: on.Joined, now: float) -> Step:
    if state.phase is Phase.STOPPING:
        return state, []
    text = ""
    if state.raylet is not None:
        text = f"started again after {_raylet_text(rules, state.raylet)}"
    state = replace(state, phase=Phase.RUNNING, raylet=None, failure=None)
    return state, [EnterPhase(NodePhase.JOINED, text)]


def _start_ended(rules: WorkerRules, state: WorkerState, event: on.StartEnded, now: float) -> Step:
    return _finish(state, event.end)


# -- the raylet --------------------------------------------------------------------------------------


def _raylet_died(rules: WorkerRules, state: WorkerState, event: on.RayletDied, now: float) -> Step:
    if state.phase is not Phase.RUNNING or state.raylet is not None:
        return state, []  # ended by us, or a start that failed and says so
    if state.leaves is not None and event.code in (0, -signal.SIGTERM):
        return _finish(state, state.leaves)
    phase = NodePhase.STOPPING if _final(rules, state) else NodePhase.STARTING
    actions: list[Action] = [EnterPhase(phase, _raylet_text(rules, event))]
    if event.code:
        actions.append(ReportLoss())
    # On purpose a raylet ends with 0: then the reason is there, or on its way.
    wait_s = REASON_WAIT_S if event.code == 0 and event.drained is None else LOOK_AGAIN_S
    state, look = _look(replace(state, raylet=event), wait_s)
    return state, [*actions, *look]


def _raylet_text(rules: WorkerRules, event: on.RayletDied) -> str:
    return f"the raylet on {rules.host} {describe_code(event.code)}"


def _final(rules: WorkerRules, state: WorkerState) -> bool:
    """Whether the next death of the raylet is this node's last."""
    return not worker_restarts(rules.loss) or state.restarts >= rules.max_restarts


def _after_raylet(rules: WorkerRules, state: WorkerState, event: on.RayletDied) -> Step:
    """Decide about the death of our raylet when the record has no end of the cluster."""
    if event.code == 0 and event.drained is not None and rules.elastic:
        text = f"left the cluster: {event.drained or 'this node was drained'}"
        return _finish(state, End(ExitCode.OK, text, EndReason.ENDED.value))
    if event.code == 0 and (event.drained is not None or not rules.has_record):
        # The record cannot say it: none is shared, its disk is full, or it hangs.
        why = event.drained or "this node was drained"
        what = "this node is no longer needed" if why.startswith(ONLY_THIS_NODE) else "the cluster ended"
        text = f"{what}: {why}"
        return _finish(state, End(ExitCode.OK, text, EndReason.ENDED.value))
    text = _raylet_text(rules, event)
    if _final(rules, state):
        tried = f" after {count(state.restarts, 'restart')}" if state.restarts else ""
        return _raylet_lost(rules, state, text + tried, event.log)
    delay_s = min(RESTART_DELAY_S * 2**state.restarts, MAX_RESTART_DELAY_S)
    restarts = state.restarts + 1
    warning = Warn(f"{text}; starting it again in {delay_s:g} s ({restarts} of {rules.max_restarts})")
    state = replace(state, phase=Phase.RECOVERING, restarts=restarts)
    return state, [warning, RestartRaylet(delay_s)]


def _restart_failed(rules: WorkerRules, state: WorkerState, event: on.RestartFailed, now: float) -> Step:
    if state.phase is not Phase.RECOVERING:
        return state, []
    return _look(replace(state, failure=event), AFTER_RESTART_S)


def _files_gone(rules: WorkerRules, state: WorkerState, event: on.FilesGone, now: float) -> Step:
    """End this node: Ray can start no new process on it, and a restarted one would lose its files again."""
    if state.phase is not Phase.RUNNING or state.raylet is not None:
        return state, []
    return _raylet_lost(rules, state, files_gone_text(event.path, rules.host), "")


def _raylet_lost(rules: WorkerRules, state: WorkerState, text: str, log: str) -> Step:
    """End this node.  It exits with 0 where the cluster goes on without it: then the head's code counts."""
    code = ExitCode.OK if worker_restarts(rules.loss) else ExitCode.UNHEALTHY
    end = End(code, text, EndReason.RAYLET_LOST.value, failed_host=rules.host, log=log)
    return _finish(state, end)


# -- the head ----------------------------------------------------------------------------------------


def _gcs_lost(rules: WorkerRules, state: WorkerState, event: on.GcsLost, now: float) -> Step:
    if state.phase is Phase.STOPPING or state.lost is not None:
        return state, []
    return _look(replace(state, lost=event), LOOK_AGAIN_S if event.silent else REASON_WAIT_S)


def _gcs_away(rules: WorkerRules, state: WorkerState, event: on.GcsAway, now: float) -> Step:
    if state.phase is Phase.STOPPING:
        return state, []
    return _look(replace(state, away=event.why or "no reason given", away_told=False), LOOK_AGAIN_S)


def _gcs_back(rules: WorkerRules, state: WorkerState, event: on.GcsBack, now: float) -> Step:
    told = state.away_told and state.phase is not Phase.STOPPING
    state = replace(state, away="", away_told=False)
    return state, [Say(f"the GCS at {rules.head_address} is reachable again")] if told else []


# -- what the record says ----------------------------------------------------------------------------


def _look(state: WorkerState, wait_s: float) -> Step:
    return replace(state, looks=state.looks + 1), [LookForEnd(wait_s)]


def _end_looked_up(rules: WorkerRules, state: WorkerState, event: on.EndLookedUp, now: float) -> Step:
    state = replace(state, looks=max(state.looks - 1, 0))
    if state.phase is Phase.STOPPING:
        return state, []
    if event.end is not None:
        return _finish(state, end_of_cluster(event.end))
    if state.looks:
        return state, []  # another look has more time: its answer counts
    # The head first: a raylet ends, and does not start again, because its head is lost.
    if state.lost is not None and not state.drained:
        text = f"the head at {rules.head_address} is lost: {state.lost.why}"
        end = End(ExitCode.UNHEALTHY, text, EndReason.HEAD_LOST.value, failed_host=rules.head_host)
        return _finish(state, end)
    if state.raylet is not None and state.failure is not None:
        text = f"{_raylet_text(rules, state.raylet)}, and did not start again: {state.failure.error}"
        return _raylet_lost(rules, state, text, state.failure.log or state.raylet.log)
    if state.raylet is not None and state.phase is Phase.RUNNING:
        state, actions = _after_raylet(rules, state, state.raylet)
    else:
        actions = []
    return _while_away(rules, state, actions, now)


def _while_away(rules: WorkerRules, state: WorkerState, actions: list[Action], now: float) -> Step:
    """While a head that recovers is away, look into the record again and again for its end."""
    if not state.away or state.phase is Phase.STOPPING:
        return state, actions
    if not state.away_told:
        text = (
            f"the GCS at {rules.head_address} is not reachable ({state.away}); "
            "waiting for the head to recover it"
        )
        actions = [*actions, Warn(text)]
    return replace(state, away_told=True), [*actions, Arm(LOOK, now + LOOK_AGAIN_S)]


# -- the end -----------------------------------------------------------------------------------------


def _signal_received(rules: WorkerRules, state: WorkerState, event: on.SignalReceived, now: float) -> Step:
    if event.number not in ENDING:
        return state, [Note(f"{signal.Signals(event.number).name} ignored: the driver runs on the head")]
    if rules.elastic and event.number == signal.SIGTERM and state.phase is Phase.RUNNING:
        end = signal_end(event.number, rules.host)
        if state.terminated is not None:
            return state, []  # Slurm repeats it
        state = replace(state, leaves=end, terminated=now)
        return state, [AskGraceTime(), Arm(NOTICE, now + SIGTERM_NOTICE_S - OWN_END_S)]
    stopping = state.phase is Phase.STOPPING
    hurrying, actions = on_ending_signal(event, state.hurrying, now, stopping=stopping, grace_s=rules.grace_s)
    state, more = _finish(replace(state, hurrying=hurrying), signal_end(event.number, rules.host))
    return state, [*actions, *more]


def _node_goes(rules: WorkerRules, state: WorkerState, event: on.NodeGoes, now: float) -> Step:
    if state.phase is not Phase.RUNNING or state.leaves is not None:
        return state, []
    end = End(ExitCode.OK, f"left the cluster: {event.why}", EndReason.ENDED.value)
    return _give_notice(state, end, event.why, event.left_s, now)


def _grace_time_known(rules: WorkerRules, state: WorkerState, event: on.GraceTimeKnown, now: float) -> Step:
    """SIGTERM: Slurm kills when the GraceTime is over, and without one after KillWait."""
    if state.phase is not Phase.RUNNING or state.leaves is None or state.terminated is None:
        return state, []
    left_s = state.terminated + SIGTERM_NOTICE_S - now
    if event.left_s is not None and event.left_s > left_s:
        return _give_notice(state, state.leaves, f"Slurm preempts {rules.host}", event.left_s, now)
    return _give_notice(state, state.leaves, f"{rules.host} was told to end (SIGTERM)", left_s, now)


def _give_notice(state: WorkerState, end: End, why: str, left_s: float, now: float) -> Step:
    """Give notice: the node gets no new work, and leaves when it has none left, or at the deadline."""
    left_s = max(left_s - OWN_END_S, 0.0)
    told = Say(f"{why}: draining for {left_s:.0f} s at most")
    return replace(state, leaves=end), [told, GiveNotice(why, left_s), Arm(NOTICE, now + left_s)]


def _keeper_ended(rules: WorkerRules, state: WorkerState, event: on.KeeperEnded, now: float) -> Step:
    return _finish(state, keeper_end(rules.host))


def _parent_ended(rules: WorkerRules, state: WorkerState, event: on.ParentEnded, now: float) -> Step:
    return _finish(state, parent_end(event.orderly))


def _guard_failed(rules: WorkerRules, state: WorkerState, event: on.GuardFailed, now: float) -> Step:
    return _finish(state, bug_end(event.name, event.error, rules.host))


def _timer_fired(rules: WorkerRules, state: WorkerState, event: on.TimerFired, now: float) -> Step:
    if event.name == HURRY:
        hurrying, actions = on_ceiling(state.hurrying)
        return replace(state, hurrying=hurrying), actions
    if event.name == NOTICE and state.leaves is not None:
        return _finish(state, state.leaves)
    if event.name == LOOK and state.away and state.phase is not Phase.STOPPING:
        return _look(state, LOOK_AGAIN_S)
    return state, []


def _finish(state: WorkerState, end: End) -> Step:
    """The end is known; the first reason counts."""
    if state.phase is Phase.STOPPING:
        return state, []
    actions: list[Action] = [EnterPhase(NodePhase.STOPPING, end.message), Leave(end)]
    if end.reason == EndReason.ERROR.value:
        actions.insert(0, Say(f"error: {end.message}"))
    return replace(state, phase=Phase.STOPPING, end=end), actions


_STEPS: Mapping[type, Callable[[WorkerRules, WorkerState, Any, float], Step]] = {
    on.Joined: _joined,
    on.StartEnded: _start_ended,
    on.RayletDied: _raylet_died,
    on.RestartFailed: _restart_failed,
    on.GcsLost: _gcs_lost,
    on.GcsAway: _gcs_away,
    on.GcsBack: _gcs_back,
    on.EndLookedUp: _end_looked_up,
    on.SignalReceived: _signal_received,
    on.KeeperEnded: _keeper_ended,
    on.ParentEnded: _parent_ended,
    on.GuardFailed: _guard_failed,
    on.FilesGone: _files_gone,
    on.NodeGoes: _node_goes,
    on.GraceTimeKnown: _grace_time_known,
    on.TimerFired: _timer_fired,
}
