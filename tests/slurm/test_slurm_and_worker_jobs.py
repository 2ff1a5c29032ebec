"""What real Slurm does with worker jobs: a test for each row of the table in docs/guides/elastic.md.

The workers are a shell script and the GCS is a dictionary: what is tested is sbatch, squeue and scancel.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.autoscale.worker_jobs import HeadJob, LaunchRefusedError, RayNode, WorkerJobs
from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.ops.launch_server import answers
from raycluster_cli.slurm.sbatch_variables import DROPPED, KEPT
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from tests.bed.spec import LOGIN
from tests.slurm.jobs import Slurm
from tests.waiting import wait_until

chaos = pytest.mark.chaos

#: A worker that fails on the hosts of a file, and else stays.
WORKER = """\
#!/bin/sh
PATH=/usr/bin:/bin
if grep -qx "$(hostname)" "$3/fails-on"; then
    echo "raycluster: error: no memory on $(hostname)." >&2
    exit 3
fi
exec sleep 600
"""


class Workers:
    """The worker jobs of a cluster whose head is on n1."""

    def __init__(self, slurm: Slurm) -> None:
        self.slurm = slurm
        home = slurm.bed.directory / "home" / "admin"
        self.record = Record.create(home / ".raycluster", "bed", f"{time.time_ns()}")
        self.files = WorkerJobFiles(self.record.path)
        self.fails_on()
        worker = self.record.path / "worker.sh"
        worker.write_text(WORKER)
        worker.chmod(0o755)
        self.head = HeadJob(self.record.key, "train", self.record.path, "/tmp", (str(worker),))
        self.said: list[str] = []
        self.called: list[str] = []
        self.later_s = 0.0
        """How far the cluster's clock is ahead, so that no test waits for a pause."""
        self.nodes: dict[str, RayNode] = {}
        self.jobs = self.on("n1")
        self._partitions: list[str] = []

    def on(self, host: str, path: str = "/usr/bin", env: dict[str, str] | None = None) -> WorkerJobs:
        return WorkerJobs(
            *(self.head, self.files, env or {"PATH": path}),
            report=self.said.append,
            run=self.runner(host),
            clock=lambda: time.time() + self.later_s,
        )

    def runner(self, host: str) -> Callable[..., subprocess.CompletedProcess[str]]:
        """What runs Slurm's commands on a host of the bed."""

        def run(command: Sequence[str], *, env: dict[str, str], timeout: float, **_: Any) -> Any:
            self.called.append(Path(command[0]).name)
            return self.slurm.bed.run(host, command, env=env, timeout_s=timeout)

        return run

    def serve(self, _: float) -> None:
        """`raycluster scale --serve` on the login host has a look."""
        self.files.launches.say_serving()
        list(answers(self.files, {"PATH": "/usr/bin"}, run=self.runner(LOGIN)))

    def fails_on(self, *hosts: str) -> None:
        (self.record.path / "fails-on").write_text("".join(f"{host}\n" for host in hosts))

    def group(self, *sbatch: str, nodes_per_job: int = 1) -> WorkerGroup:
        return WorkerGroup("gpu", 8, sbatch=sbatch, nodes_per_job=nodes_per_job)

    def wait(self, job_id: str, state: str, *, join: bool = False, timeout_s: float = 60) -> str:
        """Polls until a job has this state; returns its reason.  ``join``: its nodes join when it runs."""

        def reached() -> str | None:
            self.jobs.poll(self.nodes)
            self.later_s += 1.0  # the next squeue is due five polls later
            report = self.files.read_jobs()
            assert report is not None
            job = next(job for job in report.jobs if job.job_id == job_id)
            if join and job.state == "starting":
                self.nodes.update((i, RayNode(f"id-{i}", host=job.hosts[0])) for i in job.instance_ids)
            return f"{job.state}: {job.reason}" if job.state == state else None

        found = wait_until(reached, timeout_s=timeout_s, what=f"worker job {job_id} {state}", interval_s=0.1)
        return found.removeprefix(f"{state}: ")

    def ready(self, *sbatch: str) -> str:
        """A worker job whose node has joined."""
        (instance,) = self.jobs.launch(self.group(*sbatch), 1)
        self.wait(instance, "ready", join=True)
        return instance

    def lost(self, job_id: str, *, timeout_s: float = 60) -> str:
        """Ray has lost its nodes: how the job ends."""
        self.nodes.clear()
        return self.wait(job_id, "ended", timeout_s=timeout_s)

    def scontrol(self, *words: str) -> None:
        self.slurm.bed.run(LOGIN, ["scontrol", *words], check=True)

    def partition(self, name: str, *words: str) -> str:
        """A partition of all nodes for this test; returns the option that chooses it."""
        self.scontrol("create", f"PartitionName={name}", "Nodes=ALL", "State=UP", *words)
        self._partitions.append(name)
        return f"--partition={name}"

    def state_of(self, job_id: str) -> str:
        shown = self.slurm.bed.run(LOGIN, ["squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T"], check=True)
        return shown.stdout.strip()

    def clear(self) -> None:
        bed = self.slurm.bed
        bed.run(LOGIN, ["scancel", "--user=root"], check=True)
        wait_until(
            lambda: not bed.run(LOGIN, ["squeue", "-h"]).stdout.strip(), timeout_s=60, what="an empty queue"
        )
        for name in self._partitions:
            self.scontrol("delete", f"PartitionName={name}")


