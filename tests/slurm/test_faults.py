"""Faults on real Slurm hosts: each row of docs/reliability.md is a test here.

A run of all tests takes the core of them; `make chaos` takes all, those of a random moment several times
(RAYCLUSTER_CHAOS=N).  RAYCLUSTER_SEED=S makes a moment again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster_cli.ops.clusters import BEGIN_S
from raycluster_cli.supervisor.head_guards import STOPPED_LOOK_S
from tests.bed.bed import REPOSITORY
from tests.bed.spec import home
from tests.slurm.cluster import SLACK_S, Cluster, Disk
from tests.slurm.jobs import Slurm
from tests.waiting import wait_until

ROUNDS = int(os.environ.get("RAYCLUSTER_CHAOS", "") or 0)
chaos = pytest.mark.chaos


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
    cause: str = ""
    """What `why` says."""

    def __str__(self) -> str:
        return f"{'head' if self.host == 'n1' else 'worker'}-{self.process}"


KILLS = [
    Kill("n2", "raylet", 5, "worker-lost", 2.0, "The raylet on n2 was killed from outside"),
    Kill("n2", "supervisor", 137, "worker-lost", 2.0, "raycluster on n2 was killed from outside"),
    Kill("n2", "keeper", 137, "worker-lost", 3.0, "raycluster's keeper on n2 was killed from outside"),
    Kill("n2", "agent", 5, "worker-lost", 2.0, "on n2"),
    Kill("n1", "gcs_server", 5, "head-lost", 2.0, "The gcs_server on n1 was killed from outside"),
    Kill("n1", "raylet", 5, "head-lost", 2.0, "The raylet on n1 was killed from outside"),
    Kill("n1", "agent", 5, "head-lost", 2.0, "on n1"),
    Kill("n1", "supervisor", 137, "supervisor-killed", 2.0, "raycluster on n1 was killed from outside"),
    Kill("n1", "keeper", 137, "keeper-killed", 2.0, "raycluster's keeper on n1 was killed from outside"),
    Kill("n1", "driver", 137, "driver", 2.0, "The driver itself failed: it was killed by SIGKILL"),
]


def on_one_node(host: str, command: str) -> str:
    """A prefix for the tasks: a shell that does something on one host first."""
    return f"bash -c '[ $SLURMD_NODENAME != {host} ] || {command}; exec \"$@\"' x"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Printed, so that a failure can be made again: RAYCLUSTER_SEED=N."""
    number = int(os.environ.get("RAYCLUSTER_SEED", "") or random.randrange(1_000_000))
    print(f"{request.node.name}: RAYCLUSTER_SEED={number}")
    return number


CORE = ("worker-raylet", "worker-supervisor", "head-gcs_server", "head-supervisor", "head-driver")


@pytest.mark.parametrize(
    "kill", [pytest.param(kill, id=str(kill), marks=() if str(kill) in CORE else chaos) for kill in KILLS]
)
@pytest.mark.versions
def test_killed(slurm: Slurm, kill: Kill, seed: int) -> None:
    cluster = Cluster.start(slurm).driving()
    time.sleep(random.Random(seed).uniform(0, 1.5))
    cluster.signal(kill.host, kill.process)
    end = cluster.job.wait()
    print(kill, end, cluster.known_after_s(), cluster.end.get("message"))
    assert (end.exit_code or 128 + end.signal) == kill.code
    assert cluster.end["reason"] == kill.reason
    for host, seconds in cluster.known_after_s().items():
        # The other workers go last, when the driver has had its grace.
        grace_s = 10.0 if kill.reason == "worker-lost" and host != "n1" else 0.0
        assert seconds < kill.within_s + grace_s + SLACK_S, host
    cluster.assert_told("failed", kill.cause)
    slurm.assert_nothing_left()


def test_dead_raylet_is_told_by_its_own_node(slurm: Slurm) -> None:
    """The GCS of a very large cluster asks its raylets so seldom that it would come too late."""
    seldom = "export RAY_health_check_period_ms=60000 RAY_health_check_initial_delay_ms=60000"
    cluster = Cluster.start(slurm, before=seldom).driving()
    cluster.signal("n3", "raylet")
    end = cluster.job.wait()
    assert (end.exit_code, cluster.end["reason"], cluster.end["failed_host"]) == (5, "worker-lost", "n3")
    assert "raylet was killed by SIGKILL" in cluster.end["message"]
    assert cluster.known_after_s()["n1"] < 2.0 + SLACK_S
    slurm.assert_nothing_left()


