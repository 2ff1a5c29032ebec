"""Nodes that do not end: the srun of their step would wait for their tasks.

The last act of one node, when all others have ended: the step is cancelled (slurm.step_cancel).  At once
where only hosts that have stopped responding are left; after :data:`HUNG_S` where a host responds and its
task does not end: its supervisor hangs, for example in a call on a file system.  For workers in steps apart
from their head's, the head does it when it ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import starmap

from ..model.hostlist import format_hostlist
from ..model.record import HeadInfo, NodeReport
from ..slurm.allocation import Allocation
from ..slurm.step_cancel import cancel_step_after
from ..state.record import Record
from ..system.waiting import within
from .parts import Parts

#: How long the other nodes get to end: Slurm kills what still runs in a step that is cancelled.
OTHERS_END_S = 15.0

#: How often their reports are read.
POLL_S = 0.5

#: How long a worker that was told of the end may take to report its own before srun's wait gets a limit; and
#: per node of the step, as the reports of large steps come later.  Longer than it takes to keep its logs.
PATIENCE_S, PATIENCE_PER_NODE_S = 8.0, 0.01

#: The first pause between two looks at these reports: the end of a run takes no longer for them.
FIRST_POLL_S = 0.02

#: What reading a report costs, on a shared file system.
PER_FILE_S = 0.0002

#: That limit.  Longer than a worker takes to keep its logs and end its processes.
HUNG_S = 60

#: How long srun gets to learn of the end of a worker that was cut off when it ended.
CUT_OFF_S = 20

#: Within this time a head that lives has written that a worker has ended: it looks every half second.
REACTS_S = 3.0

#: A host that has power and network answers within this time, if only by a refusal.
PROBE_S = 2.0

#: How often a head's host is asked before it counts as failed.
PROBES = 2

#: A port on which nothing listens ("discard", RFC 863).
PROBE_PORT = 9


async def cancel_step_without(
    parts: Parts,
    lost: Mapping[str, str],
    *,
    probe: Callable[[str], Awaitable[bool]] | None = None,
    lives: Callable[[], bool] | None = None,
    others_end_s: float = OTHERS_END_S,
    poll_s: float = POLL_S,
) -> bool:
    """Have this step cancelled if all that keeps it running is tasks on hosts that do not respond.

    Returns whether it will be.

    ``lost``: the address of each host that was lost, by name.  ``probe`` says whether the host at an address
    responds (:func:`responds`).  ``lives``: whether the record shows that a lost host lives all the same, and
    that only this node cannot reach it; asked for :data:`REACTS_S`.  ``others_end_s``: how long the other
    nodes get to report their end, which is looked for every ``poll_s``.
    Raises RayclusterError.
    """
    context = parts.context
    allocation = context.allocation
    if not lost or not context.symmetric or allocation is None or allocation.step_id is None:
        return False
    if allocation.het_size > 1 or not allocation.step_nodes:
        return False
    me = allocation.node_name or context.host
    others = [host for host in allocation.step_nodes if host != me]
    if not (silent := await _only_silent_left(parts, others, lost, probe or responds, others_end_s, poll_s)):
        return False
    if lives is not None and await _shows_life(parts, lives, poll_s):
        return False
    await cancel_step_after(_task_pid(parts), allocation, me, context.env, parts.reaper)
    parts.report.say(
        f"{', '.join(silent)} does not respond, and srun waits for its task: the step is cancelled, so that "
        "srun ends within KillWait + 2 s and not only when Slurm marks the node as down"
    )
    return True


def _task_pid(parts: Parts) -> int:
    """The process with which this node's task ends: the keeper, or the supervisor where that was killed."""
    kept = parts.context.keeper is not None and not parts.signals.keeper_gone
    return os.getppid() if kept else os.getpid()


