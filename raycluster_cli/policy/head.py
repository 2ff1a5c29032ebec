"""The head's policy: ``step(rules, state, event, now)`` is the only place where a head decides.

``now`` is in seconds of a clock that never goes back; timers (:class:`.actions.Arm`) are on the same clock.

=====================  =================================================================
:mod:`.head_workers`   the wait for the workers, a quorum, losses (--on-worker-loss)
:mod:`.head_ray`       the head's own GCS and raylet (--head-recovery)
:mod:`.head_driver`    the driver's own end
:mod:`.demand`         tasks and actors that fit on no node
:mod:`.head_end`       signals, `raycluster stop`, the time limit, requeue
:mod:`.service`        a driver that is a server: health, restarts (--service)
=====================  =================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from . import events as on
from .actions import AskTimeLimit, ReadReports
from .demand import demand_known
from .head_driver import DRIVER_CONNECTS, DRIVER_FAILED, driver_connects, driver_exited, driver_known
from .head_end import (
    TIME_LIMIT,
    driver_stopped,
    guard_failed,
    keeper_ended,
    parent_ended,
    signal_received,
    start_ended,
    stop_requested,
    time_limit_known,
)
from .head_ray import (
    HEAD_DEATH,
    files_gone,
    gcs_silent,
    head_death,
    head_process_died,
    head_raylet_silent,
    recovered,
    recovery_failed,
)
from .head_state import HeadRules, HeadState, Step
from .head_workers import (
    lease_taken,
    ray_started,
    reports_read,
    worker_joined,
    worker_left,
    worker_lost,
    workers_timer,
)
from .stopping import HURRY, on_ceiling
from .values import Phase


def begin(rules: HeadRules, now: float) -> HeadState:
    """The state of a head that was just launched."""
    return HeadState(deadline=now + rules.timeout_s)


def step(rules: HeadRules, state: HeadState, event: object, now: float) -> Step:
    """Decide: the new state and the actions that follow from an event."""
    return _STEPS[type(event)](rules, state, event, now)


def _timer_fired(rules: HeadRules, state: HeadState, event: on.TimerFired, now: float) -> Step:
    if event.name == HURRY:
        hurrying, actions = on_ceiling(state.hurrying)
        return replace(state, hurrying=hurrying), actions
    if state.phase is Phase.STOPPING:
        return state, []
    if event.name == HEAD_DEATH:
        return head_death(rules, state)
    if event.name == DRIVER_FAILED:
        return state, [ReadReports()] if state.driver_exit is not None else []
    if event.name == DRIVER_CONNECTS:
        return driver_connects(state)
    if event.name == TIME_LIMIT:
        return state, [AskTimeLimit(now=True)]
    if rules.service is not None and (taken := rules.service.timer(rules, state, event.name, now)):
        return taken
    return workers_timer(rules, state, event.name, now) or (state, [])


def _of_server(rules: HeadRules, state: HeadState, event: object, now: float) -> Step:
    if rules.service is None or state.server is None or state.phase is Phase.STOPPING:
        return state, []
    return rules.service.step(rules, state, event, now)


_STEPS: Mapping[type, Callable[[HeadRules, HeadState, Any, float], Step]] = {
    on.LeaseTaken: lease_taken,
    on.StartEnded: start_ended,
    on.RayStarted: ray_started,
    on.ReportsRead: reports_read,
    on.WorkerJoined: worker_joined,
    on.WorkerLeft: worker_left,
    on.WorkerLost: worker_lost,
    on.HeadProcessDied: head_process_died,
    on.Recovered: recovered,
    on.RecoveryFailed: recovery_failed,
    on.GcsSilent: gcs_silent,
    on.DemandKnown: demand_known,
    on.HeadRayletSilent: head_raylet_silent,
    on.DriverExited: driver_exited,
    on.DriverKnown: driver_known,
    on.DriverStopped: driver_stopped,
    on.SignalReceived: signal_received,
    on.KeeperEnded: keeper_ended,
    on.ParentEnded: parent_ended,
    on.GuardFailed: guard_failed,
    on.FilesGone: files_gone,
    on.StopRequested: stop_requested,
    on.TimeLimitKnown: time_limit_known,
    on.ServerAnswered: _of_server,
    on.ServerSilent: _of_server,
    on.ServerCleared: _of_server,
    on.ServerIdle: _of_server,
    on.TimerFired: _timer_fired,
}