# -- what the cluster must survive ---------------------------------------------------------------


@pytest.mark.parametrize("process", ["companion", pytest.param("watcher", marks=chaos)])
def test_watch_over_the_nodes_is_taken_up_again(slurm: Slurm, process: str) -> None:
    """The head's companion is killed: nothing happens; a worker that is lost later is still noticed."""
    cluster = Cluster.start(slurm).driving()
    cluster.signal("n1", process)
    wait_until(lambda: cluster.find("n1", "watcher"), timeout_s=30, what="a new watcher")
    cluster.signal("n3", "raylet")
    end = cluster.job.wait()
    assert (end.exit_code, cluster.end["reason"], cluster.end["failed_host"]) == (5, "worker-lost", "n3")
    slurm.assert_nothing_left()


@chaos
def test_a_watch_that_was_stopped_still_sees_a_host_that_fails(slurm: Slurm) -> None:
    """SIGSTOP for good: it is continued, and a host without power is noticed."""
    cluster = Cluster.start(slurm).driving()
    for process in ("companion", "watcher"):
        cluster.signal("n1", process, "STOP")
    slurm.bed.power_off("n3")
    end = cluster.wait_end(timeout_s=STOPPED_LOOK_S + SILENT_S + SLACK_S)
    assert (end["exit_code"], end["reason"], end["failed_host"]) == (5, "worker-lost", "n3")
    cluster.job.wait()


@chaos
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
    cluster.assert_told("failed", "The driver itself failed: it ended with code 7")
    slurm.assert_nothing_left()


