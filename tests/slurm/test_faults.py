"""Faults on real Slurm hosts: each row of docs/reliability.md is a test here."""

from __future__ import annotations

import dataclasses
import os
import random
import textwrap
import time

import pytest

from tests.slurm.cluster import SLACK_S, Cluster
from tests.slurm.jobs import Slurm
from tests.waiting import wait_until


@dataclasses.dataclass(frozen=True)
class Kill:
    """kill -9 of one process while the driver runs."""

    host: str
    process: str
    code: int
    """Exit code of the job's step."""
    reason: str
    """In the record's end."""
    within_s: float
    """By when every node knows, as documented."""

    def __str__(self) -> str:
        return f"{'head' if self.host == 'n1' else 'worker'}-{self.process}"


KILLS = [
    Kill("n2", "raylet", 5, "worker-lost", 2.0),
    Kill("n2", "supervisor", 137, "worker-lost", 2.0),
    Kill("n2", "keeper", 137, "worker-lost", 3.0),
    Kill("n2", "agent", 5, "worker-lost", 2.0),
    Kill("n1", "gcs_server", 5, "head-lost", 2.0),
    Kill("n1", "raylet", 5, "head-lost", 2.0),
    Kill("n1", "agent", 5, "head-lost", 2.0),
    Kill("n1", "supervisor", 137, "supervisor-killed", 2.0),
    Kill("n1", "keeper", 137, "keeper-killed", 2.0),
    Kill("n1", "driver", 137, "driver", 2.0),
]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Printed, so that a failure can be made again: RAYCLUSTER_SEED=N."""
    number = int(os.environ.get("RAYCLUSTER_SEED", "") or random.randrange(1_000_000))
    print(f"{request.node.name}: RAYCLUSTER_SEED={number}")
    return number


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_killed(slurm: Slurm, kill: Kill, seed: int) -> None:
    cluster = Cluster.start(slurm).driving()
    time.sleep(random.Random(seed).uniform(0, 1.5))
    cluster.signal(kill.host, kill.process)
    end = cluster.job.wait()
    print(kill, end, cluster.known_after_s(), cluster.end.get("message"))
    assert (end.exit_code or 128 + end.signal) == kill.code
    assert cluster.end["reason"] == kill.reason
    for host, seconds in cluster.known_after_s().items():
        assert seconds < kill.within_s + SLACK_S, host
    slurm.assert_nothing_left()


# -- what the cluster must survive ---------------------------------------------------------------


@pytest.mark.parametrize("process", ["companion", "watcher"])
def test_watch_over_the_nodes_is_taken_up_again(slurm: Slurm, process: str) -> None:
    """The head's companion is killed: nothing happens; a worker that is lost later is still noticed."""
    cluster = Cluster.start(slurm).driving()
    cluster.signal("n1", process)
    wait_until(lambda: cluster.find("n1", "watcher"), timeout_s=30, what="a new watcher")
    cluster.signal("n3", "raylet")
    end = cluster.job.wait()
    assert (end.exit_code, cluster.end["reason"], cluster.end["culprit_host"]) == (5, "worker-lost", "n3")
    slurm.assert_nothing_left()


