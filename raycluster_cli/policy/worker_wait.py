"""The head's wait for its workers: whether it is over, which are missing, and why they cannot join."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..model.hostlist import format_hostlist
from ..model.status import NodePhase
from ..model.wording import count, duration
from .stopping import SAME_SIGNAL_S
from .values import WorkerReport

#: When the head first says which workers it waits for, and how often after that.
FIRST_TOLD_S, TOLD_AGAIN_S = 10.0, 30.0

#: This many hosts are named one by one; the others as a hostlist.
NAMED = 8

#: For this many failed workers the message has the reason.
EXPLAINED = 3

#: The hint for a task that ended before it could report why.
TASK_ENDED_HINT = (
    "See srun's own message for its exit code: 127 means that raycluster was not found on that node. Is the "
    "environment on a file system that all nodes share?"
)


def too_many_cannot_join(
    reports: Mapping[str, WorkerReport], without_task: Sequence[str], *, expected: int, quorum: int
) -> str | None:
    """The error once so many workers cannot join that the wait for the others is useless.

    ``without_task``: hosts that have no task any more; most have reported nothing.

    >>> reports = {"n3": WorkerReport("failed", "n3 has another Ray")}
    >>> too_many_cannot_join(reports, [], expected=3, quorum=3)
    '1 worker of 3 cannot join: n3: has another Ray'
    >>> too_many_cannot_join(reports, [], expected=3, quorum=2) is None
    True
    >>> too_many_cannot_join({"n3": WorkerReport("gone", "ended by SIGTERM", 2)}, [], expected=3, quorum=3)
    '1 worker of 3 cannot join: n3: ended by SIGTERM'
    >>> too_many_cannot_join({"n3": WorkerReport("head found", "", 20)}, ["n3"], expected=3, quorum=3)
    '1 worker of 3 cannot join: n3: its task ended without reporting why (last report: head found)'
    """
    failed = sorted(host for host, report in reports.items() if has_left(report))
    killed = [host for host in without_task if host in reports and host not in failed]
    without_task = [host for host in without_task if host not in reports]
    number = len(failed) + len(killed) + len(without_task)
    if not number or expected - number >= quorum:
        return None
    told = [f"{host}: {reports[host].message.removeprefix(f'{host} ')}" for host in failed[:EXPLAINED]]
    for host in killed[:EXPLAINED]:
        last = reports[host].message or reports[host].phase
        told.append(f"{host}: its task ended without reporting why (last report: {last})")
    hint = ""
    if without_task:
        told.append(f"on {format_hostlist(without_task)} the task ended before raycluster ran in it")
        hint = f". {TASK_ENDED_HINT}"
    return f"{count(number, 'worker')} of {expected} cannot join: {'; '.join(told)}{hint}"


def has_left(report: WorkerReport) -> bool:
    """Whether a worker has ended for good.  One that has just exited cleanly may have got a signal that the
    head gets in a moment: then the signal is the reason of the end.
    """
    just_now = report.age_s < SAME_SIGNAL_S
    return report.phase == NodePhase.FAILED.value or (report.phase == NodePhase.GONE.value and not just_now)


def too_late(missing: str, *, awaited: int, expected: int, timeout_s: float) -> str:
    """The error at the deadline."""
    return f"{awaited} of {count(expected, 'worker')} did not join within {timeout_s:g} s: {missing}. " + (
        "Start them within this time (--timeout), or expect fewer (--expected-workers)."
        if missing == _unknown(awaited)
        else "See these hosts' lines above, or give more time with --timeout."
    )


def _unknown(awaited: int) -> str:
    """In place of the hosts, where Slurm does not tell them."""
    return f"{awaited} more ({'its host is' if awaited == 1 else 'their hosts are'} not known)"


def missing_workers(
    hosts: Sequence[str],
    joined: Collection[str],
    reports: Mapping[str, WorkerReport],
    *,
    awaited: int,
    since_read_s: float = 0.0,
) -> str:
    """The hosts that have not joined, with the last report of each where there is one.

    ``hosts``: where workers are expected, as far as Slurm tells.

    >>> missing_workers(["n2", "n3"], ["n2"], {}, awaited=1)
    'n3 (never reported)'
    >>> missing_workers(["n3"], [], {"n3": WorkerReport("waiting for head", "importing ray", 41)}, awaited=1)
    'n3 (last report 41 s ago: importing ray)'
    >>> missing_workers([], [], {}, awaited=2)
    '2 more (their hosts are not known)'
    """
    left = [host for host in hosts if host not in joined] or sorted(
        host for host in reports if host not in joined
    )
    if not left:
        return _unknown(awaited)
    told = []
    for host in left[:NAMED]:
        report = reports.get(host)
        if report is None:
            told.append(f"{host} (never reported)")
        else:
            ago = duration(report.age_s + since_read_s)
            told.append(f"{host} (last report {ago} ago: {report.message or report.phase})")
    if len(left) > NAMED:
        told.append(f"and {len(left) - NAMED} more: {format_hostlist(left[NAMED:])}")
    return ", ".join(told)
