"""Worker jobs from sbatch to their end, on a Slurm of a few lines; and how often Slurm is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from raycluster_cli.autoscale.worker_jobs import HeadJob, LaunchRefusedError, RayNode, WorkerJobs
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.model.worker_job import LaunchRequest, WorkerJobsReport
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles

from .slurm_by_hand import FakeSlurm

GPU = WorkerGroup("gpu", 8, sbatch=("--partition=gpu",))
FAILED = "sbatch: error: Batch job submission failed: "
BUSY = RayNode("ab")


class Cluster:
    """One cluster with a clock of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 100_000.0
        self.slurm = FakeSlurm(tmp_path)
        self.record = Record.create(tmp_path / "state", "tux", "4700")
        self.files = WorkerJobFiles(self.record.path)
        self.said: list[str] = []
        self.nodes: dict[str, RayNode] = {}
        self.jobs = self.started()

    def started(self) -> WorkerJobs:
        head = HeadJob("4700", "train", self.record.path, "/work", ("raycluster",))
        return WorkerJobs(
            *(head, self.files, self.slurm.env),
            report=self.said.append,
            run=self.slurm,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run_for(self, seconds: float, every_s: float = 1) -> None:
        """Polls once a second, or as often as told."""
        for _ in range(int(seconds / every_s)):
            self.now += every_s
            self.jobs.poll(self.nodes)

    def states(self) -> dict[str, str]:
        """Of all jobs in the record: state and reason."""
        report = self.files.read_jobs()
        assert report is not None
        return {job.job_id: f"{job.state}: {job.reason}".removesuffix(": ") for job in report.jobs}

    def join(self, instance: str) -> None:
        self.nodes[instance] = RayNode(f"id-{instance}", host="n1")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


# -- launch ----------------------------------------------------------------------------------------


def test_several_nodes_are_one_sbatch_and_in_the_record_at_once(cluster: Cluster) -> None:
    assert cluster.jobs.launch(GPU, 3) == ["4711_0", "4711_1", "4711_2"]
    assert cluster.slurm.count("sbatch") == 1
    assert "--array=0-2" in cluster.slurm.calls[0]
    assert cluster.states() == {"4711_0": "pending", "4711_1": "pending", "4711_2": "pending"}
    report = cluster.files.read_jobs()
    assert report is not None
    assert report.jobs[2].output == str(cluster.record.path / "jobs" / "4711_2.out")
    assert cluster.said == ["worker group gpu: 3 jobs (4711_0 to 4711_2) submitted"]


def test_the_job_has_nothing_of_the_heads_job(cluster: Cluster) -> None:
    cluster.jobs.launch(GPU, 1)
    assert cluster.slurm.envs == [{"PATH": str(cluster.slurm.bin)}]


@pytest.mark.parametrize(("count", "jobs"), [(1, 1), (2, 1), (3, 2)])
def test_with_several_nodes_a_job_the_number_is_rounded_up(cluster: Cluster, count: int, jobs: int) -> None:
    blocks = dataclasses.replace(GPU, nodes_per_job=2)
    found = cluster.jobs.launch(blocks, count)
    assert found == (["4711", "4711/1"] if jobs == 1 else ["4711_0", "4711_0/1", "4711_1", "4711_1/1"])


def test_none_is_none(cluster: Cluster) -> None:
    assert cluster.jobs.launch(GPU, 0) == []
    assert cluster.slurm.calls == []


def test_a_site_without_arrays(cluster: Cluster) -> None:
    cluster.slurm.refuses = [(1, "", f"{FAILED}Invalid job array specification")]
    assert cluster.jobs.launch(GPU, 3) == ["4711", "4712", "4713"]


def test_a_site_without_arrays_and_with_a_limit_on_submitted_jobs(cluster: Cluster) -> None:
    submitted, refused = (0, "4711\n", ""), (1, "", f"{FAILED}Job violates accounting/QOS policy")
    cluster.slurm.refuses = [(1, "", f"{FAILED}Invalid job array specification"), submitted, refused]
    assert cluster.jobs.launch(GPU, 3) == ["4711"]
    assert "QOS policy" in cluster.jobs.groups()["gpu"].problem


def test_while_sbatch_runs_the_record_says_that_nodes_are_wanted(cluster: Cluster) -> None:
    seen: list[WorkerJobsReport | None] = []
    submit = cluster.slurm.submit

    def looks(values: dict[str, str]) -> str:
        seen.append(cluster.files.read_jobs())
        return submit(values)

    cluster.slurm.submit = looks  # type: ignore[method-assign]
    cluster.jobs.launch(GPU, 3)
    assert seen[0] is not None
    assert [(job.job_id, job.group, job.state, job.nodes) for job in seen[0].jobs] == [
        ("", "gpu", "wanted", 3)
    ]


def test_with_a_full_disk_jobs_are_submitted_all_the_same_and_it_is_said_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RayclusterError("cannot write: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(WorkerJobFiles, "write_jobs", full)
        assert cluster.jobs.launch(GPU, 1) == ["4711"]
        assert "--output=/dev/null" in cluster.slurm.calls[0]
        cluster.run_for(5)
    assert cluster.said == [
        "cannot write: No space left on device.",
        "worker group gpu: job 4711 submitted",
    ]
    assert cluster.jobs.launch(GPU, 1) == ["4712"]
    report = cluster.files.read_jobs()
    assert report is not None
    assert [job.output for job in report.jobs] == ["", str(cluster.record.path / "jobs" / "4712.out")]


# -- refusals --------------------------------------------------------------------------------------


def test_what_sbatch_refuses_for_good_is_said_once_and_not_submitted_again(cluster: Cluster) -> None:
    cluster.slurm.refuses = [(1, "", f"{FAILED}Invalid feature specification")] * 9
    for _ in range(20):
        with pytest.raises(LaunchRefusedError, match="Invalid feature specification"):
            cluster.jobs.launch(GPU, 1)
        cluster.now += 10
    assert cluster.slurm.count("sbatch") == 1
    assert cluster.said == [
        "worker group gpu: sbatch refused the job: Batch job submission failed: Invalid feature "
        "specification. `sinfo -o '%n %f'` shows the features that nodes have."
    ]
    assert cluster.jobs.groups()["gpu"].problem.startswith("sbatch refused the job")
    cluster.jobs.resume("gpu")
    cluster.slurm.refuses = []
    assert cluster.jobs.launch(GPU, 1) == ["4711"]


def test_a_slurm_that_does_not_answer_is_asked_again_later_and_less_often(cluster: Cluster) -> None:
    cluster.slurm.refuses = [(1, "", f"{FAILED}Unable to contact slurm controller (connect failure)")] * 9
    for _ in range(100):
        with pytest.raises(LaunchRefusedError, match="Unable to contact"):
            cluster.jobs.launch(GPU, 1)
        cluster.now += 1
    assert cluster.slurm.count("sbatch") == 3
    assert len(cluster.said) == 1
    cluster.slurm.refuses = []
    cluster.now += 60
    assert cluster.jobs.launch(GPU, 1) == ["4711"]
    assert cluster.jobs.groups()["gpu"].problem == ""


def test_one_group_does_not_stop_another(cluster: Cluster) -> None:
    cluster.slurm.refuses = [(1, "", f"{FAILED}Invalid account")]
    with pytest.raises(LaunchRefusedError):
        cluster.jobs.launch(GPU, 1)
    assert cluster.jobs.launch(WorkerGroup("cpu", 8), 1) == ["4711"]


def test_a_job_that_sbatch_did_not_name_is_found_and_cancelled(cluster: Cluster) -> None:
    cluster.slurm.hangs = {"sbatch"}
    with pytest.raises(LaunchRefusedError, match="did not answer within 60 s"):
        cluster.jobs.launch(GPU, 1)
    cluster.slurm.hangs = set()
    lost = cluster.slurm.submit({"--comment": "raycluster:4700"})
    other = cluster.slurm.submit({"--comment": "raycluster:4701"})
    cluster.run_for(10)
    assert ["scancel", lost] in cluster.slurm.calls
    assert cluster.slurm.jobs[other]["state"] == "PENDING"
    cluster.run_for(80)
    before = cluster.slurm.count("squeue")
    cluster.run_for(60)
    assert cluster.slurm.count("squeue") == before


@pytest.mark.parametrize(
    ("answer", "is_lost"),
    [
        ((1, "", f"{FAILED}Unexpected message received"), True),
        ((1, "", f"{FAILED}Zero Bytes were transmitted or received"), True),
        ((1, "", ""), True),
        ((-9, "", ""), True),  # killed
        ((0, "Submitted. Have a nice day.\n", ""), True),
        ((124, "", "sbatch: timed out after 60 s"), True),
        ((1, "", f"{FAILED}Invalid account or account/partition combination specified"), False),
        ((1, "", f"{FAILED}Job violates accounting/QOS policy (job submit limit)"), False),
        ((1, "", f"{FAILED}Unable to contact slurm controller (connect failure)"), False),
        ((127, "", "sbatch cannot be run on login"), False),
    ],
)  # fmt: skip
def test_an_answer_after_which_a_job_may_be_in_the_queue(
    cluster: Cluster, answer: tuple[int, str, str], is_lost: bool
) -> None:
    cluster.slurm.refuses = [answer]
    with pytest.raises(LaunchRefusedError):
        cluster.jobs.launch(GPU, 1)
    there = cluster.slurm.submit({"--comment": "raycluster:4700 mine"})
    cluster.run_for(10)
    assert (["scancel", there] in cluster.slurm.calls) == is_lost


def test_an_sbatch_that_outlives_its_autoscaler_is_looked_for_again(cluster: Cluster) -> None:
    cluster.jobs.launch(GPU, 1)
    cluster.jobs = cluster.started()
    cluster.run_for(20)
    lost = cluster.slurm.submit({"--comment": "raycluster:4700"})
    cluster.run_for(10)
    assert cluster.slurm.jobs[lost]["state"] == "CANCELLED"


def test_a_job_that_is_being_submitted_is_not_a_lost_one(cluster: Cluster) -> None:
    cluster.slurm.hangs = {"sbatch"}
    with pytest.raises(LaunchRefusedError):
        cluster.jobs.launch(GPU, 1)
    cluster.slurm.hangs = set()
    cluster.now += 30
    submit = cluster.slurm.submit

    def polls(values: dict[str, str]) -> str:
        job = submit(values)
        cluster.jobs.poll({})  # another thread, before sbatch has answered
        return job

    cluster.slurm.submit = polls  # type: ignore[method-assign]
    assert cluster.jobs.launch(GPU, 1) == ["4711"]
    cluster.run_for(10)
    assert cluster.slurm.count("scancel") == 0


# -- how often Slurm is asked ----------------------------------------------------------------------


def test_one_squeue_in_five_seconds_for_all_jobs_and_none_while_nothing_changes(cluster: Cluster) -> None:
    cluster.run_for(60)
    assert cluster.slurm.calls == []
    for _ in range(8):
        cluster.jobs.launch(GPU, 4)
    cluster.run_for(60)
    assert 11 <= cluster.slurm.count("squeue") <= 12
    for name in cluster.slurm.jobs:
        cluster.slurm.set(name, "RUNNING", "n1")
        cluster.join(name)
    cluster.run_for(1)
    before = cluster.slurm.count("squeue")
    cluster.run_for(3600, every_s=10)
    assert cluster.slurm.count("squeue") == before
    assert {*cluster.states().values()} == {"ready"}


def test_jobs_that_are_pending_for_hours_cost_two_squeues_a_minute(cluster: Cluster) -> None:
    cluster.jobs.launch(GPU, 4)
    cluster.run_for(700)
    before = cluster.slurm.count("squeue")
    cluster.run_for(3600, every_s=2)
    assert 119 <= cluster.slurm.count("squeue") - before <= 121
    assert {*cluster.states().values()} == {"pending: Priority"}
    assert len(cluster.said) == 1


def test_polling_more_often_asks_slurm_no_more(cluster: Cluster) -> None:
    cluster.jobs.launch(GPU, 1)
    for _ in range(600):
        cluster.now += 0.1
        cluster.jobs.poll({})
    assert cluster.slurm.count("squeue") <= 12


# -- the way of a job ------------------------------------------------------------------------------


def test_from_pending_to_its_end(cluster: Cluster) -> None:
    (instance,) = cluster.jobs.launch(GPU, 1)
    assert cluster.jobs.poll({})[instance].state == "pending"
    cluster.slurm.set(instance, "RUNNING", "n1")
    cluster.run_for(6)
    assert cluster.states() == {"4711": "starting"}
    cluster.join(instance)
    cluster.run_for(1)
    assert cluster.states() == {"4711": "ready"}
    cluster.nodes[instance] = RayNode("ab", idle_since=cluster.now)
    cluster.run_for(6)
    assert cluster.states() == {"4711": "idle"}
    cluster.jobs.cancel([instance], "idle for 300 s")
    assert cluster.states() == {"4711": "draining: idle for 300 s"}
    cluster.nodes.clear()
    cluster.run_for(6)
    assert cluster.states() == {"4711": "ended: idle for 300 s"}
    assert cluster.jobs.poll({}) == {}
    assert [call for call in cluster.slurm.calls if call[0] == "scancel"] == [["scancel", "4711"]]


def test_a_pending_job_that_is_no_longer_wanted_is_cancelled(cluster: Cluster) -> None:
    instances = cluster.jobs.launch(GPU, 3)
    cluster.jobs.cancel([instances[1], "99", instances[1]], "not needed any more")
    assert cluster.slurm.calls[-1] == ["scancel", "4711_1"]
    cluster.run_for(6)
    assert sorted(cluster.jobs.poll({})) == ["4711_0", "4711_2"]
    cluster.jobs.cancel([instances[1]], "again")
    assert cluster.slurm.count("scancel") == 1


def test_a_job_of_two_nodes_ends_as_a_whole(cluster: Cluster) -> None:
    instances = cluster.jobs.launch(dataclasses.replace(GPU, nodes_per_job=2), 2)
    cluster.jobs.cancel([instances[1]], "idle")
    assert cluster.slurm.calls[-1] == ["scancel", "4711"]


def test_scancel_that_fails_is_tried_again(cluster: Cluster) -> None:
    (instance,) = cluster.jobs.launch(GPU, 1)
    cluster.slurm.scancel_fails = "scancel: error: Unable to contact slurm controller\n"
    with pytest.raises(RayclusterError, match="`scancel 4711` failed: scancel: error: Unable to contact"):
        cluster.jobs.cancel([instance], "not needed any more")
    cluster.slurm.scancel_fails = ""
    cluster.run_for(40)
    assert cluster.states() == {"4711": "ended: not needed any more"}


def test_a_job_that_can_never_start_is_cancelled_and_said_once(cluster: Cluster) -> None:
    for name in cluster.jobs.launch(GPU, 3):
        cluster.slurm.set(name, "PENDING", reason="PartitionTimeLimit")
    cluster.run_for(20)
    assert cluster.jobs.poll({}) == {}
    assert {*cluster.states().values()} == {"ended: it can never start: PartitionTimeLimit"}
    assert len([line for line in cluster.said if "--time" in line]) == 1
    with pytest.raises(LaunchRefusedError, match="can never start: Slurm's reason is PartitionTimeLimit"):
        cluster.jobs.launch(GPU, 1)
    assert cluster.slurm.count("sbatch") == 1


@pytest.mark.parametrize("reason", ["QOSMaxJobsPerUserLimit", "JobHeldUser"])
def test_limits_and_holds_are_said_once_and_waited_for(cluster: Cluster, reason: str) -> None:
    cluster.jobs.launch(GPU, 1)
    cluster.slurm.set("4711", "PENDING", reason=reason)
    cluster.run_for(60)
    assert cluster.states() == {"4711": f"pending: {reason}"}
    assert len([line for line in cluster.said if reason in line]) == 1
    assert cluster.slurm.count("scancel") == 0


def fails(cluster: Cluster, host: str, said: str = "") -> None:
    """A job starts on a host and fails there."""
    (instance,) = cluster.jobs.launch(GPU, 1)
    if said:
        (cluster.files.output_dir() / f"{instance}.out").write_text(said)
    cluster.slurm.set(instance, "FAILED", host, "NonZeroExitCode")
    cluster.run_for(6)


def test_three_failed_starts_pause_the_group_and_the_next_job_avoids_the_hosts(cluster: Cluster) -> None:
    of_slurm = "slurmstepd: error: x\n[2026-11-20T19:40:00.123] error: *** JOB 7\n"
    fails(cluster, "n1", f"starting\nraycluster: error: no space left in /tmp.\n{of_slurm}")
    fails(cluster, "n2")
    fails(cluster, "n1")
    state = cluster.jobs.groups()["gpu"]
    assert state.excluded == ("n1", "n2")
    assert state.paused_until > cluster.now
    assert state.problem == (
        "3 starts failed in a row on n1, n2; the last because its worker failed before it joined"
    )
    assert cluster.said[1] == (
        "worker group gpu: job 4711 failed to start on n1: its worker failed before it joined: "
        "raycluster: error: no space left in /tmp."
    )
    assert not [line for line in cluster.said if "has ended" in line]  # each failed start is said once
    with pytest.raises(LaunchRefusedError, match="3 starts failed in a row on n1, n2"):
        cluster.jobs.launch(GPU, 1)
    assert cluster.slurm.count("sbatch") == 3
    cluster.now += 61
    (instance,) = cluster.jobs.launch(GPU, 1)
    assert "--exclude=n1,n2" in cluster.slurm.calls[-1]
    cluster.join(instance)
    cluster.run_for(2)
    assert cluster.jobs.groups()["gpu"].problem == ""
    cluster.jobs.launch(GPU, 1)
    assert "--exclude=n1,n2" in cluster.slurm.calls[-1]


@pytest.mark.parametrize(
    "said", ["Requested node configuration is not available", "Invalid node name specified"]
)
def test_where_no_other_host_is_left_none_is_avoided(cluster: Cluster, said: str) -> None:
    """The second is sbatch's answer when --nodelist names the host that --exclude names."""
    for _ in range(3):
        fails(cluster, "n1")
    cluster.now += 61
    cluster.slurm.refuses = [(1, "", f"{FAILED}{said}")]
    assert cluster.jobs.launch(GPU, 1) == ["4714"]
    assert [word for word in cluster.slurm.calls[-1] if word.startswith("--exclude")] == []
    assert cluster.jobs.groups()["gpu"].excluded == ()


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        (lambda slurm: slurm.set("4711", "PREEMPTED", "n1"), "ended: it was preempted"),
        (lambda slurm: slurm.set("4711", "NODE_FAIL", "n1"), "ended: a node failed"),
        (lambda slurm: slurm.set("4711", "TIMEOUT", "n1"), "ended: its time limit was reached"),
        (
            lambda slurm: slurm.set("4711", "SUSPENDED", "n1"),
            "ended: it was suspended, and Ray has given up its nodes",
        ),
        (
            lambda slurm: slurm.set("4711", "PENDING", reason="BeginTime"),
            "ended: Slurm has requeued it, and a worker job starts only once",
        ),
        (lambda slurm: slurm.jobs.clear(), "ended: Slurm does not know it any more"),
    ],
)
def test_a_worker_that_ray_has_lost(
    cluster: Cluster, change: Callable[[FakeSlurm], object], ends: str
) -> None:
    (instance,) = cluster.jobs.launch(GPU, 1)
    cluster.slurm.set(instance, "RUNNING", "n1")
    cluster.join(instance)
    cluster.run_for(10)
    change(cluster.slurm)
    cluster.nodes.clear()
    cluster.run_for(6)
    if instance in cluster.slurm.jobs and "suspended" in ends:
        cluster.slurm.set(instance, "CANCELLED", "n1")
    cluster.run_for(6)
    assert cluster.states() == {"4711": ends}
    assert cluster.jobs.groups()["gpu"].problem == ""
    assert cluster.jobs.launch(GPU, 1)