def test_driver_that_fails_for_a_lost_worker_is_not_the_culprit(slurm: Slurm) -> None:
    """It ends before the head has heard of the loss; the message names the worker all the same."""
    text = """
        while True:
            ray.get([holder.pid.remote() for holder in holders])
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text)).driving()
    cluster.signal("n2", "raylet")
    assert cluster.job.wait().exit_code in (1, 5)
    assert cluster.end["failed_host"] == "n2"
    assert "raylet" in cluster.end["message"]
    assert "was killed by SIGKILL" in cluster.end["message"]
    cluster.assert_told("failed", "The raylet on n2 was killed from outside")
    slurm.assert_nothing_left()


@pytest.mark.parametrize(
    ("host", "process"),
    [
        ("n2", "raylet"),
        pytest.param("n1", "gcs_server", marks=chaos),
        pytest.param("n1", "raylet", marks=chaos),
    ],
)
def test_stopped_for_five_seconds_is_not_dead(slurm: Slurm, host: str, process: str) -> None:
    cluster = Cluster.start(slurm, "time.sleep(12)").driving()
    pid = cluster.pid(host, process)
    cluster.bed.run(host, ["kill", "-STOP", str(pid)], check=True)
    time.sleep(5)  # the fault itself
    cluster.bed.run(host, ["kill", "-CONT", str(pid)], check=True)
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert cluster.end["reason"] == "driver"
    slurm.assert_nothing_left()


@chaos
def test_load_of_fifty_is_not_a_loss(slurm: Slurm) -> None:
    cluster = Cluster.start(slurm, "time.sleep(12)").driving()
    slurm.run("n2", ["bash", "-c", "for i in {1..50}; do timeout 8 sh -c 'while :; do :; done' & done; wait"])
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert cluster.end["reason"] == "driver"
    slurm.assert_nothing_left()


@chaos
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


@pytest.mark.parametrize("fault", ["power", pytest.param("cable", marks=chaos)])
@pytest.mark.versions
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
    assert (end["exit_code"], end["reason"], end["failed_host"]) == (5, "worker-lost", "n2")
    for host in ("n1", "n3"):
        cluster.wait_node_end(host, timeout_s=15)
    cluster.assert_told("failed", "n2 stopped responding")
    if fault == "cable":
        # The node that was cut off gives up by itself.
        wait_until(lambda: not cluster.find("n2", "raylet"), timeout_s=20, what="n2 without a raylet")
        wait_until(lambda: not cluster.find("n2", "supervisor"), timeout_s=20, what="n2 without raycluster")
        slurm.bed.cable("n2", up=True)
        slurm.assert_nothing_left()


@pytest.mark.parametrize("fault", ["power", pytest.param("cable", marks=chaos)])
def test_head_host_falls_silent(slurm: Slurm, fault: str) -> None:
    cluster = Cluster.start(slurm).driving()
    began = time.time()
    if fault == "power":
        slurm.bed.power_off("n1")
    else:
        slurm.bed.cable("n1", up=False)
    for host in ("n2", "n3"):
        word = cluster.wait_node_end(host)
        print(host, round(word["updated"] - began, 1), word["message"])
        assert word["exit_code"] == 5
        assert word["phases"]["stopping"] - began < SILENT_S + SLACK_S
        assert "n1" in word["message"] or "10.77.0.1" in word["message"]
    if fault == "cable":
        slurm.bed.cable("n1", up=True)
        wait_until(lambda: not cluster.find("n1", "supervisor"), timeout_s=20, what="n1 without raycluster")
    if fault == "power":
        slurm.bed.power_on("n1")
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
    assert cluster.node("n3")["restarts"] == 1
    slurm.assert_nothing_left()


@chaos
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
    wait_until(lambda: cluster.node("n3").get("restarts"), timeout_s=30, what="its word")
    cluster.signal("n3", "raylet")
    assert cluster.job.wait().exit_code == 5
    assert cluster.node("n3")["phase"] == "failed"
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
    cluster.driving().signal("n2", "raylet")
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
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
        prefix=on_one_node("n3", "while [ ! -e /home/admin/go ]; do sleep .2; done"),
    )
    output = cluster.job.wait_for("DRIVING 2")
    assert "starting with 1 of 2 workers" in output
    assert "n3" in output
    go = slurm.bed.path("login", "/home/admin/go")
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
        while not os.path.exists("/home/admin/go"):
            time.sleep(0.1)
        later = ray.get(ray.get_actor("c").up.remote(), timeout=40)
        print("ALIVE", sum(node["Alive"] for node in ray.nodes()), later[0], later[1] == first[1], flush=True)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text), options="--head-recovery", preamble=COUNTER)
    cluster.driving()
    go = slurm.bed.path("login", "/home/admin/go")
    try:
        for number in (1, 2):
            cluster.signal("n1", "gcs_server")
            cluster.wait_event("GCS is back; the driver", times=number)
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


# -- signals, and Slurm's own ways to end ------------------------------------------------------------

STUBBORN = """
    import subprocess
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["setsid", "--fork", "sleep", "61861"])
    print("STUBBORN", flush=True)
    time.sleep(600)
"""


def test_stubborn_driver_and_its_daemon_are_ended_within_kill_wait(slurm: Slurm) -> None:
    """scancel, a driver that ignores SIGTERM, a daemon that it forked: all gone before Slurm's SIGKILL."""
    cluster = Cluster.start(slurm, textwrap.dedent(STUBBORN))
    cluster.job.wait_for("STUBBORN")
    began = time.time()
    cluster.job.cancel()
    end = cluster.wait_end()
    assert end["when"] - began < 10 + SLACK_S
    assert (end["exit_code"], end["reason"]) == (143, "signal")
    cluster.job.wait()
    assert wait_until(lambda: cluster.node("n1").get("exit_code"), timeout_s=30, what="n1's end") == 143
    slurm.assert_nothing_left()