def test_killed_worker_process_is_the_drivers_affair(slurm: Slurm) -> None:
    text = """
        for host, holder in zip(mine.values(), holders):
            try:
                for _ in range(300):
                    ray.get(holder.pid.remote())
                    time.sleep(0.1)
            except ray.exceptions.RayActorError:
                print("LOST ACTOR", sum(node["Alive"] for node in ray.nodes()), flush=True)
                sys.exit(7)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text)).driving()
    for one in cluster.find("n2", "worker"):
        cluster.bed.run("n2", ["kill", "-9", str(one.pid)])
    for one in cluster.find("n1", "worker"):
        cluster.bed.run("n1", ["kill", "-9", str(one.pid)])
    end = cluster.job.wait()
    assert end.exit_code == 7
    assert "LOST ACTOR 3" in cluster.job.output()
    slurm.assert_nothing_left()


@pytest.mark.parametrize(("host", "process"), [("n2", "raylet"), ("n1", "gcs_server"), ("n1", "raylet")])
def test_stopped_for_five_seconds_is_not_dead(slurm: Slurm, host: str, process: str) -> None:
    cluster = Cluster.start(slurm, "time.sleep(12)").driving()
    pid = cluster.pid(host, process)
    cluster.bed.run(host, ["kill", "-STOP", str(pid)], check=True)
    time.sleep(5)  # the fault itself
    cluster.bed.run(host, ["kill", "-CONT", str(pid)], check=True)
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert cluster.end["reason"] == "driver"
    slurm.assert_nothing_left()


def test_cable_pulled_for_five_seconds_is_not_a_loss(slurm: Slurm) -> None:
    cluster = Cluster.start(slurm, "time.sleep(14)").driving()
    slurm.bed.cable("n2", up=False)
    time.sleep(5)  # the fault itself
    slurm.bed.cable("n2", up=True)
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert cluster.end["reason"] == "driver"
    slurm.assert_nothing_left()


# -- hosts and cables ----------------------------------------------------------------------------

SILENT_S = 15.0


@pytest.mark.parametrize("fault", ["power", "cable"])
def test_worker_host_falls_silent(slurm: Slurm, fault: str) -> None:
    cluster = Cluster.start(slurm).driving()
    began = time.time()
    if fault == "power":
        slurm.bed.power_off("n2")
    else:
        slurm.bed.cable("n2", up=False)
    end = cluster.wait_end()
    print("known after", round(end["when"] - began, 1), end["message"])
    assert end["when"] - began < SILENT_S + SLACK_S
    assert (end["exit_code"], end["reason"], end["culprit_host"]) == (5, "worker-lost", "n2")
    for host in ("n1", "n3"):
        wait_until(lambda host=host: cluster.node(host).get("exit_code") is not None, timeout_s=10, what=host)
    if fault == "cable":
        # The node that was cut off gives up by itself.
        wait_until(lambda: not cluster.find("n2", "raylet"), timeout_s=20, what="n2 without a raylet")
        wait_until(lambda: not cluster.find("n2", "supervisor"), timeout_s=20, what="n2 without raycluster")
        slurm.bed.cable("n2", up=True)
        slurm.assert_nothing_left()


@pytest.mark.parametrize("fault", ["power", "cable"])
def test_head_host_falls_silent(slurm: Slurm, fault: str) -> None:
    cluster = Cluster.start(slurm).driving()
    began = time.time()
    if fault == "power":
        slurm.bed.power_off("n1")
    else:
        slurm.bed.cable("n1", up=False)
    for host in ("n2", "n3"):
        word = wait_until(
            lambda host=host: cluster.node(host) if cluster.node(host).get("exit_code") is not None else None,
            timeout_s=60,
            what=f"the end of {host}",
        )
        print(host, round(word["updated"] - began, 1), word["message"])
        assert word["exit_code"] == 5
        assert word["phases"]["stopping"] - began < SILENT_S + SLACK_S
        assert "n1" in word["message"] or "10.77.0.1" in word["message"]
    if fault == "cable":
        slurm.bed.cable("n1", up=True)
        wait_until(lambda: not cluster.find("n1", "supervisor"), timeout_s=20, what="n1 without raycluster")
    slurm.assert_nothing_left()


# -- policies ------------------------------------------------------------------------------------


def test_raylet_is_started_again_where_the_policy_allows_it(slurm: Slurm) -> None:
    text = """
        before = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        print("WAITING", flush=True)
        while True:
            alive = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
            if len(alive) == 3 and set(alive) != before:
                break
            time.sleep(0.2)
        print("BACK", [name for id, name in alive.items() if id not in before], flush=True)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text), options="--on-worker-loss wait:60")
    cluster.job.wait_for("WAITING")
    cluster.signal("n3", "raylet")
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert "BACK ['n3']" in cluster.job.output()
    assert cluster.node("n3")["extra"]["restarts"] == 1
    slurm.assert_nothing_left()


def test_restarts_are_counted(slurm: Slurm) -> None:
    """The second loss is one too many: the worker says so, and the head ends the cluster."""
    cluster = Cluster.start(slurm, options="--on-worker-loss wait:3 --max-restarts 1").driving()
    first = cluster.pid("n3", "raylet")
    cluster.signal("n3", "raylet")
    wait_until(
        lambda: [one for one in cluster.find("n3", "raylet") if one.pid != first],
        timeout_s=30,
        what="a new raylet",
    )
    wait_until(lambda: cluster.node("n3").get("extra", {}).get("restarts"), timeout_s=30, what="its word")
    cluster.signal("n3", "raylet")
    assert cluster.job.wait().exit_code == 5
    assert cluster.node("n3")["exit_code"] == 5
    assert "after 1 restart" in cluster.node("n3")["message"]
    assert cluster.end["reason"] == "worker-lost"
    slurm.assert_nothing_left()


