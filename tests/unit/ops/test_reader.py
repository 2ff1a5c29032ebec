"""From records written by hand to states: every state, with and without Slurm."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raycluster_cli.model.cluster_status import ClusterPhase, ClusterStatus
from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.hostlist import natural
from raycluster_cli.model.record import ClusterUsage, EndReport, HeadInfo, NodeReport, NodeUsage
from raycluster_cli.model.status import NodePhase
from raycluster_cli.ops.clusters import as_listed, find_record, job_without_record, read_all
from raycluster_cli.ops.post_mortem import post_mortem
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.status_json import cluster_json, list_json, node_json, prometheus_text
from raycluster_cli.ops.verdict import judge
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.record import Record
from tests.unit.records_by_hand import write_record

RUNNING = {"4711": Job("4711", "4711", "RUNNING", end_time=time.time() + 100)}


def phase(record: Record, jobs: dict[str, Job] | None = None, now: float | None = None) -> ClusterPhase:
    return read_cluster(record, jobs, now=now).phase


def test_running(tmp_path: Path) -> None:
    status = read_cluster(write_record(tmp_path, 4, gpus=2))
    assert status.phase is ClusterPhase.RUNNING
    assert (status.ready_nodes, status.expected_nodes) == (4, 4)
    assert [node.host for node in status.nodes] == ["n001", "n002", "n003", "n004"]
    assert status.headline == "driver runs on 4 nodes"
    assert status.time_left_s == pytest.approx(5400, abs=5)
    assert status.pending_tasks == 12
    use = status.nodes[1].usage
    assert use is not None
    assert (use.cpus_total, use.cpus_used, use.gpus_total, use.worker_processes) == (64, 37, 2, 37)


def test_a_job_without_a_time_limit_has_no_time_left(tmp_path: Path) -> None:
    """Slurm tells its end as a year after its start."""
    assert read_cluster(write_record(tmp_path, 2, time_left_s=365 * 86400 - 600)).time_left_s is None
    assert read_cluster(write_record(tmp_path, 2, key="9", time_left_s=30 * 86400)).time_left_s is not None


def test_starting(tmp_path: Path) -> None:
    status = read_cluster(write_record(tmp_path, 4, starting=2, silent=1, age_s=3))
    assert status.phase is ClusterPhase.STARTING
    assert status.headline == "1 of 4 nodes ready"
    assert (
        status.nodes[-1].phase is NodePhase.NOT_REPORTED or status.nodes[-2].phase is NodePhase.NOT_REPORTED
    )


@pytest.mark.parametrize(("since_s", "expected"), [(1, ClusterPhase.STARTING), (60, ClusterPhase.DEGRADED)])
def test_a_worker_may_report_a_little_later_than_its_head(
    tmp_path: Path, since_s: float, expected: ClusterPhase
) -> None:
    """The head knows from the GCS that all have joined; a worker's own report follows."""
    record = write_record(tmp_path, 3)
    now = time.time()
    head, late = record.read_nodes()["n001"], record.read_nodes()["n003"]
    record.write_node(replace(head, phases={**head.phases, head.phase: now - since_s}))
    record.write_node(replace(late, phase="starting ray", node_id=""))
    status = read_cluster(record, now=now)
    assert (status.phase, status.ready_nodes) == (expected, 2)


def test_degraded_names_who_is_missing(tmp_path: Path) -> None:
    status = read_cluster(write_record(tmp_path, 6, failed=1, silent=1))
    assert status.phase is ClusterPhase.DEGRADED
    assert status.headline == "continues with 4 of 6 nodes; lost: n006; never reported: n005"


def test_a_node_that_the_gcs_does_not_know_is_lost(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    usage = record.read_usage()
    assert usage is not None
    nodes = {node_id: use for node_id, use in usage.nodes.items() if not node_id.endswith("2")}
    record.write_usage(ClusterUsage(time.time(), nodes))
    status = read_cluster(record)
    assert [node.state for node in status.nodes] == ["ready", "ready", "lost"]
    assert status.phase is ClusterPhase.DEGRADED


def test_old_usage_says_nothing(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    record.write_usage(ClusterUsage(time.time() - 60, {}))
    status = read_cluster(record)
    assert status.phase is ClusterPhase.RUNNING
    assert all(node.usage is None and node.alive is None for node in status.nodes)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (0, "driver", ClusterPhase.ENDED),
        (7, "driver", ClusterPhase.FAILED),
        (5, "worker-lost", ClusterPhase.FAILED),
        (143, "stop", ClusterPhase.STOPPED),
        (130, "signal", ClusterPhase.STOPPED),
    ],
)
def test_how_it_ended(tmp_path: Path, code: int, reason: str, expected: ClusterPhase) -> None:
    end = EndReport(time.time() - 5, code, reason, "n002", "the driver ended")
    status = read_cluster(write_record(tmp_path, 3, end=end))
    assert status.phase is expected
    assert status.is_over
    assert status.exit_code == code
    assert status.time_left_s is None


