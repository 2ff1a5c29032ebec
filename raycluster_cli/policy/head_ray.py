"""The head's own GCS and raylet: lost, or started again (--head-recovery)."""

from __future__ import annotations

import signal
from dataclasses import replace

from ..model.errors import ExitCode
from ..model.status import EndReason
from ..model.wording import count, describe_code, duration
from . import events as on
from .actions import Action, Arm, KillSilent, RestartGcs, RestartHead, Say, StartDriver, Warn
from .head_end import finish
from .head_state import HeadRules, HeadState, Step, then
from .head_workers import wait_on, wait_timers
from .stopping import files_gone_text
from .values import End, Phase

#: Rest before the head's Ray is started again, doubled each time.
RECOVERY_DELAY_S = 0.3

#: How long the head waits, after a process of its Ray was ended by SIGTERM, for the same signal itself.
HEAD_DEATH_S = 0.3

#: The timer at which that wait is over.
HEAD_DEATH = "head-death"


def head_process_died(rules: HeadRules, state: HeadState, event: on.HeadProcessDied, now: float) -> Step:
    if state.phase is Phase.STOPPING:
        return state, []
    if state.phase is Phase.RECOVERING:
        if event.name == "raylet" and state.recovers == "gcs":
            # The driver and this node's tasks are gone with it: the GCS alone is not enough any more.
            text = _death_text(rules, event)
            warning = Warn(f"{text} during the recovery; starting the whole head again")
            return replace(state, recovers="head", recovers_from=text), [
                warning,
                RestartHead(_delay_s(state)),
            ]
        return state, []  # the recovery notices it itself, and reports it
    # Before its Ray is up there is nothing to recover: a start that fails ends the run.
    up = state.phase in (Phase.WAITING, Phase.RUNNING)
    if up and rules.head_recovery and state.recoveries < rules.max_restarts:
        return _recover(rules, state, event, _death_text(rules, event))
    if event.code in (0, -signal.SIGTERM):  # perhaps by a signal that this process gets in a moment
        if state.death is not None:
            return state, []
        return replace(state, death=event), [Arm(HEAD_DEATH, now + HEAD_DEATH_S)]
    return _head_died(rules, state, event)


def _death_text(rules: HeadRules, event: on.HeadProcessDied) -> str:
    return f"the head's {event.name} on {rules.host} {describe_code(event.code)}"


def _head_died(rules: HeadRules, state: HeadState, event: on.HeadProcessDied) -> Step:
    times = f" after {count(state.recoveries, 'recovery', 'recoveries')}" if state.recoveries else ""
    return head_lost(rules, state, _death_text(rules, event) + times, event.log)


def _delay_s(state: HeadState) -> float:
    """The rest before this recovery; ``state.recoveries`` counts it already."""
    return RECOVERY_DELAY_S * float(2 ** (state.recoveries - 1))


def _recover(rules: HeadRules, state: HeadState, event: on.HeadProcessDied, text: str) -> Step:
    """--head-recovery: bring the head's Ray back at the same address; see docs/reliability.md.

    A GCS that died alone is started again: raylet, driver and workers connect to it again.  If the head's
    raylet is gone, the driver and the tasks of this node are gone with it, and all of the head is started
    again; then the driver is.
    """
    whole = event.name == "raylet"
    state = replace(
        state,
        phase=Phase.RECOVERING,
        resumes=state.phase,
        recoveries=state.recoveries + 1,
        recovers="head" if whole else "gcs",
        recovers_from=text,
        restart_driver=state.restart_driver or state.driver_exit is not None,
        driver_exit=None,
    )
    restart = RestartHead(_delay_s(state)) if whole else RestartGcs(_delay_s(state))
    return state, [Warn(f"{text}; recovering ({state.recoveries} of {rules.max_restarts})"), restart]


def recovered(rules: HeadRules, state: HeadState, event: on.Recovered, now: float) -> Step:
    if state.phase is not Phase.RECOVERING:
        return state, []
    what = "the head is back" if state.recovers == "head" else "the GCS is back"
    if state.recovers == "gcs" and state.driver_running:
        what = f"{what}; the driver goes on"
    actions: list[Action] = [Say(f"{what} ({duration(event.took_s)})")]
    state = replace(state, phase=state.resumes, recovers="", recovers_from="")
    if state.restart_driver and rules.service is not None and state.server is not None:
        state, more = rules.service.clear_first(rules, state)
        actions += more
    elif state.restart_driver:
        restarts = state.driver_restarts + 1
        state = replace(state, restart_driver=False, driver_running=True, driver_restarts=restarts)
        actions += [Say(f"starting the driver again ({restarts})"), StartDriver(restarts)]
        if rules.service is not None:
            state, more = rules.service.started(rules, state, now)
            actions += more
    if state.phase is Phase.WAITING:
        actions += wait_timers(state, now)  # those that fired meanwhile had no effect
    if rules.service is not None:
        state, more = rules.service.go_on(rules, state, now)
        actions += more
    return then(wait_on(rules, state, now), before=actions)


def recovery_failed(rules: HeadRules, state: HeadState, event: on.RecoveryFailed, now: float) -> Step:
    if state.phase is not Phase.RECOVERING:
        return state, []
    return head_lost(
        rules, state, f"{state.recovers_from}, and could not be recovered: {event.error}", event.log
    )


def gcs_silent(rules: HeadRules, state: HeadState, event: on.GcsSilent, now: float) -> Step:
    if state.phase not in (Phase.WAITING, Phase.RUNNING):
        return state, []
    text = f"the head's GCS on {rules.host} does not answer ({event.why})"
    return _silent(rules, state, "gcs_server", text, event.log)


def head_raylet_silent(rules: HeadRules, state: HeadState, event: on.HeadRayletSilent, now: float) -> Step:
    if state.phase not in (Phase.WAITING, Phase.RUNNING):
        return state, []
    text = f"the head's raylet on {rules.host} does not respond ({event.why})"
    return _silent(rules, state, "raylet", text, event.log)


def _silent(rules: HeadRules, state: HeadState, name: str, text: str, log: str) -> Step:
    if rules.head_recovery and state.recoveries < rules.max_restarts:
        return state, [Warn(f"{text}; ending it"), KillSilent(name)]
    return head_lost(rules, state, text, log)


def files_gone(rules: HeadRules, state: HeadState, event: on.FilesGone, now: float) -> Step:
    """Ray on the head can serve no new process: new tasks would never start."""
    if state.phase not in (Phase.WAITING, Phase.RUNNING):
        return state, []
    return head_lost(rules, state, files_gone_text(event.path, rules.host))


def head_lost(rules: HeadRules, state: HeadState, text: str, log: str = "") -> Step:
    end = End(ExitCode.UNHEALTHY, text, EndReason.HEAD_LOST.value, failed_host=rules.host, log=log)
    return finish(rules, state, end)


def head_death(rules: HeadRules, state: HeadState) -> Step:
    """No signal came, so the process was ended by something else."""
    if state.death is None:
        return state, []
    return _head_died(rules, state, state.death)