def test_continue_goes_on_with_fewer(slurm: Slurm) -> None:
    text = """
        while sum(node["Alive"] for node in ray.nodes()) > 2:
            time.sleep(0.1)
        print("TWO LEFT", flush=True)
        time.sleep(1)
    """
    cluster = Cluster.start(
        slurm, textwrap.dedent(text), options="--on-worker-loss continue --max-restarts 0"
    )
    cluster.driving().signal("n2", "supervisor")
    cluster.job.wait()
    assert "TWO LEFT" in cluster.job.output()
    assert (cluster.end["exit_code"], cluster.end["reason"]) == (0, "driver")
    slurm.assert_nothing_left()


def test_quorum_starts_and_late_ones_are_let_in(slurm: Slurm) -> None:
    text = """
        while sum(node["Alive"] for node in ray.nodes()) < 3:
            time.sleep(0.1)
        print("LATE ONE IS IN", flush=True)
    """
    cluster = Cluster.start(
        slurm,
        textwrap.dedent(text),
        options="--min-workers 1 --settle 1",
        prefix="""bash -c '[ $SLURMD_NODENAME != n3 ] || while [ ! -e /home/root/go ]; do sleep .2; done; exec "$@"' x""",
    )
    output = cluster.job.wait_for("DRIVING 2")
    assert "starting with 1 of 2 workers" in output
    assert "n3" in output
    go = slurm.bed.path("login", "/home/root/go")
    go.touch()
    try:
        assert cluster.job.wait().exit_code == 0
    finally:
        go.unlink()
    assert "LATE ONE IS IN" in cluster.job.output()
    slurm.assert_nothing_left()


# -- recovery of the head ------------------------------------------------------------------------

COUNTER = """
import os, sys, time
import ray
ray.init(address="auto", namespace="n", log_to_driver=False)

@ray.remote(num_cpus=0, max_restarts=0)
class Counter:
    def __init__(self):
        self.n = 0
    def up(self):
        self.n += 1
        return self.n, os.getpid()
"""


def test_gcs_comes_back_and_the_driver_goes_on(slurm: Slurm) -> None:
    text = """
        node = next(node["NodeID"] for node in ray.nodes() if node["NodeName"] == "n2")
        place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        counter = Counter.options(name="c", lifetime="detached", scheduling_strategy=place).remote()
        first = ray.get(counter.up.remote())
        print("DRIVING", first, flush=True)
        while not os.path.exists("/home/root/go"):
            time.sleep(0.1)
        later = ray.get(ray.get_actor("c").up.remote(), timeout=40)
        print("ALIVE", sum(node["Alive"] for node in ray.nodes()), later[0], later[1] == first[1], flush=True)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text), options="--head-recovery", preamble=COUNTER)
    cluster.driving()
    go = slurm.bed.path("login", "/home/root/go")
    try:
        for number in (1, 2):
            cluster.signal("n1", "gcs_server")
            events = cluster.record / "events.log"
            wait_until(
                lambda n=number: events.read_text().count("the GCS is back; the driver") == n,
                timeout_s=30,
                what="GCS",
            )
        go.touch()
        assert cluster.job.wait().exit_code == 0, cluster.job.output()
    finally:
        go.unlink(missing_ok=True)
    assert "ALIVE 3 2 True" in cluster.job.output()
    slurm.assert_nothing_left()


def test_head_comes_back_and_detached_actors_survive(slurm: Slurm) -> None:
    text = """
        if not os.environ.get("RAYCLUSTER_DRIVER_RESTARTS"):
            node = next(node["NodeID"] for node in ray.nodes() if node["NodeName"] == "n2")
            place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            counter = Counter.options(name="c", lifetime="detached", scheduling_strategy=place).remote()
            print("DRIVING", ray.get(counter.up.remote()), flush=True)
            time.sleep(600)
        print("AGAIN", ray.get(ray.get_actor("c").up.remote(), timeout=60)[0], flush=True)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text), options="--head-recovery", preamble=COUNTER)
    cluster.driving().signal("n1", "raylet")
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert "AGAIN 2" in cluster.job.output()
    slurm.assert_nothing_left()
