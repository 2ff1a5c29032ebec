"""Clusters that grow and shrink, as people use them: --max-nodes, groups of a file, `raycluster scale`."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN, home
from tests.slurm.batches import record
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.waiting import wait_until

ELASTIC = ("python", str(REPOSITORY / "tests/slurm/drivers/elastic.py"))

#: What the head's job and each worker job ask for.
SHARE = ("-c", "1", "--mem=2000", "--time=10")

#: How long worker jobs may take to leave Slurm's queue once their cluster has ended.
GONE_S = 10.0


def submit(
    slurm: Slurm, *driver: str, options: Sequence[str] = (), user: str = "root", sbatch: Sequence[str] = SHARE
) -> Job:
    """`raycluster submit` on the login host: a head of one node, and a driver that does so."""
    output = f"--output={home(user)}/%j.out"
    words = ["raycluster", "submit", "-N", "1", *sbatch, output, *options, "--", *ELASTIC, *driver]
    done = slurm.run(LOGIN, words, user=user, wd=home(user), check=True)
    job = Job(slurm.bed, done.stdout.strip().rpartition(" ")[2], user)
    slurm.jobs.append(job)
    return job


def queue(slurm: Slurm) -> list[list[str]]:
    """Job, name, state and user of all jobs in Slurm's queue, one line for each task of an array."""
    done = slurm.run(LOGIN, ["squeue", "--noheader", "--array", "--format=%i|%j|%T|%u"], check=True)
    return [line.split("|") for line in done.stdout.splitlines()]


def worker_jobs(slurm: Slurm, cluster: Job) -> list[str]:
    """The ids of all jobs of the user but the head's that Slurm has in its queue."""
    return [line[0] for line in queue(slurm) if line[3] == cluster.user and line[0] != cluster.id]


def nobody_left(slurm: Slurm) -> None:
    """Slurm has no job any more, soon after the end."""
    wait_until(lambda: not queue(slurm), timeout_s=GONE_S, what="an empty queue", interval_s=0.3)


def told(output: str, what: str) -> list[Any]:
    """What the driver printed after this word, each time."""
    return [json.loads(line.split(" ", 1)[1]) for line in output.splitlines() if line.startswith(f"{what} ")]


def groups(slurm: Slurm, cluster: Job) -> dict[str, dict[str, Any]]:
    """What `raycluster scale JOB --json` says of each group."""
    words = ["raycluster", "scale", cluster.id, "--json"]
    found = json.loads(slurm.run(LOGIN, words, user=cluster.user, check=True).stdout)
    return {group["name"]: group for group in found["groups"]}


def scale(slurm: Slurm, cluster: Job, *changes: str) -> str:
    done = slurm.run(LOGIN, ["raycluster", "scale", cluster.id, *changes], user=cluster.user, check=True)
    return done.stdout


def groups_file(slurm: Slurm, text: str, user: str = "root") -> str:
    """A file of groups in the user's home."""
    name = f"{home(user)}/cluster.toml"
    slurm.run(LOGIN, ["tee", name], user=user, stdin=text, check=True)
    return name


@pytest.mark.versions
def test_it_grows_with_the_work_shrinks_when_idle_and_can_be_set_by_hand(slurm: Slurm) -> None:
    cluster = submit(
        slurm,
        *("tasks=3:1", "nodes=1", "nodes=2"),
        options=("--max-nodes=3", "--worker-idle-timeout=4"),
        user="alice",
    )
    output = cluster.wait_for("NODES ")
    [used] = told(output, "TASKS")
    assert len(used) == 3, output
    assert told(output, "NODES")[0] == [used[0]]  # the head alone
    wait_until(
        lambda: groups(slurm, cluster)["worker"]["nodes"] == 0, timeout_s=60, what="a group without nodes"
    )  # Ray knows of it half a second before the record
    scale(slurm, cluster, "+1")
    assert cluster.wait() == JobEnd("COMPLETED", 0, 0), cluster.output()
    assert groups(slurm, cluster)["worker"]["set_by_hand"] is True
    nobody_left(slurm)
    slurm.assert_nothing_left()
    # The worker jobs asked for what the head's did.
    group = json.loads((record(slurm.bed, cluster) / "groups.json").read_text())["groups"][0]
    assert group["sbatch"] == ["--cpus-per-task=1", "--mem=2000", "--time=10"]