@pytest.mark.parametrize(
    ("job", "expected", "says"),
    [
        (Job("4711", "4711", "PENDING", reason="BeginTime"), "pending", "requeued; waiting in Slurm's queue"),
        (Job("4711", "4711", "REQUEUED"), "pending", "requeued; waiting in Slurm's queue"),
        (
            Job("4711", "4711", "RUNNING", start_time=time.time() + 86400),
            "starting",
            "Slurm has started it again",
        ),
        (Job("4711", "4711", "RUNNING", start_time=time.time() - 86400), "failed", "raylet died"),
        (Job("4711", "4711", "COMPLETING", start_time=time.time() - 86400), "failed", "raylet died"),
        (Job("4711", "4711", "FAILED", start_time=time.time() + 86400), "failed", "raylet died"),
        (None, "failed", "raylet died"),
    ],
)
def test_a_requeued_job_shows_the_state_of_this_run(
    tmp_path: Path, job: Job | None, expected: str, says: str
) -> None:
    record = write_record(tmp_path, 2)
    record.write_end(EndReport(time.time() - 60, 5, "raylet", "n001", "raylet died"))
    status = read_cluster(record, {"4711": job} if job else {})
    assert status.phase.value == expected
    assert says in status.message
    assert "raylet died" in status.message
    assert (status.exit_code, status.ended is None) == ((5, False) if expected == "failed" else (None, True))


def test_a_requeued_job_whose_host_lost_its_power(tmp_path: Path) -> None:
    """The head has written no end; the record of the next run is another's."""
    record = write_record(tmp_path, 2)
    waits = {"4711": Job("4711", "4711", "PENDING", reason="Resources")}
    assert read_cluster(record, waits).phase is ClusterPhase.PENDING
    record.path.with_name("4711.r1").mkdir()
    assert read_cluster(record, waits).phase is not ClusterPhase.PENDING