async def _shows_life(parts: Parts, lives: Callable[[], bool], poll_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REACTS_S
    while (left_s := deadline - loop.time()) > 0:
        if await parts.reports.ask(lives, timeout_s=left_s, default=False):
            return True
        await asyncio.sleep(min(poll_s, left_s))
    return False


async def _only_silent_left(
    parts: Parts,
    others: Sequence[str],
    lost: Mapping[str, str],
    probe: Callable[[str], Awaitable[bool]],
    timeout_s: float,
    poll_s: float,
) -> list[str]:
    """The hosts that do not respond, once all others have reported their end; empty when that is not so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    record, running = parts.reports.record, list(others)
    while record is not None and loop.time() < deadline and not parts.hurry.is_set():
        left_s = deadline - loop.time()
        running = await parts.reports.ask(partial(_left, record, running), timeout_s=left_s, default=running)
        if not running:
            return []
        if all(host in lost for host in running):
            answers = await asyncio.gather(*(probe(lost[host]) for host in running))
            if not any(answers):
                return running
        await asyncio.sleep(poll_s + len(running) * PER_FILE_S)
    return []


def _left(record: Record, hosts: Sequence[str]) -> list[str]:
    """Those that have not reported their end: the directory says who has, or else the host's own file."""
    ended = {host for host, report in record.read_nodes().items() if report.has_ended}
    reports = {host: record.read_node(host) for host in hosts if host not in ended}
    return [host for host, report in reports.items() if report is None or not report.has_ended]


async def limit_wait_for_hung(
    parts: Parts,
    stayed: Mapping[str, str] | None = None,
    *,
    probe: Callable[[str], Awaitable[bool]] | None = None,
    patience_s: float | None = None,
    first_poll_s: float = FIRST_POLL_S,
) -> None:
    """Have this step cancelled :data:`HUNG_S` after its head's end if a worker's task has not ended by then.

    :data:`CUT_OFF_S` after it where a worker was cut off when it ended: srun may not have heard of that.
    ``stayed``: the address of each host whose worker was lost or did not leave, by name; ``probe`` says
    whether it responds (:func:`responds`).

    Only nodes that have reported are waited for, and only where the record has the end, so that they can read
    it.  Waits ``patience_s`` for their reports: when all have come, the step is not cancelled.
    Raises RayclusterError.
    """
    context, record = parts.context, parts.reports.record
    allocation = context.allocation
    if record is None or not context.symmetric or allocation is None or allocation.step_id is None:
        return
    if parts.hurry.is_set():  # then Slurm ends the step anyway, and soon
        return
    if allocation.het_size > 1 or not allocation.step_nodes:
        return
    me = allocation.node_name or context.host
    others = {host for host in allocation.step_nodes if host != me}
    if patience_s is None:
        patience_s = PATIENCE_S + PATIENCE_PER_NODE_S * len(others)
    probes = [(probe or responds)(ip) for host, ip in (stayed or {}).items() if host in others]
    hung, answers = await asyncio.gather(
        _without_end(parts, record, others, patience_s, first_poll_s), asyncio.gather(*probes)
    )
    if hung is None or (not hung and all(answers)):
        return
    limit_s = HUNG_S if hung else CUT_OFF_S
    await cancel_step_after(_task_pid(parts), allocation, me, context.env, parts.reaper, reported_s=limit_s)
    if not hung:
        return
    names = format_hostlist(hung)
    parts.report.say(
        f"{names} has not reported its end, and srun waits for its task: if that has not ended in "
        f"{HUNG_S} s, the step is cancelled"
    )


async def limit_wait_for_others_steps(
    parts: Parts,
    stayed: Mapping[str, str],
    *,
    probe: Callable[[str], Awaitable[bool]] | None = None,
) -> None:
    """Have steps of workers end in which a host does not respond, where the head is in none of them.

    :data:`CUT_OFF_S` after the head's end, when the workers that are left have ended: a batch script that
    waits for its srun would go on until the time limit.  ``stayed`` and ``probe`` as for
    :func:`limit_wait_for_hung`.  Raises RayclusterError.
    """
    context, record, allocation = parts.context, parts.reports.record, parts.context.allocation
    if record is None or context.symmetric or allocation is None or not stayed or parts.hurry.is_set():
        return
    answers = await asyncio.gather(*((probe or responds)(ip) for ip in stayed.values()))
    silent = [host for host, answer in zip(stayed, answers, strict=True) if not answer]
    if not silent:
        return
    nothing: Mapping[str, NodeReport] = {}
    reports = await parts.reports.ask(record.read_nodes, timeout_s=PATIENCE_S, default=nothing)
    me = allocation.node_name or context.host

    async def limit(step: Allocation, hosts: Sequence[str]) -> None:
        await cancel_step_after(_task_pid(parts), step, me, context.env, parts.reaper, reported_s=CUT_OFF_S)
        parts.report.say(
            f"{format_hostlist(hosts)} does not respond, and srun waits for it: step {step.step_id} of the "
            f"job is ended in {CUT_OFF_S} s"
        )

    steps = steps_of(allocation, reports, silent)
    done = await asyncio.gather(*starmap(limit, steps.items()), return_exceptions=True)
    for failed in filter(None, done):  # of several the first
        raise failed


def steps_of(
    allocation: Allocation, reports: Mapping[str, NodeReport], hosts: Sequence[str]
) -> dict[Allocation, list[str]]:
    """The steps of the head's job in which these hosts have workers, as their tasks see them, with the hosts.

    Not the head's own, in which a program that uses the library may go on after its cluster; not those of a
    heterogeneous job, of which each component has an srun's port of its own; and not those of worker jobs,
    which end with their script.

    >>> reports = {"n3": NodeReport("n3", "worker", "ready", step="0", launcher_port=4711)}
    >>> found = steps_of(Allocation("7", ()), reports, ["n2", "n3"])
    >>> [(step.step_id, step.launcher_port, hosts) for step, hosts in found.items()]
    [('0', 4711, ['n3'])]
    """
    found: dict[Allocation, list[str]] = {}
    if allocation.het_size > 1:
        return found
    for host in hosts:
        report = reports.get(host)
        if report is None or report.job or report.step in ("", allocation.step_id):
            continue
        step = allocation.but(
            step_id=report.step, launcher_ip=report.launcher_ip, launcher_port=report.launcher_port
        )
        found.setdefault(step, []).append(host)
    return found


async def _without_end(
    parts: Parts, record: Record, others: set[str], patience_s: float, poll_s: float
) -> list[str] | None:
    """The nodes of ``others`` that have reported, but not their end within ``patience_s``.

    None: the record does not have the cluster's end, or the end must not wait any longer.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    if not await parts.reports.ask(record.read_end, timeout_s=patience_s, default=None):
        return None
    reports = await parts.reports.ask(record.read_nodes, timeout_s=patience_s, default=None)
    running = sorted(
        host
        for host, report in (reports or {}).items()
        if host in others and not report.has_ended and report.updated >= parts.context.launched
    )
    poll_s += len(running) * PER_FILE_S
    while running and not parts.hurry.is_set():
        if (left_s := deadline - loop.time()) <= 0:
            return running
        await asyncio.sleep(min(poll_s, left_s))
        poll_s = min(poll_s * 1.5, POLL_S)
        still = partial(_not_ended, record, running)
        running = await parts.reports.ask(still, timeout_s=max(deadline - loop.time(), 0.1), default=running)
    return None if parts.hurry.is_set() else []


def _not_ended(record: Record, hosts: Sequence[str]) -> list[str]:
    """Each file is opened: NFS shows its times, by which others are told to be unchanged, seconds late."""
    reports = {host: record.read_node(host) for host in hosts}
    return [host for host, report in reports.items() if report is not None and not report.has_ended]


async def refuses(address: str, port: int, timeout_s: float = PROBE_S) -> bool:
    """Whether a host has power and network, and no process that listens on a port."""
    try:
        _, writer = await within(asyncio.open_connection(address, port), timeout_s)
    except ConnectionRefusedError:
        return True
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return False


async def responds(address: str, port: int = PROBE_PORT, timeout_s: float = PROBE_S) -> bool:
    """Whether a host has power and network: it accepts or refuses a connection.

    True also where its name cannot be resolved.
    """
    try:
        _, writer = await within(asyncio.open_connection(address, port), timeout_s)
    except (ConnectionRefusedError, socket.gaierror):
        return True
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


async def head_host_responds(address: str, head: HeadInfo | None) -> bool:
    """Whether the host of a head has power and network.

    Its raylet's port is tried as well: a firewall may drop what comes for other ports than the cluster's.
    Asked :data:`PROBES` times: the answer no is final for a worker, and a network may fail for a moment.
    """
    port = head.ports.get("node_manager") if head is not None else None
    ports = (PROBE_PORT, port) if isinstance(port, int) and port else (PROBE_PORT,)
    for _ in range(PROBES):
        if any(await asyncio.gather(*(responds(address, each) for each in ports))):
            return True
    return False