@pytest.mark.chaos
def test_a_placement_group_over_three_worker_jobs(slurm: Slurm) -> None:
    cluster = submit(slurm, "gang=4", options=("--max-nodes=4",))
    assert cluster.wait() == JobEnd("COMPLETED", 0, 0), cluster.output()
    [found] = told(cluster.output(), "GANG")
    assert len(set(found)) == 4
    nobody_left(slurm)
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_groups_of_a_file(slurm: Slurm) -> None:
    path = groups_file(
        slurm,
        f"""
        [workers.big]
        sbatch = "{shlex.join(("-c", "4", "--mem=3000", "--time=10"))}"
        max = 2
        labels = {{ size = "big" }}

        [workers.licensed]
        sbatch = ["--cpus-per-task=1", "--mem=2000", "--time=10"]
        max = 1
        min = 1
        resources = {{ CPU = 1, licence = 1 }}
        """,
    )
    cluster = submit(
        slurm, "need=licence", "on=size:big", "tasks=4:3", "seconds=600", options=(f"--config={path}",)
    )
    output = cluster.wait_for("TASKS ")
    by_job = {job["job"]: name for name, group in groups(slurm, cluster).items() for job in group["jobs"]}
    group_of = {host: by_job.get(host.partition(".")[2], "head") for host in told(output, "TASKS")[0]}
    assert by_job[told(output, "NEED")[0][0].partition(".")[2]] == "licensed"
    assert by_job[told(output, "ON")[0][0].partition(".")[2]] == "big"
    assert "big" in group_of.values()
    shown = slurm.run(LOGIN, ["raycluster", "status", cluster.id], check=True).stdout
    assert "licensed  1      1 " in shown, shown
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    nobody_left(slurm)
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_set_by_hand_up_and_down(slurm: Slurm) -> None:
    cluster = submit(slurm, "seconds=600", options=("--max-nodes=8", "--worker-idle-timeout=3"))
    cluster.wait_for("ready at")

    def becomes(number: int) -> None:
        wait_until(
            lambda: groups(slurm, cluster)["worker"]["nodes_joined"] == number,
            timeout_s=90,
            what=f"{number} nodes",
            interval_s=0.5,
        )

    for change, number in (("3", 3), ("-1", 2), ("+2", 4), ("0..2", 0)):
        scale(slurm, cluster, change)
        becomes(number)
    wait_until(lambda: not worker_jobs(slurm, cluster), timeout_s=20, what="no worker job")
    # Nothing is submitted again.
    scale(slurm, cluster, "1")
    becomes(1)
    assert len(worker_jobs(slurm, cluster)) == 1
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    nobody_left(slurm)
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_bursts_of_short_tasks_do_not_start_and_stop_nodes(slurm: Slurm) -> None:
    """The rest between two bursts is shorter than the idle time-out, and longer than any of Ray's own."""
    cluster = submit(
        slurm,
        "bursts=3:500:15",
        sbatch=("-c", "4", "--mem=2000", "--time=20"),
        options=("--max-nodes=4", "--worker-idle-timeout=60"),
    )
    assert cluster.wait(480) == JobEnd("COMPLETED", 0, 0), cluster.output()
    first, *others = told(cluster.output(), "BURST")
    assert len(first) == 4
    assert all(other == first for other in others)
    # Each node was asked for once.
    assert len(groups(slurm, cluster)["worker"]["jobs"]) == 3
    events = (record(slurm.bed, cluster) / "events.log").read_text()
    assert events.count(" left: ") == 0, events
    nobody_left(slurm)


