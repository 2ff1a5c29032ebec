"""Workers in jobs of their own: `raycluster worker --cluster JOB`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

import pytest

from tests.bed.bed import REPOSITORY
from tests.slurm.batches import head_is_up, read, record
from tests.slurm.cluster import SLACK_S
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.waiting import wait_until

GROWS = str(REPOSITORY / "tests/slurm/drivers/grows.py")

SHARE = ("--ntasks=1", "--cpus-per-task=1", "--mem=2500", "--time=10")
"""One node is shared by two such jobs."""


def head(
    slurm: Slurm,
    *driver: object,
    options: str = "",
    host: str = "n1",
    user: str = "root",
    requeue: bool = False,
) -> Job:
    """A job of one node with a head that waits for nobody; it runs GROWS with these arguments."""
    words = shlex.join(["python", GROWS, *map(str, driver)]) if driver else ""
    script = f"exec raycluster head {options} {f'-- {words}' if words else ''}"
    again = "--requeue" if requeue else "--no-requeue"
    where = [f"--nodelist={host}"] if host else []
    return slurm.sbatch(script, *SHARE, *where, again, user=user)


def worker(
    slurm: Slurm, cluster: str, *more: str, options: str = "", host: str = "n2", user: str = "root"
) -> Job:
    """A worker job for a cluster."""
    script = f"exec raycluster worker --cluster {cluster} {options}"
    return slurm.sbatch(script, *SHARE, f"--nodelist={host}", "--no-requeue", *more, user=user)


def nodes_seen(output: str) -> dict[str, dict[str, str]]:
    """The labels of the nodes that GROWS printed, by name."""
    lines = [line.split(" ", 2) for line in output.splitlines() if line.startswith("NODE ")]
    return {name: json.loads(labels) for _, name, labels in lines}


def test_worker_jobs_join_work_and_end_with_the_cluster(slurm: Slurm) -> None:
    cluster = head(slurm, 4, user="alice")
    beside = worker(slurm, cluster.id, host="n1", user="alice")  # on the head's own host
    grouped = worker(slurm, cluster.id, "--array=3", options="--group gpu", user="alice")
    step = slurm.sbatch(
        f"exec srun raycluster worker --cluster {cluster.id}", *SHARE, "--nodelist=n3", user="alice"
    )
    assert cluster.wait() == JobEnd("COMPLETED", 0, 0), cluster.output()
    for job in (beside, grouped, step):
        assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
        assert f"joined cluster {cluster.id} at 10.77.0.1:" in job.output()
        assert "the cluster ended: the driver ended" in job.output()
    seen = nodes_seen(cluster.output())
    assert sorted(seen) == ["n1", f"n1.{beside.id}", f"n2.{grouped.id}_3", f"n3.{step.id}"]
    assert seen[f"n2.{grouped.id}_3"]["ray.io/node-group"] == "gpu"
    assert seen[f"n2.{grouped.id}_3"]["slurm/worker-job"] == f"{grouped.id}_3"
    assert "ray.io/node-group" not in seen[f"n1.{beside.id}"]
    assert f"INSTANCE {grouped.id}_3 gpu\n" in cluster.output()
    report = read(record(slurm.bed, cluster) / "nodes" / f"n2.{grouped.id}_3.json")
    assert report and (report["job"], report["group"], report["phase"]) == (f"{grouped.id}_3", "gpu", "gone")
    late = worker(slurm, cluster.id, user="alice")
    assert late.wait() == JobEnd("COMPLETED", 0, 0), late.output()
    assert f"cluster {cluster.id} has ended: the driver ended" in late.output()
    slurm.assert_nothing_left()


def test_a_lost_worker_job_does_not_end_the_cluster(slurm: Slurm) -> None:
    cluster = head(slurm, 2, 600)
    first = worker(slurm, cluster.id)
    cluster.wait_for("ALL 2")
    report = read(record(slurm.bed, cluster) / "nodes" / f"n2.{first.id}.json")
    assert report
    slurm.bed.run(
        "n2", ["kill", "-KILL", str(report["pid"])], check=True
    )  # scancel sends SIGTERM first: a notice
    first.wait()
    cluster.wait_for(f"worker n2.{first.id} (10.77.0.2) is lost")
    second = worker(slurm, cluster.id)
    second.wait_for("joined cluster")
    assert cluster.state() == "RUNNING"
    slurm.bed.run("login", ["raycluster", "stop", cluster.id], check=True)
    assert second.wait() == JobEnd("COMPLETED", 0, 0), second.output()
    slurm.assert_nothing_left()


def test_clusters_that_are_not_there_or_not_ones_own(slurm: Slurm) -> None:
    never = worker(slurm, "424242", user="bob")
    assert never.wait() == JobEnd("FAILED", 2, 0), never.output()
    assert "no record of '424242' was found" in never.output()
    cluster = head(slurm, user="alice")
    head_is_up(slurm.bed, cluster)
    foreign = worker(slurm, cluster.id, user="bob")
    assert foreign.wait() == JobEnd("FAILED", 2, 0), foreign.output()
    assert f"job {cluster.id} belongs to alice, and this worker to bob" in foreign.output()
    path = worker(slurm, f"/home/alice/.raycluster/bed/{cluster.id}", user="bob")
    assert path.wait() == JobEnd("FAILED", 2, 0), path.output()
    own = slurm.sbatch(
        "exec raycluster worker --cluster $SLURM_JOB_ID --timeout 5", *SHARE, "--nodelist=n3", user="bob"
    )
    assert own.wait() == JobEnd("FAILED", 2, 0), own.output()


# -- ends: no worker job runs on without its head -------------------------------------------------

GONE_WITHIN_S = 15.0
"""What the documentation promises; the machine that runs the tests may add SLACK_S."""


def end_of_worker(job: Job) -> JobEnd:
    return job.wait(GONE_WITHIN_S + SLACK_S)


def power_off(slurm: Slurm, cluster: Job) -> None:
    slurm.bed.power_off("n1")


def kill_all(slurm: Slurm, cluster: Job) -> None:
    cluster.cancel("--signal=KILL", "--full")


def kill_supervisor(slurm: Slurm, cluster: Job) -> None:
    head = read(record(slurm.bed, cluster) / "head.json")
    assert head
    slurm.bed.run("n1", ["kill", "-KILL", str(head["pid"])], check=True)


def requeue(slurm: Slurm, cluster: Job) -> None:
    slurm.bed.run("login", ["scontrol", "requeue", cluster.id], check=True)


def unplug(slurm: Slurm, cluster: Job) -> None:
    slurm.bed.cable("n1", up=False)


@pytest.mark.parametrize("options", ["", pytest.param("--head-recovery", marks=pytest.mark.chaos)])
@pytest.mark.parametrize(
    ("fault", "codes", "late_codes"),
    [
        (kill_supervisor, {5}, {0}),
        pytest.param(kill_all, {0, 5}, {0}, marks=pytest.mark.chaos),
        pytest.param(power_off, {5}, {0, 4}, marks=pytest.mark.chaos),
        pytest.param(unplug, {5}, {0, 4}, marks=pytest.mark.chaos),
        pytest.param(requeue, {0}, {0}, marks=pytest.mark.chaos),
    ],
)
def test_no_worker_job_runs_on_without_its_head(
    slurm: Slurm, fault: Callable[[Slurm, Job], None], codes: set[int], late_codes: set[int], options: str
) -> None:
    cluster = head(slurm, 3, 600, options=options, requeue=True)
    jobs = [worker(slurm, cluster.id, host=host) for host in ("n2", "n3")]
    cluster.wait_for("ALL 3")
    fault(slurm, cluster)
    for job in jobs:
        assert end_of_worker(job).exit_code in codes, job.output()
    late = worker(slurm, f"/home/admin/.raycluster/bed/{cluster.id}")
    assert end_of_worker(late).exit_code in late_codes, late.output()


# -- ends: the cluster's worker jobs go with it ---------------------------------------------------


def stop(slurm: Slurm, cluster: Job) -> None:
    slurm.bed.run("login", ["raycluster", "stop", cluster.id], check=True)


def kill_supervisor_and_keeper(slurm: Slurm, cluster: Job) -> None:
    head = read(record(slurm.bed, cluster) / "head.json")
    assert head
    stat = slurm.bed.run("n1", ["cat", f"/proc/{head['pid']}/stat"], check=True).stdout
    keeper = stat.rpartition(")")[2].split()[1]
    slurm.bed.run("n1", ["kill", "-KILL", keeper, str(head["pid"])], check=True)


def submitted(slurm: Slurm, cluster: Job, *jobs: Job) -> None:
    """Write into the record what the head's autoscaler writes when it has submitted worker jobs."""
    path = record(slurm.bed, cluster) / "worker-jobs.json"
    wait_until(path.exists, timeout_s=60, what="the autoscaler's first report")  # It replaces what is there.
    lines = [{"job_id": job.id, "group": "worker", "state": "pending", "since": 1.0} for job in jobs]
    path.write_text(json.dumps({"schema": 2, "when": 1.0, "jobs": lines, "groups": []}))