def test_cancelled_driver_gets_its_time(slurm: Slurm) -> None:
    """One SIGTERM, however often Slurm repeats it, and three seconds to save."""
    text = """
        asked = []
        def save(number, frame):
            asked.append(number)
            if len(asked) == 1:
                time.sleep(3)
                print("SAVED", flush=True)
                sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        print("READY TO SAVE", flush=True)
        time.sleep(600)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text))
    cluster.job.wait_for("READY TO SAVE")
    cluster.job.cancel()
    assert wait_until(lambda: cluster.end, timeout_s=30, what="the end")["exit_code"] == 143
    wait_until(lambda: "SAVED" in cluster.job.output(), timeout_s=10, what="SAVED")
    slurm.assert_nothing_left()


@pytest.mark.parametrize(
    ("number", "code"),
    [("TERM", 143), pytest.param("INT", 130, marks=chaos), pytest.param("HUP", 129, marks=chaos)],
)
def test_signal_to_the_head(slurm: Slurm, number: str, code: int) -> None:
    cluster = Cluster.start(slurm).driving()
    cluster.signal("n1", "keeper", number)
    end = cluster.job.wait()
    assert end.exit_code == code, cluster.job.output()
    assert cluster.end["exit_code"] == code
    assert [cluster.node(host)["exit_code"] for host in ("n2", "n3")] == [0, 0]
    causes = {"TERM": "cancelled by SIGTERM", "INT": "Ctrl-C was pressed", "HUP": "(SIGHUP)"}
    cluster.assert_told("stopped", causes[number])
    slurm.assert_nothing_left()


@chaos
def test_interrupted_twice_is_now(slurm: Slurm) -> None:
    text = """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("IGNORING", flush=True)
        time.sleep(600)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text), options="--grace 60")
    cluster.job.wait_for("IGNORING")
    cluster.signal("n1", "keeper", "INT")
    wait_until(lambda: cluster.node("n1")["phase"] == "stopping", timeout_s=10, what="stopping")
    cluster.signal("n1", "keeper", "INT")
    end = cluster.job.wait()
    assert end.exit_code == 130
    assert cluster.end["when"] - cluster.fault_at < SLACK_S
    slurm.assert_nothing_left()


@pytest.mark.parametrize("number", range(max(ROUNDS, 1)))
def test_signal_in_a_random_phase_leaves_nothing(slurm: Slurm, seed: int, number: int) -> None:
    """SIGTERM to one task at any moment of its life: the code is 143, or that of a run that was over."""
    chance = random.Random(seed)
    host, delay_s = chance.choice(("n1", "n2")), chance.uniform(0, 5)
    cluster = Cluster.start(slurm, "time.sleep(1)", options="--timeout 25")
    cluster.pid(host, "keeper")
    time.sleep(delay_s)
    keeper = cluster.find(host, "keeper")
    print(host, delay_s, cluster.node(host).get("phase"))
    if keeper:
        cluster.bed.run(host, ["kill", "-TERM", str(keeper[0].pid)])
    end = cluster.job.wait()
    assert end.exit_code in (0, 4, 5, 143), cluster.job.output()
    slurm.assert_nothing_left()


@pytest.mark.parametrize("number", range(max(ROUNDS, 1)))
def test_kill_in_a_random_phase_leaves_nothing(slurm: Slurm, seed: int, number: int) -> None:
    """kill -9 of any process of ours on any host at any moment."""
    chance = random.Random(seed)
    host, delay_s = chance.choice(("n1", "n2")), chance.uniform(0, 5)
    cluster = Cluster.start(slurm, "time.sleep(1)", options="--timeout 25")
    cluster.pid(host, "keeper")
    time.sleep(delay_s)
    kinds = ["keeper", "supervisor", "companion", "raylet", "gcs_server", "agent", "worker", "driver"]
    found = [(kind, one) for kind in kinds for one in cluster.find(host, kind)]
    if found:
        kind, one = chance.choice(found)
        print(host, delay_s, kind, one.pid, cluster.node(host).get("phase"))
        cluster.bed.run(host, ["kill", "-KILL", str(one.pid)])
    end = cluster.job.wait()
    print(end, cluster.end.get("message"))
    assert end.exit_code in (0, 1, 3, 4, 5, 137), cluster.job.output()
    slurm.assert_nothing_left()


@pytest.mark.versions
def test_one_task_is_cancelled(slurm: Slurm) -> None:
    """A worker that is told to end by hand: 143 there, and the policy decides for the rest."""
    cluster = Cluster.start(slurm).driving()
    cluster.signal("n3", "keeper", "TERM")
    end = cluster.job.wait()
    assert end.exit_code == 143
    assert (cluster.end["exit_code"], cluster.end["failed_host"]) == (5, "n3")
    assert "SIGTERM" in cluster.end["message"]
    cluster.assert_told("failed", "SIGTERM")
    slurm.assert_nothing_left()