def test_ends_while_nodes_go(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    record.write_end(EndReport(time.time(), 0, "driver", "", "the driver ended with code 0"))
    assert phase(record) is ClusterPhase.STOPPING
    assert phase(record, now=time.time() + 100) is ClusterPhase.ENDED


def test_asked_to_stop(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    record.request_stop(by="ada@login")
    status = read_cluster(record)
    assert status.phase is ClusterPhase.STOPPING
    assert status.headline == "stop requested by ada@login"


@pytest.mark.parametrize(("age_s", "told"), [(30.0, ""), (44.0, ""), (47.0, "47 s"), (170.0, "170 s")])
@pytest.mark.parametrize("workers", [3, 4])
def test_a_late_heartbeat_is_told(tmp_path: Path, age_s: float, told: str, workers: int) -> None:
    """As when the head's host has just lost its power: neither Slurm nor raycluster can know it yet."""
    record = write_record(tmp_path, workers, failed=workers - 3)
    now = time.time()
    os.utime(record.path / "head.claim.1", (now - age_s, now - age_s))
    status = read_cluster(record, {"4711": Job("4711", "4711", "RUNNING")}, now=now)
    assert status.phase is (ClusterPhase.RUNNING if workers == 3 else ClusterPhase.DEGRADED)
    text = f"the head on n001 has not been heard from for {told}"
    assert status.message == (text if told else "")
    assert status.headline.endswith(f"; {text}") is bool(told)
    assert "not been heard" in status.headline or not told


def test_lost_when_the_head_is_silent(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    old = time.time() - 600
    os.utime(record.path / "head.claim.1", (old, old))
    status = read_cluster(record)
    assert status.phase is ClusterPhase.LOST
    assert [node.state for node in status.nodes] == ["unknown"] * 3
    assert "10 min" in status.headline


def test_lost_when_slurm_has_ended_the_job(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    assert phase(record, {"4711": Job("4711", "4711", "CANCELLED")}) is ClusterPhase.LOST
    assert phase(record, RUNNING) is ClusterPhase.RUNNING
    assert phase(record, {}) is ClusterPhase.RUNNING  # unknown to Slurm, but its head is heard of
    old = time.time() - 100
    os.utime(record.path / "head.claim.1", (old, old))
    assert phase(record, {}) is ClusterPhase.LOST
    assert phase(record, None) is ClusterPhase.RUNNING


def test_lost_when_the_process_is_gone(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "local", "local-1")
    claim = record.take_lease(host="here", pid=os.getpid())
    record.write_node(NodeReport("here", "head", "launched", updated=time.time()))
    assert phase(record) is ClusterPhase.STARTING
    path = record.path / "head.claim.1"
    path.write_text(json.dumps({**json.loads(path.read_text()), "create_time": claim.create_time + 1}))
    assert phase(record) is ClusterPhase.LOST


def test_a_worker_whose_loss_ends_the_cluster_is_lost(tmp_path: Path) -> None:
    """Its host has no power: its last report is that it joined, and the head asks the GCS no more."""
    end = EndReport(time.time(), 5, "worker-lost", "n002", "worker n002 is lost")
    for when, over in ((time.time(), ClusterPhase.STOPPING), (time.time() - 900, ClusterPhase.FAILED)):
        record = write_record(tmp_path, 3, key=str(int(when)))
        record.write_end(replace(end, when=when))
        status = read_cluster(record)
        states = {node.host: node.state for node in status.nodes}
        assert (status.phase, states["n002"]) == (over, "lost"), states
        assert "lost" not in (states["n001"], states["n003"])


def test_an_end_that_could_not_be_written_is_not_a_killed_head(tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    record.append_event("the record could not be written: cannot write /s/c/4711/nodes/n1.json: it is full.")
    ended = {"4711": Job("4711", "4711", "FAILED")}
    assert read_cluster(record, ended).message == "Slurm ended the job (failed) before the head reported why"
    record.append_event(
        "the record could not be written: cannot write /s/4711/end.json: No space left on device. Free some."
    )
    record.append_event("the driver ended with code 1 after 3.0 s; exit code 1")
    status = read_cluster(record, ended)
    assert status.phase is ClusterPhase.LOST
    assert status.message == (
        "the end could not be written to the record: No space left on device. "
        "The last event: the driver ended with code 1 after 3.0 s; exit code 1"
    )
    assert judge(post_mortem(record, status=status)).remedies == (
        f"Free space on the file system of {record.path}.",
    )
    assert phase(record, RUNNING) is ClusterPhase.RUNNING


def test_half_written_files_are_not_there_yet(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    (record.path / "nodes" / "n002.json").write_text('{"host": "n0')
    (record.path / "usage.json").write_text("")
    (record.path / "events.log").write_text('{"t": 1.0, "te')
    status = read_cluster(Record.open(record.path))
    assert status.ready_nodes == 2
    assert status.events == ()


def test_job_without_record() -> None:
    status = job_without_record(
        Job("9", "9", "PENDING", reason="Priority", name="train", start_time=time.time() + 86400)
    )
    assert status.phase is ClusterPhase.PENDING
    assert status.headline.startswith("waiting in Slurm's queue (Priority); Slurm expects it to start at ")
    held = Job("9", "9", "PENDING", reason="launch failed requeued held", start_time=time.time() + 86400)
    assert job_without_record(held).headline.endswith("(launch failed requeued held)")
    never = job_without_record(Job("9", "9", "PENDING", reason="PartitionTimeLimit"))
    assert never.headline.endswith(
        "(PartitionTimeLimit); it will never start: `raycluster why 9` says what to change"
    )


def test_which_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no records"):
        find_record(tmp_path, "", {})
    first = write_record(tmp_path, 2, key="1")
    assert find_record(tmp_path, "", {}).path == first.path
    write_record(tmp_path, 2, key="2")
    with pytest.raises(UsageError, match="2 clusters run"):
        find_record(tmp_path, "", {})
    assert find_record(tmp_path, "", {"SLURM_JOB_ID": "1"}).path == first.path
    first.write_end(EndReport(time.time(), 0))
    assert find_record(tmp_path, "", {}).key == "2"


def test_list_has_the_running_first(tmp_path: Path) -> None:
    write_record(tmp_path, 2, key="1", end=EndReport(time.time() - 100, 0, "driver"))
    write_record(tmp_path, 2, key="2")
    write_record(tmp_path, 2, key="3", end=EndReport(time.time() - 50, 1, "driver"))
    assert [status.job for status in read_all(tmp_path, None)] == ["2", "3", "1"]
    assert [status.job for status in read_all(tmp_path, None, limit=1)] == ["2", "3"]


def test_jobs_without_a_record_are_listed_where_their_state_belongs() -> None:
    def one(job: str, phase: ClusterPhase, started: float, ended: float | None) -> ClusterStatus:
        return ClusterStatus(job, "", phase, (), 2, started, ended=ended)

    listed = [
        one("unknown end", ClusterPhase.FAILED, 0.0, None),
        one("waits", ClusterPhase.PENDING, 0.0, None),
        one("runs", ClusterPhase.RUNNING, 50.0, None),
        one("old", ClusterPhase.ENDED, 10.0, 20.0),
        one("new", ClusterPhase.FAILED, 0.0, 40.0),
    ]
    assert [each.job for each in as_listed(listed)] == ["waits", "runs", "new", "old", "unknown end"]


def test_the_list_does_not_read_the_nodes_of_the_past(tmp_path: Path) -> None:
    ended = write_record(tmp_path, 2, key="1", end=EndReport(time.time() - 100, 0, "driver"))
    (ended.path / "nodes").rename(ended.path / "elsewhere")
    (listed,) = read_all(tmp_path, None)
    assert (listed.phase, listed.expected_nodes, listed.nodes) == (ClusterPhase.ENDED, 2, ())
    assert listed.driver == ("python", "train.py", "--epochs", "20")


def test_five_hundred_nodes_are_read_quickly(tmp_path: Path) -> None:
    record = write_record(tmp_path, 500)
    read_cluster(record)
    began = time.process_time()
    read_cluster(record)
    assert time.process_time() - began < 0.5


def test_json_holds_everything_and_its_schema(tmp_path: Path) -> None:
    found = json.loads(json.dumps(cluster_json(read_cluster(write_record(tmp_path, 3, gpus=1)), timing=True)))
    assert found["schema"] == 1
    assert found["state"] == "running"
    assert (found["nodes_ready"], found["nodes_expected"]) == (3, 3)
    assert found["nodes"][0]["usage"]["cpus_total"] == 64
    assert found["nodes"][1]["phases"]["joined"] > found["started"]
    assert json.loads(json.dumps(list_json([])))["clusters"] == []


def test_json_page_names_every_field(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
    found = cluster_json(read_cluster(write_record(tmp_path, 3)), timing=True)
    node = found["nodes"][0]
    names = [*found, *node, *node["usage"]]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_json_page_names_every_state_and_phase() -> None:
    page = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
    values = [each.value for each in (*ClusterPhase, *NodePhase)]
    assert [value for value in values if f"`{value}`" not in page] == []


@pytest.mark.parametrize(
    ("phase", "shown", "value"),
    [
        ("starting ray", "starting Ray", "starting ray"),
        ("gone", "exited", "gone"),
        ("joined", "ready", "ready"),
        ("a phase of a later version", "launched", "launched"),
    ],
)
def test_people_read_labels_and_programs_the_values_of_the_first_version(
    tmp_path: Path, phase: str, shown: str, value: str
) -> None:
    record = write_record(tmp_path, 2, usage=False)
    record.write_node(NodeReport("n002", "worker", phase, updated=time.time()))
    node = read_cluster(record).nodes[1]
    assert (node.label, node.state) == (shown, value)
    assert node_json(node)["state"] == value


def test_a_node_that_has_not_reported(tmp_path: Path) -> None:
    node = read_cluster(write_record(tmp_path, 2, silent=1, age_s=3)).nodes[1]
    assert (node.label, node_json(node)["state"], node_json(node)["phase"]) == (
        "not reported",
        "no word",
        "no word",
    )


def test_prometheus(tmp_path: Path) -> None:
    text = prometheus_text(read_cluster(write_record(tmp_path, 2, name='a"b'.replace('"', "-"))))
    assert 'raycluster_state{job="4711",name="a-b",slurm_cluster="bed",state="running"} 1\n' in text
    assert (
        'raycluster_node_cpus_used{job="4711",name="a-b",slurm_cluster="bed",node="n002",role="worker"} 37'
        in text
    )
    assert all(line.startswith(("#", "raycluster_")) for line in text.splitlines())


def test_usage_files_of_nodes(tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    record.write_node_usage("n002", NodeUsage(time.time() - 1000, 9, 1, 2))
    use = read_cluster(record).nodes[1].usage
    assert use is not None
    assert use.worker_processes is None
    assert use.cpus_total == 64


def test_natural_order() -> None:
    assert sorted(["gpu10", "gpu9", "a2b10", "a2b9"], key=natural) == ["a2b9", "a2b10", "gpu9", "gpu10"]


@pytest.mark.parametrize(
    ("state", "known", "expected"),
    [("RUNNING", 2000.0, 2000.0), ("RUNNING", None, 1000.0), ("COMPLETED", 500.0, 1000.0)],
)
def test_a_time_limit_that_was_changed(
    tmp_path: Path, state: str, known: float | None, expected: float
) -> None:
    """squeue shows when a job that has ended did so, not its limit."""
    record = Record.create(tmp_path, "tux", "4711")
    record.write_head(HeadInfo("n1", "10.0.0.1", 20000, started=1.0, end_time=1000.0))
    jobs = {"4711": Job("4711", "4711", state, end_time=known)}
    assert read_cluster(record, jobs).end_time == expected
    assert read_cluster(record, None).end_time == 1000.0


@pytest.mark.parametrize(
    ("age_s", "message"), [(2, "raycluster has not reported yet"), (90, "there is no record of a cluster")]
)
def test_a_job_that_has_just_started_has_no_record_yet(age_s: float, message: str) -> None:
    now = time.time()
    status = job_without_record(Job("7", "7", "RUNNING", start_time=now - age_s), now)
    assert status.phase is ClusterPhase.NO_RECORD
    assert message in status.headline