@pytest.fixture
def workers(slurm: Slurm) -> Iterator[Workers]:
    found = Workers(slurm)
    yield found
    found.clear()


# -- from sbatch to the end --------------------------------------------------------------------------


def test_an_array_from_sbatch_to_its_end_and_how_often_slurm_is_asked(workers: Workers) -> None:
    first, second, third = workers.jobs.launch(workers.group(), 3)
    assert workers.called == ["sbatch"]
    for instance in (first, second, third):
        workers.wait(instance, "ready", join=True)
    workers.jobs.poll(workers.nodes)
    report = workers.files.read_jobs()
    assert report is not None
    base = int(first.partition("_")[0])
    assert {int(job.number) for job in report.jobs} == {base, base + 1, base + 2}
    before = workers.called.count("squeue")
    for _ in range(40):
        workers.later_s += 1.0
        workers.jobs.poll(workers.nodes)
    assert workers.called.count("squeue") == before
    workers.jobs.cancel([second], "no longer needed")
    assert workers.lost(second) == "no longer needed"
    assert workers.state_of(second) == "CANCELLED"
    assert workers.state_of(first) == workers.state_of(third) == "RUNNING"


def test_squeue_is_called_every_five_seconds_at_most(workers: Workers) -> None:
    workers.jobs.launch(workers.group("--begin=now+1hour"), 8)
    began = time.monotonic()

    def three_calls() -> bool:
        workers.jobs.poll({})
        return workers.called.count("squeue") == 3

    wait_until(three_calls, timeout_s=60, what="three calls of squeue", interval_s=0.05)
    assert time.monotonic() - began > 10


def test_a_job_of_two_nodes(workers: Workers) -> None:
    instances = workers.jobs.launch(workers.group(nodes_per_job=2), 2)
    job_id = instances[0]
    assert instances == [job_id, f"{job_id}/1"]
    workers.wait(job_id, "ready", join=True)
    report = workers.files.read_jobs()
    assert report is not None
    assert len(report.jobs[0].node_ids) == 2
    workers.jobs.cancel(instances[1:], "no longer needed")
    assert workers.lost(job_id) == "no longer needed"


# -- what is found again at the end ---------------------------------------------------------------------


