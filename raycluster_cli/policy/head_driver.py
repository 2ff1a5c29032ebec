"""The driver's own end, and what it may come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..model.status import EndDetail, EndReason, NodePhase
from ..model.wording import count, describe_code, duration, shell_code
from . import events as on
from .actions import Arm, AskForDriver, Note, ReadReports, Warn
from .head_end import finish
from .head_state import HeadRules, HeadState, Step, then
from .values import End, Phase, WorkerReport

#: How long the head waits, after the driver failed, for the death of a raylet that may be its cause
#: (--head-recovery).
RAYLET_DEATH_S = 0.2

#: The timer at which that wait is over.
DRIVER_FAILED = "driver-failed"

#: A driver that has not connected to its cluster after this time probably never will.
CONNECTS_WITHIN_S = 60.0

#: The timer at which the GCS is asked.
DRIVER_CONNECTS = "driver-connects"

#: A worker that ended longer ago than this is not why the driver failed.
LOSS_BEFORE_S = 30.0


def driver_exited(rules: HeadRules, state: HeadState, event: on.DriverExited, now: float) -> Step:
    if not state.driver_running:
        return state, []
    state = replace(state, driver_running=False)
    if state.phase is Phase.STOPPING:
        return state, []  # DriverStopped follows, once the last of its processes has ended
    if rules.service is not None and rules.service.restarts_now(state):
        return state, []  # ServerCleared follows
    if state.phase is Phase.RECOVERING and (event.code or state.recovers == "head"):
        return replace(state, restart_driver=True), []
    state = replace(state, driver_exit=event)
    if event.code == 0:
        asks = rules.expected and not state.driver_connected and state.phase is Phase.RUNNING
        return (state, [AskForDriver()]) if asks else driver_failed(rules, state, None)
    if rules.head_recovery:
        return state, [
            Arm(DRIVER_FAILED, now + RAYLET_DEATH_S)
        ]  # it may have seen the raylet's end before we did
    return state, [ReadReports()]


def driver_failed(rules: HeadRules, state: HeadState, loss: tuple[str, str] | None) -> Step:
    """The driver's end is the run's end; ``loss``: (host, text) of a worker that was lost just before."""
    assert state.driver_exit is not None
    code = state.driver_exit.code
    how = f"{describe_code(code)} after {duration(state.driver_exit.ran_s)}"
    text = f"the driver {how}"
    if rules.service is not None:
        if taken := rules.service.failed(rules, state, how, loss):
            return taken
        if state.driver_restarts:
            text = f"{text}; it was started again {count(state.driver_restarts, 'time')}"
    detail = ""
    if code == 0 and state.driver_connected is False:
        text, detail = f"{text}; no driver has connected to this cluster", EndDetail.NEVER_CONNECTED.value
    failed_host = rules.host if code else ""
    if code and loss is not None:
        failed_host, text = loss[0], f"{text}; {loss[1]}"
    end = End(shell_code(code), text, EndReason.DRIVER.value, failed_host=failed_host, detail=detail)
    return then(finish(rules, state, end), before=[Note(text)])


def driver_connects(state: HeadState) -> Step:
    """The time is over in which most drivers connect."""
    return state, [AskForDriver()] if state.driver_running and not state.driver_connected else []


def driver_known(rules: HeadRules, state: HeadState, event: on.DriverKnown, now: float) -> Step:
    """Warn of a driver that has not connected: it may complete without using the cluster's nodes."""
    state = replace(state, driver_connected=event.connected)
    if state.phase is not Phase.RUNNING:
        return state, []
    if state.driver_exit is not None:
        return driver_failed(rules, state, None)
    if event.connected is not False or not state.driver_running:
        return state, []
    size = count(rules.expected + 1, "node")
    text = (
        f"no driver has connected to this cluster of {size} in {CONNECTS_WITHIN_S:g} s: "
        'ray.init() without an address, or address="auto", connects; address="local" starts another Ray, '
        "and a fixed HOST:6379 or _temp_dir=… finds none"
    )
    return state, [Warn(text)]


def lost_just_now(reports: Mapping[str, WorkerReport]) -> tuple[str, str] | None:
    """The host of a worker that ended just now, and what it reported; None when there is none.

    >>> lost_just_now({"n2": WorkerReport("failed", "the raylet on n2 was killed by SIGKILL", age_s=0.4)})
    ('n2', 'the raylet on n2 was killed by SIGKILL')
    >>> lost_just_now({"n2": WorkerReport("failed", "n2 has another Ray", age_s=3600)}) is None
    True
    """
    ending = (NodePhase.STOPPING.value, NodePhase.FAILED.value)
    lost = (host for host, one in reports.items() if one.phase in ending and one.age_s <= LOSS_BEFORE_S)
    host = next(lost, None)
    return None if host is None else (host, reports[host].message)
