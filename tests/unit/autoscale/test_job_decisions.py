"""What becomes of a worker job: a row for each thing that Slurm and Ray can say of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raycluster_cli.autoscale.job_decisions import (
    CANCEL_AGAIN_S,
    COMPLETING_S,
    LEFT,
    LEFT_TIMEOUT_S,
    RAY_DRAINS,
    START_TIMEOUT_S,
    RayNode,
    needs_queue,
    next_of,
)
from raycluster_cli.model.worker_job import WorkerJob, WorkerJobState
from raycluster_cli.slurm.worker_queue import QueueLine

NOW = 1000.0
SINCE = 990.0
PENDING = WorkerJob("7", "gpu", "pending", SINCE, "Priority")
STARTING = WorkerJob("7", "gpu", "starting", SINCE, hosts=("n1",))
READY = WorkerJob("7", "gpu", "ready", SINCE, hosts=("n1",), node_ids=("ab",))
IDLE = replace(READY, state="idle")
CANCELLED = replace(READY, state="draining", reason="idle for 300 s")
BUSY = RayNode("ab")


def line(state: str, reason: str = "", *, start: float | None = None, nodes: str = "n1") -> QueueLine:
    return QueueLine("7", state, start, "" if state == "PENDING" else nodes, reason, "raycluster:1")


def step(job: WorkerJob, said: QueueLine | None, *nodes: RayNode, now: float = NOW) -> str:
    """The outcome in short: state, reason, and what is to be done."""
    found = next_of(job, said, True, nodes, now)
    state = f"{WorkerJobState(found.job.state).value}: {found.job.reason}".removesuffix(": ")
    done = [
        f"{word} ({text})" if text else ""
        for word, text in (
            ("cancel", found.cancel),
            ("failed", found.failed_start),
            ("never", found.never),
        )
    ]
    return " | ".join([state, *filter(None, done)])


REQUEUED = "Slurm has requeued it, and a worker job starts only once"
LATE = "it did not join within 300 s"
LIMIT = (
    "its jobs can never start: Slurm's reason is PartitionTimeLimit. "
    "Ask for less by --time: `sinfo -o '%P %l'` shows each partition's limit."
)

TABLE = [
    # pending
    (PENDING, line("PENDING", "Resources"), "pending: Resources"),
    (PENDING, line("PENDING", "QOSMaxJobsPerUserLimit"), "pending: QOSMaxJobsPerUserLimit"),
    (PENDING, line("PENDING", "JobHeldUser"), "pending: JobHeldUser"),
    (PENDING, line("CONFIGURING"), "pending: its nodes boot"),
    (PENDING, line("PENDING", "PartitionConfig"), "pending: PartitionConfig"),
    (
        replace(PENDING, reason="PartitionConfig"),
        line("PENDING", "PartitionTimeLimit"),
        "pending: PartitionTimeLimit",
    ),
    (
        replace(PENDING, reason="PartitionTimeLimit"),
        line("PENDING", "PartitionTimeLimit"),
        "draining: it can never start: PartitionTimeLimit | "
        f"cancel (it can never start: PartitionTimeLimit) | never ({LIMIT})",
    ),
    (
        PENDING,
        line("REQUEUE_HOLD", "launch failed requeued held"),
        f"draining: {REQUEUED} | cancel ({REQUEUED})",
    ),
    (
        PENDING,
        line("CANCELLED", nodes=""),
        "ended: it was cancelled while it was pending | failed (it was cancelled while it was pending)",
    ),
    (PENDING, line("PREEMPTED"), "ended: it was preempted"),
    (
        PENDING,
        line("DEADLINE", nodes=""),
        "ended: it missed its deadline before it joined | failed (it missed its deadline before it joined)",
    ),
    (
        PENDING,
        None,
        "ended: Slurm does not know it any more before it joined | "
        "failed (Slurm does not know it any more before it joined)",
    ),
    (PENDING, line("RUNNING"), "starting"),
    # starting
    (STARTING, line("RUNNING"), "starting"),
    (STARTING, line("COMPLETING"), "starting"),
    (
        replace(STARTING, completing_since=NOW - COMPLETING_S),
        line("COMPLETING"),
        "ended: Slurm has ended it before it joined | cancel (Slurm has ended it) | "
        "failed (Slurm has ended it before it joined)",
    ),
    (
        STARTING,
        line("FAILED", "NonZeroExitCode"),
        "ended: its worker failed before it joined | failed (its worker failed before it joined)",
    ),
    (
        STARTING,
        line("COMPLETED"),
        "ended: its worker exited with 0 before it joined | "
        "failed (its worker exited with 0 before it joined)",
    ),
    (
        STARTING,
        line("TIMEOUT"),
        "ended: its time limit was reached before it joined | "
        "failed (its time limit was reached before it joined)",
    ),
    (
        STARTING,
        line("NODE_FAIL"),
        "ended: a node failed before it joined | failed (a node failed before it joined)",
    ),
    (
        STARTING,
        line("CANCELLED"),
        "ended: it was cancelled before it joined | failed (it was cancelled before it joined)",
    ),
    (STARTING, line("PREEMPTED"), "ended: it was preempted"),
    (STARTING, line("SUSPENDED"), "starting: it is suspended"),
    (STARTING, line("PENDING", "BeginTime"), f"draining: {REQUEUED} | cancel ({REQUEUED})"),
    # in the cluster, but its nodes are missing
    (READY, line("RUNNING"), f"ready: {LEFT}"),
    (IDLE, line("RUNNING"), f"idle: {LEFT}"),
    (
        READY,
        line("SUSPENDED"),
        "draining: it was suspended, and Ray has given up its nodes | "
        "cancel (it was suspended, and Ray has given up its nodes)",
    ),
    (READY, line("PREEMPTED"), "ended: it was preempted"),
    (READY, line("NODE_FAIL"), "ended: a node failed"),
    (READY, line("TIMEOUT"), "ended: its time limit was reached"),
    (READY, line("OUT_OF_MEMORY"), "ended: it ran out of memory"),
    (READY, line("COMPLETED"), "ended: its worker exited with 0"),
    (READY, line("CANCELLED"), "ended: it was cancelled"),
    (READY, line("PENDING", "BeginTime"), f"draining: {REQUEUED} | cancel ({REQUEUED})"),
    (READY, None, "ended: Slurm does not know it any more"),
    (READY, line("COMPLETING"), f"ready: {LEFT}"),
    (replace(READY, reason=LEFT, completing_since=NOW - 9.0), line("COMPLETING"), f"ready: {LEFT}"),
    (
        replace(READY, reason=LEFT, completing_since=NOW - COMPLETING_S),
        line("COMPLETING"),
        "ended: Slurm has ended it | cancel (Slurm has ended it)",
    ),
    # cancelled by raycluster
    (CANCELLED, line("RUNNING"), "draining: idle for 300 s"),
    (CANCELLED, line("COMPLETING"), "draining: idle for 300 s"),
    (
        replace(CANCELLED, completing_since=NOW - COMPLETING_S),
        line("COMPLETING"),
        "ended: idle for 300 s",
    ),
    (CANCELLED, line("PENDING", "Priority"), "draining: idle for 300 s"),
    (CANCELLED, line("CANCELLED"), "ended: idle for 300 s"),
    (CANCELLED, None, "ended: idle for 300 s"),
]


@pytest.mark.parametrize(("job", "said", "outcome"), TABLE)
def test_what_slurm_says_while_the_nodes_are_not_in_the_cluster(
    job: WorkerJob, said: QueueLine | None, outcome: str
) -> None:
    assert step(job, said) == outcome


@pytest.mark.parametrize("job", [PENDING, STARTING, READY, IDLE, CANCELLED])
def test_without_an_answer_of_squeue_nothing_is_concluded(job: WorkerJob) -> None:
    assert next_of(job, None, False, (), NOW).job == job


@pytest.mark.parametrize(
    ("job", "nodes", "outcome"),
    [
        (PENDING, [BUSY], "ready"),
        (STARTING, [BUSY], "ready"),
        (READY, [BUSY], "ready"),
        (IDLE, [BUSY], "ready"),
        (READY, [RayNode("ab", 900.0)], "idle"),
        (READY, [RayNode("ab", NOW - 1)], "ready"),
        (READY, [RayNode("ab", draining=True)], f"draining: {RAY_DRAINS}"),
        (replace(READY, reason=LEFT), [BUSY], "ready"),
        (CANCELLED, [RayNode("ab", 900.0)], "draining: idle for 300 s"),
    ],
)
def test_what_ray_says(job: WorkerJob, nodes: list[RayNode], outcome: str) -> None:
    assert step(job, None, *nodes) == outcome


def test_a_job_of_two_nodes_is_ready_when_both_have_joined() -> None:
    job = replace(STARTING, nodes=2)
    assert step(job, line("RUNNING", nodes="n[1-2]"), BUSY) == "starting"
    both = (RayNode("ab", host="n1"), RayNode("cd", 900.0, host="n2"))
    found = next_of(job, None, False, both, NOW).job
    assert (found.state, found.hosts, found.node_ids) == ("ready", ("n1", "n2"), ("ab", "cd"))
    idle = next_of(found, None, False, (RayNode("ab", 950.0), RayNode("cd", 900.0)), NOW).job
    assert (idle.state, idle.since) == ("idle", 950.0)


@pytest.mark.parametrize(
    ("job", "node", "outcome"),
    [
        (READY, BUSY, "ready"),
        (IDLE, BUSY, "ready"),
        (READY, RayNode("ab", 900.0), "idle"),
        (replace(READY, state="draining", reason=RAY_DRAINS, drained_by_ray=True), BUSY, "ready"),
        (READY, RayNode("ab", draining=True), f"draining: {RAY_DRAINS}"),
        (CANCELLED, BUSY, "draining: idle for 300 s"),
    ],
)
def test_what_is_left_of_a_job_of_two_nodes_works_on(job: WorkerJob, node: RayNode, outcome: str) -> None:
    for passed_s in (0.0, 600.0):
        two = replace(job, nodes=2, since=NOW - passed_s if job is not CANCELLED else NOW)
        assert step(two, line("RUNNING", nodes="n[1-2]"), node) == outcome


def test_a_job_is_over_when_slurm_has_been_ending_it_for_ten_seconds_without_nodes() -> None:
    begun = next_of(STARTING, line("COMPLETING"), True, (), NOW).job
    assert (begun.state, begun.completing_since) == ("starting", NOW)
    assert next_of(begun, line("COMPLETING"), True, (), NOW + 5).job == begun
    assert next_of(begun, line("COMPLETING"), True, (), NOW + 10).job.state == "ended"
    # A node of it that is still in the cluster works on.
    two = replace(READY, nodes=2, completing_since=NOW - 60)
    assert next_of(two, line("COMPLETING"), True, (BUSY,), NOW).job.state == "ready"


def test_the_hosts_of_a_job_that_joined_before_squeue_showed_it_running() -> None:
    joined = next_of(PENDING, None, False, (BUSY,), NOW).job
    assert (joined.state, joined.hosts) == ("ready", ())
    assert next_of(joined, line("RUNNING"), True, (BUSY,), NOW).job == replace(joined, hosts=("n1",))


def test_a_job_that_slurm_has_started_again_elsewhere_is_shown_where_its_node_joined() -> None:
    """Slurm 22.05 does so when the first host does not answer, --no-requeue or not."""
    assert STARTING.hosts == ("n1",)
    assert next_of(STARTING, None, False, (RayNode("ab", host="n4"),), NOW).job.hosts == ("n4",)


def test_pending_keeps_its_beginning_and_its_expected_start() -> None:
    found = next_of(PENDING, line("PENDING", "Priority", start=5000.0), True, (), NOW).job
    assert (found.since, found.expected_start) == (SINCE, 5000.0)
    started = next_of(found, line("RUNNING", start=999.0), True, (), NOW).job
    assert (started.since, started.expected_start, started.hosts) == (NOW, 0.0, ("n1",))


def test_a_job_that_does_not_join_in_time_is_cancelled_and_has_failed() -> None:
    late = SINCE + START_TIMEOUT_S
    assert (
        step(STARTING, line("RUNNING"), now=late) == f"draining: {LATE} | cancel ({LATE}) | failed ({LATE})"
    )
    assert step(STARTING, line("RUNNING"), now=late - 1) == "starting"


def test_the_time_to_join_begins_anew_when_a_suspended_job_is_resumed() -> None:
    suspended = next_of(STARTING, line("SUSPENDED"), True, (), NOW).job
    resumed = next_of(suspended, line("RUNNING"), True, (), NOW + 900).job
    assert (resumed.state, resumed.reason, resumed.since) == ("starting", "", NOW + 900)


def test_a_worker_that_does_not_end_after_its_nodes_have_left_is_cancelled() -> None:
    left = replace(READY, reason=LEFT)
    assert step(left, line("RUNNING"), now=SINCE + LEFT_TIMEOUT_S - 1) == f"ready: {LEFT}"
    assert step(left, line("RUNNING"), now=SINCE + LEFT_TIMEOUT_S) == f"draining: {LEFT} | cancel ({LEFT})"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("CANCELLED", "it was cancelled"),
        ("TIMEOUT", "its time limit was reached"),
        ("NODE_FAIL", "a node failed"),
    ],
)
def test_a_job_that_left_after_a_notice_ends_with_slurms_reason(state: str, words: str) -> None:
    assert step(replace(CANCELLED, reason=RAY_DRAINS, drained_by_ray=True), line(state)) == f"ended: {words}"
    assert step(CANCELLED, line(state)) == "ended: idle for 300 s"


def test_a_job_that_survives_scancel_is_cancelled_again() -> None:
    again = "draining: idle for 300 s | cancel (idle for 300 s)"
    assert step(CANCELLED, line("RUNNING"), now=SINCE + CANCEL_AGAIN_S) == again
    assert step(CANCELLED, line("RUNNING"), BUSY, now=SINCE + CANCEL_AGAIN_S) == again
    assert step(CANCELLED, line("COMPLETING"), now=SINCE + CANCEL_AGAIN_S) == "draining: idle for 300 s"


@pytest.mark.parametrize(
    ("job", "nodes", "asks"),
    [
        (PENDING, [], True),
        (STARTING, [], True),
        (READY, [BUSY], False),
        (IDLE, [RayNode("ab", 1.0)], False),
        (READY, [], True),
        (replace(READY, nodes=2), [BUSY], True),
        (CANCELLED, [BUSY], True),
        (replace(CANCELLED, reason=RAY_DRAINS, drained_by_ray=True), [BUSY], False),
        (replace(CANCELLED, reason=RAY_DRAINS, drained_by_ray=True), [], True),
        (replace(READY, state="ended"), [], False),
        (replace(READY, hosts=()), [BUSY], True),
    ],
)
def test_squeue_is_asked_only_of_jobs_that_ray_cannot_answer_for(
    job: WorkerJob, nodes: list[RayNode], asks: bool
) -> None:
    assert needs_queue(job, nodes) is asks


def test_a_host_list_that_cannot_be_read_is_no_reason_to_fail() -> None:
    assert next_of(PENDING, line("RUNNING", nodes="n[1"), True, (), NOW).job.hosts == ()
