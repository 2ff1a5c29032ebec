"""The Slurm jobs of a cluster that grows: how they end, and those of several nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.bed.spec import LOGIN, BedSpec
from tests.slurm.batches import read, record
from tests.slurm.conftest import Beds
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.slurm.test_elastic import (
    SHARE,
    groups,
    groups_file,
    nobody_left,
    queue,
    scale,
    submit,
    told,
    worker_jobs,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.chaos

#: A worker without its head ends within 15 s, and the bed's Slurm marks a node as down after 30 s.
CUT_OFF_S = 20.0

#: slurmctld looks every minute for jobs to end again: for those cancelled more than KillWait + 2
#: MessageTimeout (50 s) ago, on nodes that answer.
RESENT_S = 150.0


def state_of(slurm: Slurm, job: str) -> str:
    shown = slurm.run(LOGIN, ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"], check=True)
    return shown.stdout.strip()


def joined(slurm: Slurm, cluster: Job, name: str, number: int) -> None:
    wait_until(
        lambda: groups(slurm, cluster)[name]["nodes_joined"] == number,
        timeout_s=120,
        what=f"{number} nodes of {name}",
        interval_s=0.5,
    )


def test_a_worker_job_leaves_before_its_time_limit(slurm: Slurm) -> None:
    """And with half of its time at most: of one minute that is half a minute."""
    path = groups_file(slurm, '[workers.short]\nsbatch = "-c 1 --mem=2000 --time=1"\nmin = 1\nmax = 1\n')
    cluster = submit(slurm, "seconds=600", options=(f"--config={path}",))
    cluster.wait_for("ready at")
    joined(slurm, cluster, "short", 1)
    [first] = worker_jobs(slurm, cluster)
    wait_until(lambda: state_of(slurm, first) == "COMPLETED", timeout_s=120, what="the end of the first job")
    events = (record(slurm.bed, cluster) / "events.log").read_text()
    assert f"the time limit of job {first} is near; drained, " in events
    wait_until(lambda: worker_jobs(slurm, cluster), timeout_s=60, what="the next one")
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    nobody_left(slurm)


def test_an_idle_worker_leaves_by_itself_and_its_job_is_completed(slurm: Slurm) -> None:
    cluster = submit(
        slurm,
        *("tasks=2:8", "nodes=2", "nodes=1", "seconds=600"),
        options=("--max-nodes=2", "--worker-idle-timeout=4"),
    )
    cluster.wait_for("NODES ")
    [job] = worker_jobs(slurm, cluster)
    cluster.wait_for("NODES [", timeout_s=60)
    wait_until(lambda: state_of(slurm, job) != "RUNNING", timeout_s=60, what="the end of the idle job")
    wait_until(lambda: state_of(slurm, job) == "COMPLETED", timeout_s=10, what="a completed job")
    [shown] = [one for one in groups(slurm, cluster)["worker"]["jobs"] if one["job"] == job]
    assert shown["reason"] == "no longer needed"
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    nobody_left(slurm)


BLOCKS = """
[workers.block]
sbatch = "-c 1 --mem=2000 --time=10"
nodes_per_job = 2
max = 2
idle_timeout = 6
"""


def test_a_placement_group_over_a_job_of_two_nodes_which_ends_when_both_are_idle(slurm: Slurm) -> None:
    path = groups_file(slurm, BLOCKS)
    cluster = submit(slurm, "gang=3", "nodes=1", "tasks=2:20", "seconds=600", options=(f"--config={path}",))
    output = cluster.wait_for("NODES ")
    [used] = told(output, "GANG")
    job = used[1].partition(".")[2] or used[0].partition(".")[2]
    assert len({name for name in used if name.endswith(f".{job}")}) == 2, used
    wait_until(lambda: state_of(slurm, job) == "COMPLETED", timeout_s=60, what="the end of the job")
    # One task of two fits on the head: of the next job one node works, and the other stays with it.
    joined(slurm, cluster, "block", 2)
    [second] = worker_jobs(slurm, cluster)
    cluster.wait_for("TASKS ")
    assert state_of(slurm, second) == "RUNNING"
    wait_until(lambda: state_of(slurm, second) == "COMPLETED", timeout_s=60, what="the end of the second job")
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    nobody_left(slurm)


def test_what_is_left_of_a_job_of_two_nodes_works_on(slurm: Slurm) -> None:
    path = groups_file(slurm, BLOCKS)
    cluster = submit(slurm, "gang=3", "tasks=3:25", options=(f"--config={path}",))
    [used] = told(cluster.wait_for("GANG "), "GANG")
    [job] = worker_jobs(slurm, cluster)
    lost = next(name for name in used if name.endswith(f".{job}"))
    report = read(record(slurm.bed, cluster) / "nodes" / f"{lost}.json")
    assert report
    home = slurm.bed.path(LOGIN, "/home/admin")  # each task writes a file when it begins
    wait_until(lambda: len(list(home.glob("tmp*/[012]"))) == 3, timeout_s=60, what="three tasks")
    slurm.bed.run(lost.partition(".")[0], ["kill", "-KILL", str(report["pid"])], check=True)
    assert cluster.wait() == JobEnd("COMPLETED", 0, 0), cluster.output()
    # The task of the lost node ran again, on a job that took the place of the first, the only one that the
    # group may have; the other node was not ended with the lost one: its task ran once.
    [ran] = told(cluster.output(), "TASKS")
    output = cluster.output()
    assert f"job {job} has lost a node and gets no new work: another job takes its place" in output
    assert output.count(" submitted") == 2, output
    assert sum(name.endswith(f".{job}") for name in ran) == 1, ran
    nobody_left(slurm)


def test_a_worker_job_whose_host_is_cut_off_when_it_is_cancelled(slurm: Slurm) -> None:
    """Slurm cannot reach the node: the job completes when the node is back and Slurm has asked it again."""
    options = ("--max-nodes=2", "--worker-sbatch=-c 1 --mem=2000 --time=10 --exclude=n1")
    sbatch = (*SHARE, "--nodelist=n1")
    cluster = submit(slurm, "tasks=2:1", "nodes=2", "seconds=600", options=options, sbatch=sbatch)
    cluster.wait_for("NODES ")
    [job] = worker_jobs(slurm, cluster)
    [host] = slurm.run(LOGIN, ["squeue", "-h", "-j", job, "-o", "%N"], check=True).stdout.split()
    slurm.bed.cable(host, up=False)
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    assert f"{host} does not respond: Slurm may show worker job {job} as COMPLETING" in cluster.output()
    cluster.wait()
    left = f"Slurm still has worker job {job} (COMPLETING on {host})"
    for command in ("status", "why"):
        shown = slurm.run(LOGIN, ["raycluster", command, cluster.id], check=True).stdout
        assert left in " ".join(shown.split())
    time.sleep(CUT_OFF_S)  # the worker notices that its head is gone, and ends
    slurm.bed.cable(host, up=True)
    slurm.assert_nothing_left()
    wait_until(lambda: not queue(slurm), timeout_s=RESENT_S, what="an empty queue")
    assert left not in slurm.run(LOGIN, ["raycluster", "why", cluster.id], check=True).stdout


@pytest.fixture(scope="module")
def patient_beds() -> Iterator[Beds]:
    """Slurm waits for five minutes before it marks a node as down, as it does by default."""
    beds = Beds("patient", BedSpec(slurm={"SlurmdTimeout": "300"}))
    yield beds
    beds.down()


@pytest.fixture
def patient_slurm(patient_beds: Beds) -> Iterator[Slurm]:
    yield from patient_beds.jobs()


def test_another_job_comes_for_one_whose_host_is_cut_off_before_it_begins(patient_slurm: Slurm) -> None:
    """Slurm takes minutes to give such a job up; the cluster does not wait for it."""
    slurm = patient_slurm
    options = ("--max-nodes=2", "--worker-sbatch=-c 1 --mem=2000 --time=10 --exclude=n1")
    cluster = submit(slurm, "seconds=600", options=options, sbatch=(*SHARE, "--nodelist=n1"))
    cluster.wait_for("ready at")
    slurm.bed.cable("n2", up=False)
    scale(slurm, cluster, "+1")
    joined(slurm, cluster, "worker", 1)
    first, second = groups(slurm, cluster)["worker"]["jobs"]
    assert state_of(slurm, first["job"]) == "COMPLETING"
    assert (first["state"], first["hosts"], second["hosts"]) == ("ended", ["n2"], ["n3"])
    assert first["reason"].startswith("Slurm has ended it before it joined")
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    slurm.run(LOGIN, ["scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=its cable"], check=True)
    nobody_left(slurm)
    slurm.bed.cable("n2", up=True)
    slurm.run(LOGIN, ["scontrol", "update", "NodeName=n2", "State=RESUME"], check=True)
    slurm.assert_nothing_left()
    wait_until(slurm.bed.idle, timeout_s=RESENT_S, what="idle nodes")
