"""Requests to stop: signals, a lost keeper, a program that ended; and how long the driver gets to end."""

from __future__ import annotations

import signal

from ..model.errors import ExitCode
from ..model.status import EndDetail, EndReason
from ..model.value import Value
from .actions import Action, Arm, Hurry, Say
from .events import SignalReceived
from .values import End

#: Signals that ask a run to stop, in the order of the exit codes 128 + N; all others are for the driver.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

#: After a signal that asks for the end everything is over within this time (or --grace and RESERVE_S, if that
#: is more): Slurm's KillWait is 30 s by default, and what it kills cannot clean up.
SIGNAL_CEILING_S = 24.0

#: How long the shutdown takes after the driver has ended: drain, logs, Ray, the last report.
RESERVE_S = 10.0

#: How long the driver gets to end once the head is lost: it can no longer do anything with Ray.
LOST_GRACE_S = 2.0

#: The same signal from Slurm reaches all nodes within this time.
SAME_SIGNAL_S = 1.5

#: The timer after which an orderly end is cut short.
HURRY = "hurry"


class Hurrying(Value):
    """Whether the end is cut short, and when it will be."""

    at: float | None = None
    """The ceiling that the first signal set, on the clock of ``now``; later ones do not move it."""
    asked: bool = False
    """Whether the shutdown was already told not to wait any longer."""


def signal_end(number: int, host: str) -> End:
    """The end of a run that a signal asked to stop."""
    name = signal.Signals(number).name
    reason, detail = EndReason.SIGNAL.value, EndDetail[name].value
    return End(128 + number, f"ended by {name}", reason, failed_host=host, detail=detail)


def keeper_end(host: str) -> End:
    """The end of a run whose keeper was killed."""
    text = f"raycluster's keeper on {host} was killed"
    return End(128 + signal.SIGKILL, text, EndReason.KEEPER_KILLED.value, failed_host=host)


def parent_end(orderly: bool) -> End:
    """The end of a node whose Python program has ended: with ``orderly`` it said that its work is done."""
    if orderly:
        return End(ExitCode.OK, "the program that started this node is done", EndReason.STOP.value)
    return End(ExitCode.SIGTERM, "the program that started this node has ended", EndReason.STOP.value)


def files_gone_text(path: str, host: str) -> str:
    """What was removed, and what to do about it."""
    return (
        f"{path} on {host} was removed while Ray needed it. Something cleans that directory: keep it from "
        "raycluster's directories there (rc-*), or choose another place with --temp-dir"
    )


def bug_end(name: str, error: str, host: str) -> End:
    """The end of a run that an error in raycluster itself ends."""
    text = f"an error in raycluster ({name}): {error}"
    return End(ExitCode.FAILURE, text, EndReason.BUG.value, failed_host=host)


def on_ending_signal(
    event: SignalReceived, hurrying: Hurrying, now: float, *, stopping: bool, grace_s: float
) -> tuple[Hurrying, list[Action]]:
    """The actions for a signal that asks for the end, besides those of the end itself.

    SIGTERM is repeated by Slurm (to the step, and through srun); only SIGINT means "at once", when it comes
    again or while the run ends already.
    """
    actions: list[Action] = []
    if event.number == signal.SIGINT and (stopping or event.count > 1) and not hurrying.asked:
        again = " again" if event.count > 1 else ""
        actions += [Say(f"SIGINT{again}: ending at once"), Hurry()]
        hurrying = Hurrying(hurrying.at, asked=True)
    if hurrying.at is None:
        # Also for an end that was under way: from here on Slurm counts.
        at = now + max(SIGNAL_CEILING_S, grace_s + RESERVE_S)
        actions.append(Arm(HURRY, at))
        hurrying = Hurrying(at, hurrying.asked)
    return hurrying, actions


def on_ceiling(hurrying: Hurrying) -> tuple[Hurrying, list[Action]]:
    """The time that a shutdown after a signal may take is over."""
    return Hurrying(hurrying.at, asked=True), [] if hurrying.asked else [Hurry()]


def driver_signal(end: End) -> int:
    """The signal that tells the driver to end."""
    return signal.SIGINT if end.code == ExitCode.SIGINT else signal.SIGTERM


def driver_grace_s(end: End, *, grace_s: float, stop_before_s: float) -> float:
    """How long the driver may take to end, in seconds.

    >>> driver_grace_s(End(5, reason="head-lost"), grace_s=30, stop_before_s=0)
    2.0
    >>> driver_grace_s(End(143, reason="time-limit"), grace_s=30, stop_before_s=120)
    110.0
    """
    if end.reason == EndReason.HEAD_LOST.value:
        return min(grace_s, LOST_GRACE_S)
    if end.reason == EndReason.TIME_LIMIT.value:
        return max(grace_s, stop_before_s - RESERVE_S)
    return grace_s