@chaos
def test_a_job_with_a_comment_of_its_own_whose_answer_was_lost(workers: Workers) -> None:
    """sbatch has submitted the job, and nothing has named it: it is found by the queue alone."""
    taken = workers.jobs._commands._run

    def lost(command: Sequence[str], **more: Any) -> Any:
        done = taken(command, **more)
        if Path(command[0]).name == "sbatch":
            raise subprocess.TimeoutExpired(command[0], 60.0)
        return done

    workers.jobs._commands._run = lost
    with pytest.raises(LaunchRefusedError, match="did not answer"):
        workers.jobs.launch(workers.group("--begin=now+1hour", "--comment=of project|7"), 1)
    shown = workers.slurm.bed.run(LOGIN, ["squeue", "-h", "-o", "%i %k"], check=True).stdout.split(None, 1)
    assert shown[1].strip() == f"raycluster:{workers.record.key} of project|7"

    def is_cancelled() -> bool:
        workers.jobs.poll({})
        workers.later_s += 1.0
        return workers.state_of(shown[0]) == "CANCELLED"

    wait_until(is_cancelled, timeout_s=60, what="the lost job cancelled")


@chaos
def test_sbatch_variables_of_the_head_do_not_reach_worker_jobs(workers: Workers) -> None:
    of_the_head = (
        *("SLURM_JOB_ID=1", "SLURM_CLUSTERS=elsewhere", "SBATCH_CLUSTERS=elsewhere", "SBATCH_WAIT=1"),
        *("SBATCH_SIGNAL=B:USR1@60", "SBATCH_ARRAY_INX=1-3", "SBATCH_REQUEUE=1", "SBATCH_GPUS=64"),
        *("SBATCH_ERROR=/nowhere/err", "SBATCH_TRES_PER_TASK=cpu=64", "SBATCH_CPUS_PER_TASK=64"),
    )
    env = {"PATH": "/usr/bin", **dict(one.split("=", 1) for one in of_the_head)}
    (instance,) = workers.on("n1", env=env).launch(workers.group("--begin=now+1hour"), 1)
    job = workers.slurm.bed.run(LOGIN, ["scontrol", "show", "job", instance], check=True).stdout
    assert "Requeue=0" in job
    assert "NumCPUs=1 " in job
    assert "/nowhere" not in job


@chaos
def test_each_variable_that_this_sbatch_knows_is_decided() -> None:
    names = set(re.findall(rb"SBATCH_[A-Z0-9_]+(?=\x00)", Path("/usr/bin/sbatch").read_bytes()))
    assert names
    assert not {name.decode() for name in names} - KEPT - DROPPED.keys()


# -- pending -----------------------------------------------------------------------------------------


def test_pending_for_long_and_cancelled_when_no_longer_wanted(workers: Workers) -> None:
    (instance,) = workers.jobs.launch(workers.group("--begin=now+1hour"), 1)
    wait_until(
        lambda: workers.wait(instance, "pending") == "BeginTime", timeout_s=30, what="the reason of the wait"
    )
    job = workers.jobs.poll({})[instance]
    assert job.expected_start > time.time() + 1800
    workers.later_s += 4 * 3600
    assert workers.wait(instance, "pending") == "BeginTime"
    workers.jobs.cancel([instance], "no longer needed")
    assert workers.wait(instance, "ended") == "no longer needed"
    assert workers.jobs.groups()["gpu"].problem == ""


@chaos
def test_cancelled_by_hand_while_it_was_pending(workers: Workers) -> None:
    (instance,) = workers.jobs.launch(workers.group("--begin=now+1hour"), 1)
    workers.slurm.bed.run(LOGIN, ["scancel", instance], check=True)
    assert workers.wait(instance, "ended") == "it was cancelled while it was pending"


@chaos
def test_held_and_released(workers: Workers) -> None:
    (instance,) = workers.jobs.launch(workers.group("--hold"), 1)
    wait_until(lambda: workers.wait(instance, "pending") == "JobHeldUser", timeout_s=30, what="a held job")
    assert f"job {instance} waits: JobHeldUser. `scontrol release {instance}`" in workers.said[-1]
    workers.scontrol("release", instance)
    workers.wait(instance, "ready", join=True)