@pytest.mark.chaos
def test_two_clusters_of_one_user_and_one_of_another(slurm: Slurm) -> None:
    options = ("--max-nodes=3", "--worker-idle-timeout=5")
    clusters = [
        submit(slurm, "tasks=3:1", "nodes=1", options=options, user=user)
        for user in ("alice", "alice", "bob")
    ]
    for cluster in clusters:
        assert cluster.wait() == JobEnd("COMPLETED", 0, 0), cluster.output()
    hosts = [set(told(cluster.output(), "TASKS")[0]) for cluster in clusters]
    workers = [{name for name in each if "." in name} for each in hosts]
    assert all(workers)
    assert not set.intersection(*workers[:2])
    nobody_left(slurm)
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_worker_jobs_in_the_queue_end_with_the_cluster(slurm: Slurm) -> None:
    """More than the bed has: those that wait are shown with Slurm's reason, and cancelled at the end."""
    path = groups_file(
        slurm, '[workers.whole]\nsbatch = "--exclusive --mem=12000 --time=10"\nmax = 6\nmin = 6\n'
    )
    cluster = submit(slurm, "seconds=600", options=(f"--config={path}",))
    cluster.wait_for("ready at")

    def pending() -> list[dict[str, Any]]:
        jobs = groups(slurm, cluster)["whole"]["jobs"]
        return [
            job for job in jobs if job["state"] == "pending" and job["reason"] in ("Resources", "Priority")
        ]

    wait_until(pending, timeout_s=90, what="jobs that wait for nodes", interval_s=0.5)
    shown = slurm.run(LOGIN, ["raycluster", "status", cluster.id], check=True).stdout
    assert "pending (" in shown
    why = slurm.run(LOGIN, ["raycluster", "why", cluster.id], check=True).stdout
    assert "whole: " in why
    cluster.cancel()
    assert cluster.wait().state == "CANCELLED"
    nobody_left(slurm)
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_the_output_of_a_worker_job(slurm: Slurm) -> None:
    cluster = submit(slurm, "seconds=600", options=("--max-nodes=2",))
    cluster.wait_for("ready at")
    scale(slurm, cluster, "1")

    def ready() -> str:
        jobs = groups(slurm, cluster)["worker"]["jobs"]
        return next((str(job["job"]) for job in jobs if job["state"] in ("ready", "idle")), "")

    job = wait_until(ready, timeout_s=90, what="a worker", interval_s=0.5)
    said = slurm.run(LOGIN, ["raycluster", "logs", cluster.id, "-n", job], check=True).stdout
    assert f"joined cluster {cluster.id}" in said
    assert Path(groups(slurm, cluster)["worker"]["jobs"][0]["output"]).parent.name == "jobs"
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    nobody_left(slurm)


@pytest.fixture
def submissions_from_login_only(slurm: Slurm) -> Iterator[None]:
    """Slurm refuses jobs that are submitted on the compute nodes."""

    def allow(hosts: str) -> None:
        slurm.run(LOGIN, ["scontrol", "update", "PartitionName=main", f"AllocNodes={hosts}"], check=True)

    allow(LOGIN)
    yield
    allow("ALL")


@pytest.mark.chaos
@pytest.mark.usefixtures("submissions_from_login_only")
def test_a_login_node_submits_for_a_head_that_may_not(slurm: Slurm) -> None:
    cluster = submit(slurm, "gang=2", options=("--max-nodes=2",))

    def refused() -> bool:
        found = json.loads(slurm.run(LOGIN, ["raycluster", "scale", cluster.id, "--json"]).stdout or "{}")
        return any("permission denied" in group["problem"] for group in found.get("groups", ()))

    wait_until(refused, timeout_s=60, what="the refusal in the group's state", interval_s=0.5)
    command = slurm.bed.command(LOGIN, ["raycluster", "scale", cluster.id, "--serve"])
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert cluster.wait() == JobEnd("COMPLETED", 0, 0), cluster.output()
        assert server.stderr is not None
        said = server.stderr.read()  # it ends with the cluster
    assert server.returncode == 0, said
    assert "sbatch: job " in said
    assert len(set(told(cluster.output(), "GANG")[0])) == 2
    nobody_left(slurm)
    slurm.assert_nothing_left()