@chaos
def test_step_is_cancelled(slurm: Slurm) -> None:
    cluster = Cluster.start(slurm, wrap="").driving()
    cluster.bed.run("login", ["scancel", "--signal=TERM", f"{cluster.job.id}.0"], check=True)
    cluster.job.wait()
    assert cluster.wait_end()["exit_code"] == 143
    cluster.assert_told("stopped", "cancelled by SIGTERM")
    slurm.assert_nothing_left()


@pytest.mark.parametrize("how", [pytest.param("scancel", marks=chaos), "srun"])
def test_what_sigkill_everywhere_leaves_is_cleared_by_the_next_start(slurm: Slurm, how: str) -> None:
    """A plain scancel of a step, or srun's death: Slurm kills all processes, and nobody can clear up."""
    cluster = Cluster.start(slurm, wrap="").driving()
    if how == "scancel":
        cluster.bed.run("login", ["scancel", f"{cluster.job.id}.0"], check=True)
    else:
        srun = next(one for one in cluster.processes("n1") if one.argv and one.argv[0].endswith("srun"))
        cluster.bed.run("n1", ["kill", "-9", str(srun.pid)], check=True)
    cluster.job.wait()
    for host in slurm.bed.spec.nodes:
        cluster.wait_gone(host, "raylet")
    if how == "scancel":  # after srun's own death slurmstepd may be quicker with SIGTERM
        cluster.assert_told("lost", "killed at once (SIGKILL)")
    else:
        page = cluster.bed.run("login", ["raycluster", "why", cluster.job.id], check=True).stdout
        assert "srun was killed by SIGKILL" in page
    again = Cluster.start(slurm, "time.sleep(1)")
    assert again.job.wait().exit_code == 0, again.job.output()
    slurm.assert_nothing_left()


@pytest.mark.versions
def test_slurmd_is_restarted(slurm: Slurm) -> None:
    cluster = Cluster.start(
        slurm, "time.sleep(8); ray.get([holder.pid.remote() for holder in holders])"
    ).driving()
    slurmd = next(one for one in cluster.processes("n2") if one.argv and one.argv[0].endswith("slurmd"))
    cluster.bed.run("n2", ["kill", str(slurmd.pid)], check=True)
    wait_until(
        lambda: slurmd.pid not in {one.pid for one in cluster.processes("n2")},
        timeout_s=20,
        what="slurmd's end",
    )
    cluster.bed.run("n2", ["slurmd", "-N", "n2"], check=True)
    assert cluster.job.wait().exit_code == 0, cluster.job.output()


def test_second_head_by_mistake(slurm: Slurm) -> None:
    """It is refused with code 2 and does not touch the first, not even its record."""
    second = f"{sys.executable} -m raycluster_cli head --expected-workers 2 -- true"
    text = f"""
        import subprocess
        srun = ["srun", "--overlap", "--mem=0", "-N1", "-n1", "-w", "n1"]
        done = subprocess.run([*srun, *{second.split()!r}], capture_output=True, text=True)
        print("SECOND", done.returncode, done.stderr, flush=True)
        time.sleep(3)
        ray.get([holder.pid.remote() for holder in holders])
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text))
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert "SECOND 2" in cluster.job.output()
    assert "already has a head" in cluster.job.output()
    slurm.assert_nothing_left()


# -- time limit and requeue ------------------------------------------------------------------------


@pytest.mark.versions
def test_driver_is_told_before_the_time_limit(slurm: Slurm) -> None:
    text = """
        def save(number, frame):
            time.sleep(2)
            print("SAVED", sum(node["Alive"] for node in ray.nodes()), flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        time.sleep(600)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text), options="--stop-before 20", sbatch=("--time=1",))
    assert cluster.job.wait().state == "COMPLETED", cluster.job.output()
    assert "SAVED 3" in cluster.job.output()
    assert cluster.end["reason"] == "time-limit"
    cluster.assert_told("ended", "Nothing went wrong")
    slurm.assert_nothing_left()