@pytest.mark.parametrize(
    ("limit", "sbatch", "reason", "advice"),
    [
        (("MaxTime=5",), ("--time=60",), "PartitionTimeLimit", "--time"),
        pytest.param(("MaxNodes=1",), ("--nodes=1",), "PartitionNodeLimit", "fewer nodes", marks=chaos),
        pytest.param(
            ("MinNodes=3",), ("--nodes=1",), "PartitionNodeLimit", "so few (MaxNodes, MinNodes)", marks=chaos
        ),
    ],
)
def test_it_can_never_start(
    workers: Workers, limit: tuple[str, ...], sbatch: tuple[str, ...], reason: str, advice: str
) -> None:
    """EnforcePartLimits is NO by default: Slurm takes such jobs and lets them wait."""
    group = workers.group(
        workers.partition("small", *limit), *sbatch, nodes_per_job=2 if "NodeLimit" in reason else 1
    )
    instances = workers.jobs.launch(group, 4)
    # Slurm's first reason is another one, and this test's clock is fast.
    reasons = ["squeue", "-h", "-o", "%r"]
    wait_until(
        lambda: set(workers.slurm.bed.run(LOGIN, reasons, check=True).stdout.split()) == {reason},
        timeout_s=60,
        what=f"{reason} as the reason of all jobs",
    )
    for instance in instances:
        if "/" not in instance:
            assert workers.wait(instance, "ended") == f"it can never start: {reason}"
    assert len([line for line in workers.said if advice in line]) == 1
    with pytest.raises(LaunchRefusedError, match=f"Slurm's reason is {reason}"):
        workers.jobs.launch(group, 1)
    assert workers.called.count("sbatch") == 1
    assert workers.slurm.bed.run(LOGIN, ["squeue", "-h"]).stdout == ""


@chaos
@pytest.mark.parametrize(
    ("sbatch", "said"),
    [
        (("--constraint=nosuch",), "Invalid feature specification"),
        (("--partition=nosuch",), "Invalid partition name specified"),
        (("--mem=999G",), "Requested node configuration is not available"),
        (("--gres=gpu:9",), "Invalid generic resource"),
        (("--bogus",), "unrecognized option '--bogus'"),
    ],
)
def test_sbatch_refuses_it_for_good(workers: Workers, sbatch: tuple[str, ...], said: str) -> None:
    for _ in range(3):
        with pytest.raises(LaunchRefusedError, match=said):
            workers.jobs.launch(workers.group(*sbatch), 2)
        workers.later_s += 60
    assert workers.called == ["sbatch"]
    assert len(workers.said) == 1


@chaos
def test_a_node_that_is_drained_is_waited_for(workers: Workers) -> None:
    workers.scontrol("update", "NodeName=n3", "State=DRAIN", "Reason=test")
    (instance,) = workers.jobs.launch(workers.group("--nodelist=n3"), 1)
    wait_until(
        lambda: workers.wait(instance, "pending").startswith("ReqNodeNotAvail"),
        timeout_s=30,
        what="the reason of the wait",
    )
    workers.scontrol("update", "NodeName=n3", "State=RESUME")
    workers.wait(instance, "starting", timeout_s=90)


# -- starts that fail --------------------------------------------------------------------------------


def test_three_failed_starts_pause_the_group_and_the_next_job_avoids_the_host(workers: Workers) -> None:
    workers.fails_on("n1")
    for _ in range(3):
        (instance,) = workers.jobs.launch(workers.group(), 1)
        assert workers.wait(instance, "ended") == (
            "its worker failed before it joined: raycluster: error: no memory on n1."
        )
    state = workers.jobs.groups()["gpu"]
    assert state.excluded == ("n1",)
    assert state.problem.startswith("3 starts failed in a row on n1; ")
    with pytest.raises(LaunchRefusedError, match="3 starts failed in a row on n1"):
        workers.jobs.launch(workers.group(), 1)
    workers.later_s += 60
    (instance,) = workers.jobs.launch(workers.group(), 1)
    workers.wait(instance, "ready", join=True)
    assert workers.jobs.poll(workers.nodes)[instance].hosts == ("n2",)
    assert workers.jobs.groups()["gpu"].problem == ""


