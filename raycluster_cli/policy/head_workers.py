"""The head and its workers: the wait for them, a quorum, and the losses (--on-worker-loss)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..model.errors import ExitCode
from ..model.status import EndReason, NodePhase
from ..model.wording import count, duration
from . import events as on
from .actions import (
    Action,
    AnnounceReady,
    Arm,
    AskTimeLimit,
    EnterPhase,
    ExplainLoss,
    Note,
    ReadReports,
    Say,
    StartDriver,
    Warn,
)
from .head_driver import CONNECTS_WITHIN_S, DRIVER_CONNECTS, driver_failed, lost_just_now
from .head_end import finish
from .head_state import HeadRules, HeadState, Step, then
from .loss import ends_the_cluster
from .stopping import SAME_SIGNAL_S
from .values import End, Phase, Worker
from .worker_wait import (
    FIRST_TOLD_S,
    TOLD_AGAIN_S,
    missing_workers,
    too_late,
    too_many_cannot_join,
)

#: Names of timers; LOSS is followed by a node id.
WORKERS, SETTLE, PROGRESS, SHORTAGE, LOSS = "workers", "settle", "progress", "shortage", "loss "


def lease_taken(rules: HeadRules, state: HeadState, event: on.LeaseTaken, now: float) -> Step:
    return (replace(state, phase=Phase.STARTING), []) if state.phase is Phase.LAUNCHED else (state, [])


def ray_started(rules: HeadRules, state: HeadState, event: on.RayStarted, now: float) -> Step:
    if state.phase not in (Phase.LAUNCHED, Phase.STARTING):
        return state, []
    actions = wait_timers(state, now)
    if rules.in_job:
        actions.append(AskTimeLimit(now=False))
    return then(wait_on(rules, replace(state, phase=Phase.WAITING), now), before=actions)


def wait_timers(state: HeadState, now: float) -> list[Action]:
    """The timers of the wait for the workers."""
    return [Arm(WORKERS, max(state.deadline, now)), Arm(PROGRESS, now + FIRST_TOLD_S)]


def wait_on(rules: HeadRules, state: HeadState, now: float) -> Step:
    """Whether the wait for the workers is over."""
    if state.phase is not Phase.WAITING:
        return state, []
    here = len(state.workers)
    if here >= rules.expected:
        return _ready(rules, state, now)
    if not rules.spare or here < rules.quorum:
        return replace(state, quorum_since=None), []
    since = now if state.quorum_since is None else state.quorum_since
    settled_at = min(since + rules.settle_s, state.deadline)  # at the deadline a quorum is enough
    if now < settled_at:
        arm: list[Action] = [Arm(SETTLE, settled_at)] if state.quorum_since is None else []
        return replace(state, quorum_since=since), arm
    text = (
        f"starting with {here} of {count(rules.expected, 'worker')} (--min-workers {rules.quorum}); "
        f"missing: {_missing(rules, state, now)}. Workers that start later can still join."
    )
    return then(_ready(rules, state, now), before=[Warn(text)])


def _ready(rules: HeadRules, state: HeadState, now: float) -> Step:
    state = replace(state, phase=Phase.RUNNING)
    actions: list[Action] = [EnterPhase(NodePhase.READY), AnnounceReady()]
    if rules.has_driver:
        actions += [EnterPhase(NodePhase.DRIVING), StartDriver()]
        if rules.expected:
            actions.append(Arm(DRIVER_CONNECTS, now + CONNECTS_WITHIN_S))
        state = replace(state, driver_running=True)
        if rules.service is not None:
            return then(rules.service.started(rules, state, now), before=actions)
    return state, actions


def _missing(rules: HeadRules, state: HeadState, now: float) -> str:
    return missing_workers(
        rules.hosts,
        {worker.host for worker in state.workers.values()},
        state.reports,
        awaited=rules.expected - len(state.workers),
        since_read_s=max(now - state.reports_at, 0.0),
    )


def progress(rules: HeadRules, state: HeadState, now: float) -> Step:
    if state.phase is not Phase.WAITING:
        return state, []
    waited = duration(now - (state.deadline - rules.timeout_s))
    joined = f"{len(state.workers)} of {count(rules.expected, 'worker')} joined after {waited}"
    text = f"{joined}; waiting for {_missing(rules, state, now)}"
    return state, [Say(text), Arm(PROGRESS, now + TOLD_AGAIN_S)]


def reports_read(rules: HeadRules, state: HeadState, event: on.ReportsRead, now: float) -> Step:
    state = replace(state, reports=event.reports, reports_at=now)
    if state.driver_exit is not None and state.phase is Phase.RUNNING:
        return driver_failed(rules, state, lost_just_now(event.reports))
    if state.phase is not Phase.WAITING:
        return state, []
    text = too_many_cannot_join(
        event.reports, event.without_task, expected=rules.expected, quorum=rules.quorum
    )
    if text is None and now >= state.deadline:
        state, actions = wait_on(rules, state, now)
        if state.phase is not Phase.WAITING:
            return state, actions
        text = too_late(
            _missing(rules, state, now),
            awaited=rules.expected - len(state.workers),
            expected=rules.expected,
            timeout_s=rules.timeout_s,
        )
    if text is None:
        return state, []
    end = End(ExitCode.WORKERS_MISSING, text, EndReason.ERROR.value, failed_host=rules.host)
    return finish(rules, state, end)


def worker_joined(rules: HeadRules, state: HeadState, event: on.WorkerJoined, now: float) -> Step:
    worker = event.worker
    if worker.job:
        return _elastic_joined(state, worker)
    if worker.node_id in state.workers:
        return state, []
    state = replace(state, workers={**state.workers, worker.node_id: worker})
    if len(state.workers) >= rules.enough():
        state = replace(state, shortage=None)
    joined: list[Action] = [Note(f"worker {worker.host} joined ({worker.ip})")]
    if rules.service is not None:
        state, more = rules.service.go_on(rules, state, now)
        joined += more
    return then(wait_on(rules, state, now), before=joined)


def _elastic_joined(state: HeadState, worker: Worker) -> Step:
    if worker.node_id in state.elastic:
        return state, []
    state = replace(state, elastic={**state.elastic, worker.node_id: worker})
    return state, [Note(f"worker {worker.host} joined ({worker.ip})")]


def worker_left(rules: HeadRules, state: HeadState, event: on.WorkerLeft, now: float) -> Step:
    if event.worker.node_id in state.elastic:
        state = replace(state, elastic=_without(state.elastic, event.worker.node_id))
        return state, [] if state.phase is Phase.STOPPING else [ExplainLoss(event.worker)]
    if event.worker.node_id not in state.workers:
        return state, []
    state = replace(state, workers=_without(state.workers, event.worker.node_id))
    if state.phase is Phase.STOPPING:
        return state, []
    return then(wait_on(rules, state, now), after=[ExplainLoss(event.worker)])


def _without(workers: Mapping[str, Worker], node_id: str) -> dict[str, Worker]:
    """The others.  Copied without a loop in Python: when 10,000 workers leave, this is done 10,000 times."""
    left = dict(workers)
    del left[node_id]
    return left


def worker_lost(rules: HeadRules, state: HeadState, event: on.WorkerLost, now: float) -> Step:
    if state.phase is Phase.STOPPING:
        return state, []
    if event.worker.job:
        return state, [_elastic_lost(event)]
    if event.cause.signalled and event.worker.node_id not in state.losses:
        # scancel or the time limit: this node gets the same signal in a moment.
        losses = {**state.losses, event.worker.node_id: event}
        return replace(state, losses=losses), [Arm(LOSS + event.worker.node_id, now + SAME_SIGNAL_S)]
    return decide_loss(rules, state, event, now)


def _elastic_lost(event: on.WorkerLost) -> Action:
    """Worker jobs come and go: the cluster goes on without the worker."""
    worker, cause = event.worker, event.cause
    if cause.orderly:
        return Note(f"worker {worker.host} ({worker.ip}) left: {cause.text}")
    return Warn(f"{_loss_text(event)}; the cluster goes on without it")


def decide_loss(rules: HeadRules, state: HeadState, event: on.WorkerLost, now: float) -> Step:
    text = _loss_text(event)
    losses = {name: loss for name, loss in state.losses.items() if name != event.worker.node_id}
    state = replace(state, losses=losses)
    told: list[Action] = []
    if state.driver_exit is not None:
        state, told = driver_failed(rules, state, (event.worker.host, text))
        if state.phase is Phase.STOPPING or rules.service is None:
            return state, told
    driving = Phase.RUNNING in (state.phase, state.resumes if state.phase is Phase.RECOVERING else None)
    if ends_the_cluster(rules.loss, driving=driving, spare=rules.spare):
        return then(finish(rules, state, _worker_lost_end(event, text)), before=told)
    told.append(Warn(f"{text}; {len(state.workers)} of {rules.expected} left"))
    if not driving or state.shortage is not None or len(state.workers) >= rules.enough():
        return state, told
    state = replace(state, shortage=event)
    if rules.loss.wait_s > 0:
        told.append(Arm(SHORTAGE, now + rules.loss.wait_s))
        if rules.service is not None:
            return then(rules.service.lost_node(rules, state, event.worker.host), before=told)
        return state, told
    return then(too_few(rules, state), before=told)


def too_few(rules: HeadRules, state: HeadState) -> Step:
    """End the cluster if too few workers are left, once the time is over in which they could come back."""
    if state.shortage is None:
        return state, []
    wait_s = rules.loss.wait_s
    left = f"{len(state.workers)} left{f' after {wait_s:g} s' if wait_s else ''}, {rules.enough()} needed"
    text = f"{_loss_text(state.shortage)}; {left}"
    return finish(rules, state, _worker_lost_end(state.shortage, text))


def _loss_text(event: on.WorkerLost) -> str:
    return f"worker {event.worker.host} ({event.worker.ip}) is lost: {event.cause.text}"


def _worker_lost_end(event: on.WorkerLost, text: str) -> End:
    return End(ExitCode.UNHEALTHY, text, EndReason.WORKER_LOST.value, failed_host=event.worker.host)


def workers_timer(rules: HeadRules, state: HeadState, name: str, now: float) -> Step | None:
    """Handle a timer of this module; None for a timer of another one."""
    if name.startswith(LOSS):
        loss = state.losses.get(name.removeprefix(LOSS))
        return decide_loss(rules, state, loss, now) if loss is not None else (state, [])
    if name == WORKERS:
        state, actions = wait_on(rules, state, now)
        return state, [*actions, ReadReports()] if state.phase is Phase.WAITING else actions
    if name == PROGRESS:
        return progress(rules, state, now)
    if name == SETTLE:
        return wait_on(rules, state, now)
    if name == SHORTAGE:
        return too_few(rules, state)
    return None