@pytest.mark.parametrize(
    "end",
    [
        stop,
        pytest.param(kill_supervisor, marks=pytest.mark.chaos),
        pytest.param(kill_supervisor_and_keeper, marks=pytest.mark.chaos),
        pytest.param(requeue, marks=pytest.mark.chaos),
    ],
)
def test_the_end_cancels_what_is_in_the_queue(slurm: Slurm, end: Callable[[Slurm, Job], None]) -> None:
    cluster = head(slurm, 2, 600, options="--max-nodes 4", requeue=True)
    head_is_up(slurm.bed, cluster)
    comment = f"--comment=raycluster:{cluster.id}"
    joined = worker(slurm, cluster.id, comment)
    known = worker(slurm, cluster.id, comment, "--hold", host="n3")
    stranger = worker(slurm, cluster.id, comment, "--hold", "--array=1-2", host="n3")
    others = worker(slurm, cluster.id, "--hold", host="n3")
    submitted(slurm, cluster, joined, known)
    cluster.wait_for("ALL 2")
    end(slurm, cluster)
    for job in (known, stranger):
        assert job.wait(GONE_WITHIN_S + SLACK_S).state == "CANCELLED", cluster.output()
    if end is stop:
        assert end_of_worker(joined) == JobEnd("COMPLETED", 0, 0), joined.output()
    end_of_worker(joined)
    assert others.state() == "PENDING"
    if end is not requeue:
        cluster.wait()
    jobs = read(record(slurm.bed, cluster) / "worker-jobs.json")
    assert jobs and {job["state"] for job in jobs["jobs"]} == {"ended"}


