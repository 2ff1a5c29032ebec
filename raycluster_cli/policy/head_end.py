"""The end of a head's run: its causes, the driver's signal and grace, and the requeue of the job."""

from __future__ import annotations

import signal
from dataclasses import replace

from ..model.errors import ExitCode
from ..model.status import EndReason, NodePhase
from ..model.wording import duration, shell_code
from . import events as on
from .actions import (
    Action,
    Arm,
    AskTimeLimit,
    EnterPhase,
    Leave,
    Note,
    Say,
    StopDriver,
    TellDriver,
    Warn,
    WriteEnd,
)
from .head_state import HeadRules, HeadState, Step, then
from .stopping import (
    ENDING,
    bug_end,
    driver_grace_s,
    driver_signal,
    keeper_end,
    on_ending_signal,
    parent_end,
    signal_end,
)
from .values import End, Phase

#: How often Slurm is asked for a time limit that may have been changed (--stop-before): more often where the
#: notice is short, so that a limit which was shortened is known before it.
LIMIT_AGAIN_S, LIMIT_LEAST_S = 60.0, 20.0

#: The timer at which Slurm is asked.
TIME_LIMIT = "time-limit"


def start_ended(rules: HeadRules, state: HeadState, event: on.StartEnded, now: float) -> Step:
    if state.phase is Phase.RUNNING:
        state = replace(state, driver_running=False)  # the driver could not be started
    return finish(rules, state, event.end)


def signal_received(rules: HeadRules, state: HeadState, event: on.SignalReceived, now: float) -> Step:
    if event.number not in ENDING:
        if state.driver_running:
            return replace(state, told=True), [TellDriver(event.number)]
        return state, [Note(f"{signal.Signals(event.number).name} ignored: no driver is running")]
    stopping = state.phase is Phase.STOPPING
    hurrying, actions = on_ending_signal(event, state.hurrying, now, stopping=stopping, grace_s=rules.grace_s)
    by_hand = event.number == signal.SIGINT and event.count == 1
    if by_hand and state.driver_running and not stopping and rules.grace_s > 0:
        text = f"SIGINT: the driver has {rules.grace_s:g} s to end; a second Ctrl-C ends everything at once"
        if rules.at_terminal:
            text += f". Ctrl-C in a shell of `raycluster attach {rules.at_terminal}` does not end the cluster"
        actions.insert(0, Say(text))
    state = replace(state, hurrying=hurrying)
    return then(finish(rules, state, signal_end(event.number, rules.host)), before=actions)


def keeper_ended(rules: HeadRules, state: HeadState, event: on.KeeperEnded, now: float) -> Step:
    """Write the end at once: where Slurm tracks processes by cgroup it now kills all others of the task."""
    if state.phase is Phase.STOPPING:
        return state, []
    end = keeper_end(rules.host)
    return then(finish(rules, state, end), before=[WriteEnd(end)])


def parent_ended(rules: HeadRules, state: HeadState, event: on.ParentEnded, now: float) -> Step:
    return finish(rules, state, parent_end(event.orderly))


def guard_failed(rules: HeadRules, state: HeadState, event: on.GuardFailed, now: float) -> Step:
    return finish(rules, state, bug_end(event.name, event.error, rules.host))


def stop_requested(rules: HeadRules, state: HeadState, event: on.StopRequested, now: float) -> Step:
    """A stopped driver did not complete: its exit code keeps jobs that depend on it from starting."""
    text = f"stopped by `raycluster stop`{f' ({event.by})' if event.by else ''}"
    code = ExitCode.SIGTERM if rules.has_driver else ExitCode.OK
    return finish(rules, state, End(code, text, EndReason.STOP.value))


def time_limit_known(rules: HeadRules, state: HeadState, event: on.TimeLimitKnown, now: float) -> Step:
    if rules.stop_before_s <= 0 or state.phase is Phase.STOPPING:
        return state, []
    if event.left_s is not None:
        state = replace(state, limit_at=now + event.left_s)
    again_s = min(max(rules.stop_before_s / 2, LIMIT_LEAST_S), LIMIT_AGAIN_S)
    if state.limit_at is None:
        again = Arm(TIME_LIMIT, now + again_s)  # its controller may be away for a while
        if state.limit_warned:
            return state, [again]
        text = "--stop-before has no effect: Slurm does not say when this job ends"
        return replace(state, limit_warned=True), [Warn(text), again]
    left_s = state.limit_at - now
    if left_s > rules.stop_before_s:
        return state, [Arm(TIME_LIMIT, now + min(left_s - rules.stop_before_s, again_s))]
    if not event.asked_now:
        return state, [AskTimeLimit(now=True)]  # the limit may have been raised meanwhile
    text = f"the job's time limit is {duration(max(left_s, 0))} away"
    code = ExitCode.SIGTERM if rules.has_driver else ExitCode.OK
    return finish(rules, state, End(code, text, EndReason.TIME_LIMIT.value))


def finish(rules: HeadRules, state: HeadState, end: End) -> Step:
    """The end is known; the first reason counts."""
    if state.phase is Phase.STOPPING:
        return state, []
    actions: list[Action] = [EnterPhase(NodePhase.STOPPING, end.message)]
    if end.reason == EndReason.ERROR.value:
        actions.insert(0, Say(f"error: {end.message}"))
    state = replace(state, phase=Phase.STOPPING, end=end)
    if not state.driver_running:
        return then(_leave(rules, state, end), before=actions)
    grace_s = driver_grace_s(end, grace_s=rules.grace_s, stop_before_s=rules.stop_before_s)
    return replace(state, told=True), [*actions, StopDriver(driver_signal(end), grace_s)]


def _leave(rules: HeadRules, state: HeadState, end: End) -> Step:
    if state.left:
        return state, []
    asks = rules.requeue_on_preempt and rules.in_job and end.code == rules.requeue_code
    leave = Leave(end, requeue=asks and rules.has_driver and state.told)
    return replace(state, end=end, left=True), [leave]


def driver_stopped(rules: HeadRules, state: HeadState, event: on.DriverStopped, now: float) -> Step:
    """The run's exit code: the driver's before the time limit, 128 + N after a signal.

    A driver that asks for a requeue gives the code itself; not after `raycluster stop`, which is for good.
    """
    state = replace(state, driver_running=False)
    end = state.end
    if end is None:  # ended for a recovery of the head
        return replace(state, restart_driver=state.phase is Phase.RECOVERING), []
    if event.code is not None:
        code = shell_code(event.code)
        asks = code == rules.requeue_code and rules.requeue_on_preempt and end.reason != EndReason.STOP.value
        if end.reason == EndReason.TIME_LIMIT.value or asks:
            end = end.but(code=code, message=f"{end.message}; the driver ended with code {code}")
    return _leave(rules, state, end)
