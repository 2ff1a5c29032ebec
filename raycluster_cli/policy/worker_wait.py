"""The head's wait for its workers: whether it goes on, with whom the cluster starts, and why it cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..model.status import NodePhase
from ..slurm.hostlist import format_hostlist
from ..slurm.task_probe import TASK_ENDED_HINT
from ..system.report import count, duration
from .values import WorkerReport

#: When a person is told for whom the head waits, and how often after that.
FIRST_TOLD_S, TOLD_AGAIN_S = 10.0, 30.0

#: So many hosts are named one by one; the others as a hostlist.
NAMED = 8


def too_many_failed(reports: Mapping[str, WorkerReport], *, expected: int, quorum: int) -> str | None:
    """The error once so many workers report that they cannot join that none need be waited for.

    >>> reports = {"n3": WorkerReport("failed", "n3 has another Ray")}
    >>> too_many_failed(reports, expected=3, quorum=3)
    '1 worker of 3 cannot join: n3: has another Ray'
    >>> too_many_failed(reports, expected=3, quorum=2) is None
    True
    """
    failed = {host: report for host, report in reports.items() if report.phase == NodePhase.FAILED.value}
    if not failed or expected - len(failed) >= quorum:
        return None
    told = [f"{host}: {one.message.removeprefix(f'{host} ')}" for host, one in sorted(failed.items())[:3]]
    return f"{count(len(failed), 'worker')} of {expected} cannot join: {'; '.join(told)}"


def too_many_tasks_ended(without_task: Sequence[str], *, expected: int, quorum: int) -> str | None:
    """The error once so many silent nodes have no task any more that none need be waited for."""
    if not without_task or expected - len(without_task) >= quorum:
        return None
    return (
        f"{count(len(without_task), 'worker')} of {expected} cannot join: on {format_hostlist(without_task)} "
        f"the task ended before raycluster ran in it. {TASK_ENDED_HINT}"
    )


def too_late(missing: str, *, awaited: int, expected: int, timeout_s: float) -> str:
    """The error at the deadline."""
    return (
        f"{awaited} of {count(expected, 'worker')} did not join within {timeout_s:g} s: {missing}. "
        "Look at these hosts' lines above, or give more time with --timeout."
    )


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
    '2 more (their hosts are not known here)'
    """
    left = [host for host in hosts if host not in joined] or sorted(
        host for host in reports if host not in joined
    )
    if not left:
        return f"{awaited} more (their hosts are not known here)"
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