@pytest.mark.chaos
def test_a_requeued_head_ends_what_its_host_has_left(slurm: Slurm) -> None:
    """The host loses its power, so that nobody ends the old cluster; Slurm notices after SlurmdTimeout."""
    cluster = head(slurm, 1, 600, options="--max-nodes 4", host="", requeue=True)
    head_is_up(slurm.bed, cluster)
    comment = f"--comment=raycluster:{cluster.id}"
    waits = worker(slurm, f"/home/admin/.raycluster/bed/{cluster.id}", comment, "--hold", host="n3")
    submitted(slurm, cluster, waits)
    slurm.bed.power_off("n1")
    head_is_up(slurm.bed, cluster, restart=1, timeout_s=300)
    assert waits.wait(30).state == "CANCELLED"
    end = read(record(slurm.bed, cluster) / "end.json")
    assert end and "Slurm requeued the job before its head could report an end" in end["message"]
    late = worker(slurm, f"/home/admin/.raycluster/bed/{cluster.id}", host="n3")
    assert late.wait() == JobEnd("COMPLETED", 0, 0), late.output()


# -- notices: Ray is told before a worker goes ----------------------------------------------------


def test_a_worker_gives_notice_before_it_goes(slurm: Slurm) -> None:
    cluster = head(slurm, 2, 600)
    limited = worker(slurm, cluster.id, options="--drain-before 3600")  # more than its time limit
    told = worker(slurm, cluster.id, host="n3")
    assert limited.wait() == JobEnd("COMPLETED", 0, 0), limited.output()
    assert f"left the cluster: the time limit of job {limited.id} is near" in limited.output()
    told.wait_for("joined cluster")  # the head's driver may have seen the other one
    report = read(record(slurm.bed, cluster) / "nodes" / f"n3.{told.id}.json")
    assert report
    slurm.bed.run("n3", ["kill", "-TERM", str(report["pid"])], check=True)  # its raylet gets no signal
    assert told.wait() == JobEnd("FAILED", 143, 0), told.output()
    assert f"n3.{told.id} was told to end (SIGTERM): draining for 20 s at most" in told.output()
    events = (record(slurm.bed, cluster) / "events.log").read_text()
    assert f"worker n3.{told.id} will go: n3.{told.id} was told to end (SIGTERM); drained, " in events
    assert cluster.state() == "RUNNING"