@chaos
def test_requeued_job_starts_afresh(slurm: Slurm) -> None:
    text = """
        if os.environ.get("SLURM_RESTART_COUNT"):
            print("SECOND RUN", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
        print("FIRST RUN", flush=True)
        time.sleep(600)
    """
    cluster = Cluster.start(
        slurm,
        textwrap.dedent(text),
        options="--stop-before 30 --requeue-on-preempt",
        sbatch=("--time=1", "--requeue", "--open-mode=append"),
    )
    cluster.job.wait_for("FIRST RUN")
    cluster.wait_end()
    output = cluster.job.wait_for("SECOND RUN", timeout_s=240)
    assert "asks for a requeue" in output
    assert cluster.job.wait().exit_code == 0
    assert cluster.end["exit_code"] == 75
    assert json.loads((cluster.record.parent / f"{cluster.job.id}.r1/end.json").read_text())["exit_code"] == 0
    slurm.assert_nothing_left()


@chaos
def test_preempted_job_ends_in_order_and_starts_afresh(slurm: Slurm) -> None:
    """Slurm requeues it by itself; the driver gets one SIGTERM and its grace."""
    text = """
        if os.environ.get("SLURM_RESTART_COUNT"):
            print("SECOND RUN", flush=True)
            sys.exit(0)
        def save(number, frame):
            time.sleep(2)
            print("SAVED", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        print("FIRST RUN", flush=True)
        time.sleep(600)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text), sbatch=("--requeue", "--open-mode=append"))
    cluster.job.wait_for("FIRST RUN")
    urgent = slurm.sbatch("sleep 1", "-N3", "--exclusive", "--partition=urgent")
    assert urgent.wait().exit_code == 0
    assert (cluster.end["exit_code"], cluster.end["reason"]) == (143, "signal")
    assert "SAVED" in cluster.job.output()
    cluster.job.wait_for("SECOND RUN", timeout_s=240)
    assert cluster.job.wait().exit_code == 0
    slurm.assert_nothing_left()


# -- disks, memory, names, clocks --------------------------------------------------------------------


@pytest.fixture
def disk(slurm: Slurm, tmp_path: Path) -> Iterator[Disk]:
    """A small disk of its own that all hosts mount at the same place, as a file server's."""
    try:
        disk = Disk(slurm, tmp_path / "image")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop device can be had here, as in some containers: {error}")
    yield disk
    disk.remove()


def test_records_disk_is_full_from_the_start(slurm: Slurm, disk: Disk) -> None:
    disk.fill()
    cluster = Cluster.start(slurm, options=f"--state-dir {disk.path}/state")
    end = cluster.job.wait()
    assert end.exit_code in (1, 2), cluster.job.output()
    assert "No space left on device" in cluster.job.output()
    assert "--state-dir" in cluster.job.output()
    slurm.assert_nothing_left()


def test_records_disk_fills_up(slurm: Slurm, disk: Disk) -> None:
    """The cluster works without a record; nobody ends for it."""
    cluster = Cluster.start(slurm, "time.sleep(4)", options=f"--state-dir {disk.path}/state").driving()
    disk.fill()
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    told = slurm.run("login", ["raycluster", "why", cluster.job.id, "--state-dir", f"{disk.path}/state"])
    assert "The last event: the driver ended with code 0" in " ".join(told.stdout.split())
    slurm.assert_nothing_left()


#: A driver that needs a second node once the record's disk is full.
DRIVER_GROWS_WHEN_FULL = """
import os, time
from pathlib import Path
import ray

ray.init(address="auto", log_to_driver=False)
print("DRIVING 1", flush=True)
while not Path(__file__).with_suffix(".full").exists():
    time.sleep(0.05)

@ray.remote(num_cpus=1)
class Holder:
    def pid(self):
        return os.getpid()

holders = [Holder.remote() for _ in range(2)]
ray.get([holder.pid.remote() for holder in holders], timeout=120)
"""


