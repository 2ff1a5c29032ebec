"""The likely cause of a cluster's end, and what to change: a pure function of what is known of it."""

from __future__ import annotations

import signal

from ..model.record import NEVER_CONNECTED, EndReport
from ..system.process import describe_code
from ..system.report import count
from .post_mortem import LOST, NodeEnd, PostMortem

#: An end this close to the job's time limit is taken for it: Slurm may send its signal up to a minute early.
LIMIT_S = 90.0


def judge(post: PostMortem) -> tuple[str, tuple[str, ...]]:
    """The likely cause in a sentence or two, and what to change."""
    end = post.end
    killed = sum(node.oom_kills or 0 for node in post.nodes)
    if killed:
        hosts = ", ".join(f"{node.host} ({node.oom_kills})" for node in post.nodes if node.oom_kills)
        return (
            f"Out of memory: the kernel killed {count(killed, 'process', 'processes')} of this job: {hosts}.",
            (
                "Ask for more memory (--mem), or let Ray use less: --memory, --object-store-memory, fewer "
                "tasks at a time.",
            ),
        )
    if end is None:
        return _without_end(post)
    if end.exit_code == 0 and end.reason in ("driver", "stop", "time-limit"):
        if NEVER_CONNECTED in end.message:
            return (
                "The driver completed, but it did not use this cluster: no driver has connected to it.",
                (
                    'Call ray.init() without an address, or with address="auto": address="local" starts '
                    "another Ray on one node.",
                ),
            )
        return "Nothing went wrong.", ()
    if post.found:
        return post.found[0].cause.meaning, _remedies(post)
    return _by_reason(post, end)


def _remedies(post: PostMortem) -> tuple[str, ...]:
    return tuple(found.cause.remedy for found in post.found)


def _without_end(post: PostMortem) -> tuple[str, tuple[str, ...]]:
    if post.running and not post.deaths:
        return (
            "The record does not say that the cluster has ended: it still runs, or all processes of the head "
            "were killed at once (SIGKILL by Slurm, a power failure).",
            (f"`raycluster status {post.job}` asks Slurm whether the job still runs.",),
        )
    hosts = ", ".join(node.host for node in post.nodes if node.has_not_reported_its_end)
    text = "The head exited without reporting how the cluster ended"
    return f"{text}; so did: {hosts}." if hosts else f"{text}.", _remedies(post)


def _by_reason(post: PostMortem, end: EndReport) -> tuple[str, tuple[str, ...]]:
    """When no known text was found: what the reason of the end usually means."""
    failed = next((node for node in post.nodes if node.host == end.failed_host), None)
    if end.reason in LOST and failed is not None and failed.has_not_reported_its_end:
        return _stopped_responding(failed)
    if end.reason in LOST and post.deaths and post.deaths[0].code == -signal.SIGKILL:
        first = post.deaths[0]
        return (
            f"{first.name} on {first.host} was killed from outside: by the kernel for lack of memory, by an "
            "administrator, or by a `kill` in the job.",
            (
                f"Most often it is memory: `dmesg` on {first.host}, or the site's monitoring, shows who "
                "killed it.",
            ),
        )
    if end.reason == "driver":
        by_signal = 128 < end.exit_code < 160
        told = describe_code(128 - end.exit_code if by_signal else end.exit_code)
        return (
            f"The driver itself failed: it {told}. The cluster did not lose a node.",
            ("Read the driver's output: " + f"raycluster logs {post.job}",),
        )
    if end.reason == "signal":
        limit = post.head.end_time if post.head else 0.0
        if limit and abs(limit - end.when) < LIMIT_S:
            return (
                "The job reached its time limit.",
                (
                    "Ask for more --time, or use --stop-before 120 with a driver that saves its work on "
                    "SIGTERM.",
                ),
            )
        return (
            "The job was cancelled or preempted, or Ctrl-C was pressed.",
            (
                "If nobody cancelled it, `sacct -j JOB` shows who did; --requeue-on-preempt requeues a "
                "preempted job.",
            ),
        )
    if end.reason == "error" and end.exit_code == 4:
        return (
            "Workers were missing at the deadline.",
            (
                "Look at the nodes below that did not join; --timeout gives them more time, --min-workers "
                "starts without them.",
            ),
        )
    return end.message or "Unknown.", ()


def _stopped_responding(node: NodeEnd) -> tuple[str, tuple[str, ...]]:
    return (
        f"{node.host} stopped responding: its power or its network failed, or all of its processes were "
        f"killed at once. Its last report: {node.message or node.phase!r}.",
        (
            f"`scontrol show node {node.host}` shows its state in Slurm; --exclude={node.host} keeps the "
            "next job off it.",
        ),
    )