def test_a_squeue_that_fails_changes_nothing_and_is_said_once(cluster: Cluster) -> None:
    cluster.jobs.launch(GPU, 2)
    cluster.slurm.squeue_fails = "slurm_load_jobs error: Unable to contact slurm controller\n"
    cluster.run_for(60)
    assert {*cluster.states().values()} == {"pending"}
    assert len([line for line in cluster.said if "is not known" in line]) == 1


# -- Ray's autoscaler was started again ------------------------------------------------------------


def test_another_process_goes_on_with_the_jobs(cluster: Cluster) -> None:
    for _ in range(3):
        fails(cluster, "n1")
    cluster.now += 61
    first, second = cluster.jobs.launch(GPU, 2)
    cluster.slurm.set(first, "RUNNING", "n2")
    cluster.join(first)
    lost = cluster.slurm.submit({"--comment": "raycluster:4700"})
    cluster.jobs = cluster.started()
    assert sorted(cluster.jobs.poll(cluster.nodes)) == [first, second]
    cluster.run_for(6)
    assert cluster.jobs.groups()["gpu"].excluded == ("n1",)
    assert cluster.slurm.jobs[lost]["state"] == "CANCELLED"
    assert {cluster.slurm.jobs[name]["state"] for name in (first, second)} == {"RUNNING", "PENDING"}