@chaos
def test_a_record_that_is_full_does_not_keep_a_cluster_from_growing(slurm: Slurm, disk: Disk) -> None:
    cluster = Cluster.start(
        slurm,
        "",
        nodes=1,
        preamble=DRIVER_GROWS_WHEN_FULL,
        options=f"--state-dir {disk.path}/state --num-cpus 1 --max-nodes 2 "
        "--worker-sbatch '-c 1 --mem=2500 --time=10 --exclude=n1'",
    ).driving()
    disk.fill()
    slurm.bed.path("login", f"{home('root')}/{cluster.name}.full").touch()
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert cluster.job.output().count("worker-jobs.json") == 1
    slurm.assert_nothing_left()
    squeue = ["squeue", "--noheader"]
    wait_until(lambda: not slurm.run("login", squeue).stdout, timeout_s=30, what="an empty queue")


@chaos
def test_records_file_system_hangs_for_ten_seconds(slurm: Slurm, disk: Disk) -> None:
    cluster = Cluster.start(slurm, "time.sleep(14)", options=f"--state-dir {disk.path}/state").driving()
    with disk.frozen():
        time.sleep(10)  # the fault itself
        assert cluster.find("n2", "raylet")
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    slurm.assert_nothing_left()


@chaos
def test_loss_is_noticed_while_the_records_file_system_hangs(slurm: Slurm, disk: Disk) -> None:
    cluster = Cluster.start(slurm, options=f"--state-dir {disk.path}/state").driving()
    with disk.frozen():
        cluster.signal("n3", "raylet")
        wait_until(lambda: not cluster.find("n1", "raylet"), timeout_s=30, what="n1 without a raylet")
        assert time.time() - cluster.fault_at < 12 + SLACK_S
    assert cluster.job.wait().exit_code == 5, cluster.job.output()
    slurm.assert_nothing_left()


@chaos
def test_record_is_moved_away(slurm: Slurm) -> None:
    cluster = Cluster.start(slurm, "time.sleep(4)").driving()
    away = cluster.record.with_name("away")
    cluster.record.rename(away)
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    shutil.rmtree(away)
    slurm.assert_nothing_left()


def test_commands_after_the_record_of_a_cluster_that_runs_was_removed(slurm: Slurm) -> None:
    """`status` and `why` say so, and `stop` ends the cluster all the same."""
    cluster = Cluster.start(slurm).driving()
    shutil.rmtree(cluster.record)

    def raycluster(*words: str) -> str:
        done = slurm.run("login", ["raycluster", *words], check=True)
        return " ".join((done.stdout + done.stderr).split())

    def said() -> bool:
        return "or the record was removed" in raycluster("status", cluster.job.id)

    wait_until(said, timeout_s=BEGIN_S + SLACK_S, what="a status that names the record", interval_s=1.0)
    assert "or the record was removed" in raycluster("why", cluster.job.id)
    told = raycluster("stop", cluster.job.id)
    assert f"job {cluster.job.id} has no cluster yet, or its record was removed" in told
    assert f"{cluster.job.id} ended after" in told
    end = cluster.job.wait(timeout_s=30)
    assert (end.exit_code or 128 + end.signal) == 143, cluster.job.output()
    slurm.assert_nothing_left()


def test_node_directorys_disk_fills_up(slurm: Slurm) -> None:
    """Tasks go on; only what would be spilled or logged there is lost."""
    slurm.run("n2", ["mkdir", "-p", "/tmp/small"], check=True)
    slurm.run(
        "n2", ["mount", "-n", "-t", "tmpfs", "-o", "size=24m,mode=1777", "none", "/tmp/small"], check=True
    )
    try:
        text = "time.sleep(3); ray.get([holder.pid.remote() for holder in holders])"
        prefix = on_one_node("n2", "export TMPDIR=/tmp/small")
        cluster = Cluster.start(slurm, text, prefix=prefix).driving()
        slurm.run("n2", ["dd", "if=/dev/zero", "of=/tmp/small/big", "bs=1M"])
        assert cluster.job.wait().exit_code == 0, cluster.job.output()
    finally:
        slurm.run("n2", ["rm", "-f", "/tmp/small/big"])
        left = slurm.run("n2", ["ls", "-A", "/tmp/small"]).stdout
        slurm.run("n2", ["umount", "-n", "-l", "/tmp/small"])
        slurm.run("n2", ["rmdir", "/tmp/small"])
    assert left == ""
    slurm.assert_nothing_left()