@chaos
def test_where_all_other_hosts_are_unfit_the_host_is_used_again(workers: Workers) -> None:
    workers.fails_on("n1")
    group = workers.group("--nodelist=n1")
    for _ in range(3):
        (instance,) = workers.jobs.launch(group, 1)
        workers.wait(instance, "ended")
    workers.fails_on()
    workers.later_s += 60
    (instance,) = workers.jobs.launch(group, 1)
    workers.wait(instance, "ready", join=True)


@chaos
def test_it_does_not_join(workers: Workers) -> None:
    (instance,) = workers.jobs.launch(workers.group(), 1)
    workers.wait(instance, "starting")
    workers.later_s += 300
    assert workers.wait(instance, "ended").startswith("it did not join within 300 s")
    assert workers.state_of(instance) == "CANCELLED"


# -- what ends a worker job --------------------------------------------------------------------------


def occupy(workers: Workers) -> None:
    """A job of a partition with precedence takes all of n1."""
    workers.slurm.sbatch("sleep 300", "--partition=urgent", "--nodelist=n1", "--exclusive")


@pytest.mark.parametrize("mode", ["CANCEL", pytest.param("REQUEUE", marks=chaos)])
def test_it_is_preempted(workers: Workers, mode: str) -> None:
    """With REQUEUE too: a job that must not be requeued is cancelled."""
    option = workers.partition("cheap", "PriorityTier=1", f"PreemptMode={mode}")
    instance = workers.ready(option, "--nodelist=n1")
    occupy(workers)
    assert workers.lost(instance, timeout_s=120) == "it was preempted"
    assert workers.jobs.groups()["gpu"].problem == ""
    assert workers.jobs.launch(workers.group(option, "--nodelist=n2"), 1)


@chaos
def test_it_is_suspended_and_ray_gives_it_up(workers: Workers) -> None:
    instance = workers.ready()
    workers.scontrol("suspend", instance)
    assert workers.lost(instance) == "it was suspended, and Ray has given up its nodes"
    wait_until(
        lambda: workers.state_of(instance) == "CANCELLED", timeout_s=60, what="a job that Slurm has ended"
    )


@chaos
def test_it_is_suspended_while_it_starts_and_resumed(workers: Workers) -> None:
    (instance,) = workers.jobs.launch(workers.group(), 1)
    workers.wait(instance, "starting")
    workers.scontrol("suspend", instance)
    wait_until(
        lambda: workers.wait(instance, "starting") == "it is suspended", timeout_s=30, what="a suspended job"
    )
    workers.later_s += 600
    workers.scontrol("resume", instance)
    workers.wait(instance, "ready", join=True)


@chaos
def test_it_is_requeued(workers: Workers) -> None:
    """Slurm refuses, since it was submitted with --no-requeue; if the job is changed first, it ends."""
    instance = workers.ready()
    refused = workers.slurm.bed.run(LOGIN, ["scontrol", "requeue", instance])
    assert refused.returncode != 0
    workers.scontrol("update", f"JobId={instance}", "Requeue=1")
    workers.scontrol("requeue", instance)
    assert workers.lost(instance) == "Slurm has requeued it, and a worker job starts only once"


@chaos
def test_its_time_limit_is_reached(workers: Workers) -> None:
    instance = workers.ready("--time=1")
    wait_until(
        lambda: workers.state_of(instance) == "TIMEOUT", timeout_s=180, what="a time limit", interval_s=1
    )
    assert workers.lost(instance) == "its time limit was reached"