def test_a_job_whose_worker_leaves_by_itself_is_cancelled_only_if_it_stays(cluster: Cluster) -> None:
    first, second = cluster.jobs.launch(GPU, 2)
    for name in (first, second):
        cluster.slurm.set(name, "RUNNING", "n1")
        cluster.join(name)
    cluster.run_for(6)
    cluster.nodes.clear()
    cluster.jobs.cancel([first, second], "no longer needed", now=False)
    cluster.slurm.set(first, "COMPLETED")
    cluster.run_for(20)
    assert cluster.slurm.count("scancel") == 0
    assert cluster.states() == {first: "ended: no longer needed", second: "draining: no longer needed"}
    cluster.run_for(30)
    assert ["scancel", second] in cluster.slurm.calls
    assert cluster.states()[second] == "ended: no longer needed"


def test_ended_jobs_are_kept_for_some_time(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned: list[int] = []
    monkeypatch.setattr(cluster.files, "prune_outputs", lambda kept: pruned.append(len(kept)))
    for _ in range(60):
        cluster.jobs.cancel(cluster.jobs.launch(GPU, 1), "idle")
        cluster.run_for(6)
    states = cluster.states()
    assert len(states) == 50
    assert pruned and max(pruned) <= 51  # output files: of those that are kept none is removed
    assert "4770" in states
    assert "4711" not in states
    assert cluster.jobs.groups()["gpu"].ended_before == 10
    cluster.jobs = cluster.started()
    assert cluster.jobs.groups()["gpu"].ended_before == 10
    cluster.jobs.resume("gpu")
    assert cluster.jobs.groups()["gpu"].ended_before == 10


def test_the_record_is_written_only_when_something_changed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (instance,) = cluster.jobs.launch(GPU, 1)
    cluster.join(instance)
    cluster.run_for(5)
    written: list[object] = []

    def write(report: object, texts: object) -> int:
        written.append(report)
        return 1

    monkeypatch.setattr(cluster.files, "write_jobs", write)
    cluster.run_for(600)
    assert written == []
    cluster.nodes.clear()
    cluster.run_for(10)
    assert written


def test_what_the_one_before_has_asked_of_a_server_is_withdrawn(cluster: Cluster) -> None:
    cluster.jobs.launch(GPU, 1)
    cluster.files.launches.write_request(LaunchRequest(1, "sbatch", ("--array=0-9",), cluster.now))
    cluster.jobs = cluster.started()
    assert cluster.files.launches.pending_requests() == []