def test_shared_memory_is_full(slurm: Slurm) -> None:
    """Somebody else's files fill /dev/shm of a worker: it says so, by name, or joins with what is left."""
    slurm.run("n2", ["dd", "if=/dev/zero", "of=/dev/shm/full", "bs=1M"])
    try:
        cluster = Cluster.start(slurm, "time.sleep(1)", options="--timeout 60")
        end = cluster.job.wait()
        assert end.exit_code in (0, 2, 4), cluster.job.output()
        assert "/dev/shm" in cluster.job.output()
        assert "n2" in cluster.job.output()
    finally:
        slurm.run("n2", ["rm", "/dev/shm/full"])
    slurm.assert_nothing_left()


@pytest.mark.versions
@pytest.mark.cgroup2
def test_memory_limit_is_hit(strict_slurm: Slurm) -> None:
    """The kernel kills in the job's control group; `why` counts it and says what to change."""
    text = 'data = [b"x" * (1 << 20) for _ in range(6000)]; time.sleep(600)'
    # The kernel of an emulated machine needs minutes for each gigabyte.
    options = "--memory 500M --object-store-memory 200M"
    cluster = Cluster.start(strict_slurm, text, options=options, sbatch=("--mem=1200",))
    cluster.job.wait()
    assert cluster.end["exit_code"] != 0
    assert cluster.node("n1")["oom_kills"] >= 1
    command = [sys.executable, "-m", "raycluster_cli", "why", cluster.job.id]
    page = strict_slurm.run("login", command, env={"PYTHONPATH": str(REPOSITORY)}, check=True).stdout
    print(page)
    cluster.assert_told("failed", "Out of memory: the kernel killed")
    assert "Out of memory: the kernel killed" in " ".join(page.split())
    assert "--mem" in page
    strict_slurm.assert_nothing_left()


def test_names_cannot_be_resolved(slurm: Slurm) -> None:
    """Inside the tasks no host name means anything: addresses alone are used."""
    hide = "mount -n --bind /dev/null /etc/hosts; mount -n --bind /dev/null /etc/resolv.conf"
    prefix = f"unshare --mount bash -c '{hide}; exec \"$@\"' x"
    cluster = Cluster.start(slurm, "time.sleep(1)", prefix=prefix)
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert "DRIVING 3" in cluster.job.output()
    slurm.assert_nothing_left()


@pytest.mark.parametrize(
    ("skewed", "by_s", "jumps"),
    [
        pytest.param("n1", -120, False, marks=chaos),
        ("n2", -120, False),
        pytest.param("n1", 7200, True, marks=chaos),
        pytest.param("n1", -7200, True, marks=chaos),
        pytest.param("n2", 7200, True, marks=chaos),
    ],
)
def test_clock_two_minutes_off(slurm: Slurm, skewed: str, by_s: int, jumps: bool) -> None:
    """One node's Python has another time; joining, ending and the diagnosis do not depend on it.

    ``jumps``: it has so only once the driver runs.  The other programs there keep the true time.
    """
    double = f"""
        import os, time
        if os.environ.get("SLURMD_NODENAME") == "{skewed}":
            true_time = time.time
            off = lambda: not {jumps} or os.path.exists("/home/admin/skew/jumped")
            time.time = lambda: true_time() + ({by_s} if off() else 0)
    """
    directory = slurm.bed.path("login", "/home/admin/skew")
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(textwrap.dedent(double))
    before = "export PYTHONPATH=/home/admin/skew:$PYTHONPATH"
    jumped = directory / "jumped"
    jumped.unlink(missing_ok=True)
    cluster = Cluster.start(slurm, before=before).driving()
    if jumps:
        jumped.touch()
        time.sleep(2)  # whoever waits for something looks at the clock
    cluster.signal("n3", "raylet")
    assert cluster.job.wait().exit_code == 5, cluster.job.output()
    assert (cluster.end["reason"], cluster.end["failed_host"]) == ("worker-lost", "n3")
    slurm.assert_nothing_left()
