"""A growing cluster as status, JSON, why, logs, completion and the screens show it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycluster_cli.cli.completion import complete_change, complete_node
from raycluster_cli.cli.drawing import UNICODE
from raycluster_cli.cli.screen import View, live_screen, report
from raycluster_cli.model.cluster_status import ClusterPhase
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import EndReport
from raycluster_cli.ops.groups import read_groups
from raycluster_cli.ops.logs import worker_job_output
from raycluster_cli.ops.post_mortem import post_mortem
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.status_json import cluster_json, prometheus_text
from raycluster_cli.ops.why import page, why_json
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from tests.unit.command_lines import run_line
from tests.unit.growing import write_growing_record
from tests.unit.records_by_hand import write_record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return write_growing_record(tmp_path)


def test_the_groups(record: Record) -> None:
    gpu, cpu, fat = read_groups(record.path)
    assert (gpu.nodes, gpu.joined_nodes, gpu.range) == (5, 2, "0..8")
    assert gpu.nodes_by_state() == {"pending": 2, "starting": 1, "ready": 1, "idle": 1}
    assert (cpu.nodes, cpu.range, fat.nodes) == (1, "1..9", 0)
    assert fat.excluded == ("n40",)


def test_a_cluster_that_shrank_has_lost_nothing(record: Record) -> None:
    status = read_cluster(record)
    assert status.phase is ClusterPhase.RUNNING
    assert [node.host for node in status.nodes] == ["n001", "n101.4712_1", "n102.4712_2", "n201.4720"]
    assert (status.ready_nodes, status.expected_nodes, status.problems) == (4, 4, ())
    assert status.headline.endswith("4 nodes; 3 more pending or starting")


def test_nodes_of_worker_jobs_are_left_out_once_the_cluster_is_over(record: Record) -> None:
    record.write_end(EndReport(time.time() - 600, 137, "supervisor-killed", "n001", "killed"))
    status = read_cluster(record)
    assert status.phase is ClusterPhase.FAILED
    assert [node.host for node in status.nodes] == ["n001"]


@pytest.mark.parametrize(
    ("job_id", "state", "since_end_s", "left"),
    [
        ("4712_1", "COMPLETING", -300.0, True),
        ("4709", "RUNNING", -300.0, True),
        ("4709", "CANCELLED", -300.0, False),
        ("4713_1", "PENDING", None, False),
        ("4709", "RUNNING", 60.0, False),  # another job with its id
        ("9999", "RUNNING", -300.0, False),
    ],
)
def test_worker_jobs_that_slurm_still_has_after_the_end(
    record: Record, job_id: str, state: str, since_end_s: float | None, left: bool
) -> None:
    ended = time.time() - 600
    record.write_end(EndReport(ended, 0, "driver", "", "the driver ended with code 0"))
    start = None if since_end_s is None else ended + since_end_s
    jobs = {"77": Job("77", job_id, state, start_time=start, nodes="n103")}
    status = read_cluster(record, jobs)
    text = f"worker job {job_id} ({state} on n103)"
    assert status.left_in_slurm == ((text,) if left else ())
    assert status.headline.endswith(f"with code 0; Slurm still has {text}") is left
    assert cluster_json(status)["left_in_slurm"] == ([text] if left else [])
    assert (f"Slurm still has {text}" in page(post_mortem(record, status=status))) is left
    assert read_cluster(record).left_in_slurm == ()


@pytest.mark.parametrize(("state", "left"), [("COMPLETING", True), ("RUNNING", False)])
def test_a_worker_job_that_is_about_to_end_is_not_left(record: Record, state: str, left: bool) -> None:
    ended = time.time() - 2
    record.write_end(EndReport(ended, 0, "driver", "", "the driver ended with code 0"))
    jobs = {"77": Job("77", "4709", state, start_time=ended - 300, nodes="n103")}
    assert bool(read_cluster(record, jobs).left_in_slurm) is left


def test_a_cluster_of_a_fixed_size_has_none(tmp_path: Path) -> None:
    status = read_cluster(write_record(tmp_path, 2))
    assert status.groups == ()
    assert cluster_json(status)["groups"] == []
    assert not any("GROUP" in line.plain for line in report(status, 100))


def test_json(record: Record) -> None:
    found = json.loads(json.dumps(cluster_json(read_cluster(record))))
    gpu = found["groups"][0]
    assert (gpu["name"], gpu["min"], gpu["max"], gpu["set_by_hand"]) == ("gpu", 0, 8, False)
    assert gpu["nodes_by_state"] == {"pending": 2, "starting": 1, "ready": 1, "idle": 1}
    jobs = {job["job"]: job for job in gpu["jobs"]}
    assert jobs["4713_1"]["reason"] == "Priority"
    assert jobs["4713_1"]["expected_start"] == pytest.approx(time.time() + 600, abs=60)
    assert jobs["4712_1"]["hosts"] == ["n101"]
    node = found["nodes"][1]
    assert (node["host"], node["worker_job"], node["group"]) == ("n101.4712_1", "4712_1", "gpu")
    text = prometheus_text(read_cluster(record))
    assert 'raycluster_group_nodes_pending{job="4711",slurm_cluster="bed",group="gpu"} 2\n' in text


def test_bounds_set_by_hand(record: Record) -> None:
    from raycluster_cli.model.worker_group import GroupBounds

    WorkerJobFiles(record.path).write_bounds({"gpu": GroupBounds(3, 3)})
    gpu = read_groups(record.path)[0]
    assert (gpu.range, gpu.is_set, gpu.is_fixed) == ("3", True, True)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines(record: Record, width: int) -> None:
    lines = report(read_cluster(record), width)
    assert {line.cell_len for line in lines if line.plain} <= {width}
    text = "\n".join(line.plain for line in lines)
    assert "1 ready, 1 idle, 1 start" in text
    assert "3 starts in a row failed" in text
    assert "4713_1" in text
    assert "idle for 4" in text
    assert "4709" not in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60)])
def test_the_live_screen_is_as_high_as_the_terminal(record: Record, width: int, height: int) -> None:
    lines = live_screen(read_cluster(record), width, height, View(), UNICODE)
    assert len(lines) == height
    text = "\n".join(line.plain for line in lines)
    assert ("WORKER GROUPS" in text) is (height > 10)
    assert "NODES" in text


def test_why(record: Record) -> None:
    post = post_mortem(record)
    text = page(post)
    assert "gpu: 2 pending, 1 starting, 1 ready, 1 idle, of 0..8" in text
    assert "4713_1 pending: Priority" in text
    assert "3 starts in a row failed" in text
    assert "hosts that are not used any more: n40" in text
    assert ": NODE_FAIL" in text
    assert "What ended first" not in text  # a node that was drained
    assert why_json(post)["groups"][2]["excluded_hosts"] == ["n40"]


def test_the_output_of_a_worker_job(record: Record) -> None:
    expected = record.path / "jobs" / "4712_1.out"
    assert worker_job_output(record, "4712_1") == worker_job_output(record, "n101.4712_1") == expected
    assert worker_job_output(record, "n001") is None
    with pytest.raises(RayclusterError, match="worker job 4713_1 is not known; the job is pending"):
        worker_job_output(record, "4713_1")


def test_completion(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(params={"directory": str(record.path.parent.parent), "job": "4711"})
    assert complete_change(context, "g") == [("gpu=0..8", "5 nodes now")]
    assert len(complete_change(context, "")) == 3
    assert ("4712_2", "worker job of gpu, idle") in list(complete_node(context, "4712_2"))


def scale(record: Record, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "COLUMNS": "100"}
    return run_line("scale", *arguments, "--state-dir", str(record.path.parent.parent), env=env)


def test_the_command(record: Record) -> None:
    shown = scale(record, "4711")
    assert shown.returncode == 0
    assert "gpu    2      0..8" in shown.stdout
    assert "4712_2" in shown.stdout
    done = scale(record, "4711", "gpu=-1", "cpu=0..4")
    assert "gpu    2      4 " in done.stdout, done.stderr
    assert {
        name: (each.min_workers, each.max_workers)
        for name, each in WorkerJobFiles(record.path).read_bounds().items()
    } == {
        "gpu": (4, 4),
        "cpu": (0, 4),
    }
    found = json.loads(scale(record, "4711", "--json").stdout)
    assert [(group["name"], group["max"], group["set_by_hand"]) for group in found["groups"]] == [
        ("gpu", 4, True),
        ("cpu", 4, True),
        ("fat", 2, False),
    ]
    wrong = scale(record, "4711", "--jsn")
    assert (wrong.returncode, "no option --jsn" in wrong.stderr) == (2, True)
    assert scale(record, "4711", "tpu=1").returncode == 2


def test_a_cluster_that_cannot_be_scaled(tmp_path: Path) -> None:
    fixed = scale(write_record(tmp_path, 2), "4711", "+1")
    assert fixed.returncode == 2
    assert "no worker groups: its size is fixed. Start it with --max-nodes" in fixed.stderr
    local = scale(write_record(tmp_path, 2, key="local-1", cluster="local"), "local-1", "+1")
    assert (local.returncode, "--max-nodes" in local.stderr) == (2, False)
    assert "only clusters of Slurm jobs grow and shrink" in local.stderr