@pytest.mark.parametrize("how", ["DOWN", pytest.param("power", marks=chaos)])
def test_its_node_fails(workers: Workers, how: str) -> None:
    instance = workers.ready("--nodelist=n3")
    if how == "power":
        workers.slurm.bed.power_off("n3")
    else:
        workers.scontrol("update", "NodeName=n3", "State=DOWN", "Reason=test")
    assert workers.lost(instance, timeout_s=180) in ("a node failed", "its nodes have left the cluster")
    assert workers.jobs.groups()["gpu"].problem == ""


@chaos
def test_it_is_cancelled_by_hand(workers: Workers) -> None:
    instance = workers.ready()
    workers.slurm.bed.run(LOGIN, ["scancel", instance], check=True)
    assert workers.lost(instance) == "it was cancelled"


@chaos
def test_it_ends_before_squeue_forgets_its_nodes(workers: Workers) -> None:
    """The worker goes on although its node has left: half a minute later it is cancelled."""
    instance = workers.ready()
    assert workers.lost(instance) == "its nodes have left the cluster"
    assert workers.state_of(instance) == "CANCELLED"


# -- sbatch where it cannot be used ------------------------------------------------------------------


def test_jobs_that_only_the_login_node_may_submit(workers: Workers) -> None:
    group = workers.group(workers.partition("restricted", f"AllocNodes={LOGIN}"))
    with pytest.raises(LaunchRefusedError, match="Access/permission denied") as caught:
        workers.jobs.launch(group, 2)
    assert f"`raycluster scale {workers.head.key} --serve` on a login node" in str(caught.value)
    workers.later_s += 60
    workers.files.launches.say_serving()
    workers.jobs = WorkerJobs(
        *(workers.head, workers.files, {"PATH": "/usr/bin"}),
        report=workers.said.append,
        run=workers.runner("n1"),
        sleep=workers.serve,
    )
    workers.jobs.resume("gpu")
    instances = workers.jobs.launch(group, 2)
    assert len(instances) == 2
    workers.wait(instances[1], "starting")
    workers.jobs.cancel(instances, "no longer needed")
    assert workers.wait(instances[0], "ended") == "no longer needed"


@chaos
def test_no_command_of_slurm_on_the_node(workers: Workers) -> None:
    """As in many containers: all three run on the login node."""
    workers.files.launches.say_serving()
    workers.jobs = WorkerJobs(
        *(workers.head, workers.files, {"PATH": "/nonexistent"}),
        report=workers.said.append,
        sleep=workers.serve,
    )
    (instance,) = workers.jobs.launch(workers.group(), 1)
    assert workers.called == ["sbatch"]
    began = time.time()

    def starts() -> bool:
        workers.files.launches.say_serving()
        return workers.jobs.poll({})[instance].state == "starting"

    wait_until(starts, timeout_s=60, what="a worker job that starts", interval_s=0.2)
    assert workers.called.count("squeue") <= (time.time() - began) / 5 + 2
    workers.jobs.cancel([instance], "no longer needed")
    assert workers.called[-1] == "scancel"


@chaos
def test_a_controller_that_is_down_is_waited_for(workers: Workers) -> None:
    (instance,) = workers.jobs.launch(workers.group("--begin=now+1hour"), 1)
    bed = workers.slurm.bed
    pid = bed.run(LOGIN, ["cat", "/run/slurmctld.pid"], check=True).stdout.strip()
    bed.run(LOGIN, ["kill", "-STOP", pid], check=True)
    try:
        workers.later_s += 10
        assert workers.jobs.poll({})[instance].state == "pending"
    finally:
        bed.run(LOGIN, ["kill", "-CONT", pid], check=True)
    assert any("the state of the worker jobs is not known" in line for line in workers.said)
    workers.jobs.cancel([instance], "no longer needed")
    assert workers.wait(instance, "ended") == "no longer needed"
