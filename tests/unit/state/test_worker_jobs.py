"""The files of a growing cluster: what is written is read, and what is broken reads as not there."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from raycluster_cli.model.record import encode
from raycluster_cli.model.worker_group import GroupBounds, GroupsReport, WorkerGroup
from raycluster_cli.model.worker_job import (
    GroupState,
    LaunchReply,
    LaunchRequest,
    WorkerJob,
    WorkerJobsReport,
    WorkerJobState,
)
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import KEEP_OUTPUTS, JobTexts, WorkerJobFiles

GROUPS = GroupsReport(
    (
        WorkerGroup("cpu", 32, labels={"zone": "a"}),
        WorkerGroup(
            *("gpu", 8, 1, ("--partition=gpu", "-G", "4"), 60.0, 2),
            resources={"GPU": 4.0, "memory": 2.0e12},
        ),
    ),
    pid=77,
    restart=1,
)
JOBS = WorkerJobsReport(
    1795408208.5,
    (
        WorkerJob("4711_3", "gpu", WorkerJobState.READY, 1.5, "", 0.0, ("n1", "n2"), ("ab", "cd"), 2, "/o"),
        WorkerJob("4712", "cpu", WorkerJobState.PENDING, 2.5, "Priority", 1795409000.0),
    ),
    (GroupState("gpu", 1795408268.5, "3 starts failed in a row", ("n7",)), GroupState("cpu")),
)


@pytest.fixture
def files(record: Record) -> WorkerJobFiles:
    return WorkerJobFiles(record.path)


def test_what_is_written_is_read(files: WorkerJobFiles) -> None:
    files.write_groups(GROUPS)
    files.write_jobs(JOBS)
    files.write_bounds({"gpu": GroupBounds(0, 32)})
    assert files.read_groups() == GROUPS
    assert files.read_jobs() == JOBS
    assert files.read_bounds() == {"gpu": GroupBounds(0, 32)}
    assert files.bounds_stamp() == os.stat(files.path / "scale.json").st_mtime_ns


def test_jobs_are_written_as_all_values_are_and_each_is_made_into_text_once(files: WorkerJobFiles) -> None:
    texts = JobTexts()
    assert files.write_jobs(JOBS, texts) == len((files.path / "worker-jobs.json").read_bytes())
    written = json.loads((files.path / "worker-jobs.json").read_text())
    assert written == json.loads(encode(JOBS))
    before = texts.of(JOBS.jobs)
    changed = dataclasses.replace(JOBS.jobs[1], reason="Resources")
    after = texts.of((JOBS.jobs[0], changed, JOBS.jobs[1]))
    assert after[0] is before[0]
    assert (json.loads(after[1])["reason"], json.loads(after[2])["reason"]) == ("Resources", "Priority")
    assert files.write_jobs(dataclasses.replace(JOBS, jobs=()), texts) > 0
    assert files.read_jobs() == dataclasses.replace(JOBS, jobs=())


def test_the_oldest_output_files_are_removed(files: WorkerJobFiles) -> None:
    directory = files.output_dir()
    names = [*(f"{job}.out" for job in range(9, KEEP_OUTPUTS + 115)), "7_10.out", "7_9.out"]
    for name in [*names, "5.out", "note.txt", "6.out.txt"]:
        (directory / name).touch()
    files.prune_outputs(["7_9", "5", "10"])
    left = {path.name for path in directory.iterdir()}
    assert {"5.out", "7_9.out", "10.out", "note.txt", "6.out.txt"} < left  # of known jobs, and of others
    assert "7_10.out" not in left and "9.out" not in left
    assert len(left) == KEEP_OUTPUTS + 5
    assert f"{KEEP_OUTPUTS + 114}.out" in left
    files.prune_outputs([])  # few more than are to stay: nothing is done
    assert {path.name for path in directory.iterdir()} == left
    WorkerJobFiles(files.path / "nowhere").prune_outputs([])


def test_ten_thousand_jobs_are_read_as_well(files: WorkerJobFiles) -> None:
    """Where they were not, the end of the cluster would leave them in the queue."""
    jobs = tuple(
        WorkerJob(
            *(f"4711_{task}", "gpu", WorkerJobState.PENDING.value, 2.5, "Priority"),
            output=f"/home/ada/.raycluster/tux/4700/jobs/4711_{task}.out",
        )
        for task in range(10_000)
    )
    files.write_jobs(WorkerJobsReport(1.0, jobs))
    found = files.read_jobs()
    assert found is not None and len(found.jobs) == 10_000


def test_each_file_has_a_schema_and_is_for_the_user_alone(files: WorkerJobFiles) -> None:
    files.write_groups(GROUPS)
    files.write_jobs(JOBS)
    files.write_bounds({})
    files.launches.write_request(LaunchRequest(1, "sbatch", (), 1.0))
    for name in ("groups.json", "worker-jobs.json", "scale.json", "launch/1.json"):
        assert json.loads((files.path / name).read_text())["schema"] >= 2
        assert os.stat(files.path / name).st_mode & 0o777 == 0o600
    assert os.stat(files.path / "launch").st_mode & 0o777 == 0o700
    assert os.stat(files.output_dir()).st_mode & 0o777 == 0o700


def test_what_is_missing_reads_as_none(files: WorkerJobFiles) -> None:
    assert files.read_groups() is files.read_jobs() is None
    assert files.bounds_stamp() is files.launches.serving_stamp() is None
    assert files.read_bounds() == {}
    assert files.launches.pending_requests() == []
    assert files.launches.take_request(1) is files.launches.read_reply(1) is None
    assert not files.launches.withdraw_request(1)
    files.launches.forget_request(1)
    files.launches.end_serving()


BROKEN = (
    "",
    "{",
    "[]",
    "null",
    '"x"',
    "{}",
    '{"jobs": 3, "groups": 4}',
    '{"groups": {"gpu": 3}}',
    "[" * 9999,
)


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_partial_or_not_ours_reads_as_not_there(files: WorkerJobFiles, text: str) -> None:
    for name in ("groups.json", "worker-jobs.json", "scale.json"):
        (files.path / name).write_text(text)
    assert files.read_groups() is files.read_jobs() is None
    assert files.read_bounds() == {}


def test_a_line_that_does_not_fit_is_left_out_and_the_others_stay(files: WorkerJobFiles) -> None:
    files.write_jobs(JOBS)
    values = json.loads((files.path / "worker-jobs.json").read_text())
    values["jobs"][:0] = [3, {}, {**values["jobs"][0], "hosts": "n1"}, {**values["jobs"][0], "since": "now"}]
    values["groups"][:0] = [None, {"group": 3}, {"group": "gpu", "excluded": [7]}]
    (files.path / "worker-jobs.json").write_text(json.dumps(values))
    assert files.read_jobs() == JOBS


@pytest.mark.parametrize(
    "change",
    [
        {"name": "head"},
        {"name": 3},
        {"max_workers": "many"},
        {"max_workers": 0, "min_workers": 1},
        {"nodes_per_job": 0},
        {"resources": {"GPU": "4"}},
        {"resources": {"GPU": -1}},
        {"resources": {"GPU": True}},
        {"labels": {"zone": 3}},
        {"labels": ["zone"]},
        {"sbatch": "--partition=gpu"},
    ],
)
def test_a_group_that_does_not_fit_is_left_out(files: WorkerJobFiles, change: dict[str, object]) -> None:
    files.write_groups(GROUPS)
    values = json.loads((files.path / "groups.json").read_text())
    values["groups"][1] |= change
    (files.path / "groups.json").write_text(json.dumps(values))
    assert files.read_groups() == dataclasses.replace(GROUPS, groups=GROUPS.groups[:1])


def test_bounds_that_contradict_each_other_are_left_out(files: WorkerJobFiles) -> None:
    groups = {"a": {"min_workers": 2, "max_workers": 1}, "b": {"min_workers": 0, "max_workers": 1}, "c": 3}
    (files.path / "scale.json").write_text(json.dumps({"groups": groups}))
    assert files.read_bounds() == {"b": GroupBounds(0, 1)}


def test_fields_of_a_newer_version_are_ignored(files: WorkerJobFiles) -> None:
    job = {"job_id": "7", "group": "gpu", "state": "hibernating", "since": 1.0, "colour": "red"}
    (files.path / "worker-jobs.json").write_text(
        json.dumps({"schema": 9, "when": 1.0, "jobs": [job], "x": 1})
    )
    assert files.read_jobs() == WorkerJobsReport(1.0, (WorkerJob("7", "gpu", "hibernating", 1.0),))


# -- requests --------------------------------------------------------------------------------------


def test_a_request_is_taken_once_and_answered(files: WorkerJobFiles) -> None:
    request = LaunchRequest(1795408208, "sbatch", ("--parsable", "--wrap", "true"), 1.5, {"PATH": "/bin"})
    reply = LaunchReply(1795408208, 0, "4711\n", "", "login1")
    files.launches.write_request(request)
    files.launches.write_request(LaunchRequest(9, "squeue", (), 1.0))
    assert files.launches.pending_requests() == [9, 1795408208]
    assert files.launches.take_request(1795408208) == request
    assert files.launches.take_request(1795408208) is None
    assert not files.launches.withdraw_request(1795408208)
    assert files.launches.pending_requests() == [9]
    assert files.launches.read_reply(1795408208) is None
    files.launches.write_reply(reply)
    assert files.launches.read_reply(1795408208) == reply
    files.launches.forget_request(1795408208)
    assert sorted(os.listdir(files.path / "launch")) == ["9.json"]


def test_a_request_that_is_withdrawn_is_nobodys(files: WorkerJobFiles) -> None:
    files.launches.write_request(LaunchRequest(3, "sbatch", (), 1.0))
    assert files.launches.withdraw_request(3)
    assert files.launches.take_request(3) is None


@pytest.mark.parametrize("text", ["", "{", '{"number": 3}', '{"number": "3", "program": "sbatch"}'])
def test_a_request_that_does_not_fit_is_not_run(files: WorkerJobFiles, text: str) -> None:
    files.launches.say_serving()
    (files.path / "launch" / "3.json").write_text(text)
    (files.path / "launch" / "evil.json").write_text(text)
    assert files.launches.pending_requests() == [3]
    assert files.launches.take_request(3) is None
    assert files.launches.pending_requests() == []


def test_a_request_whose_environment_is_not_text_is_not_run(files: WorkerJobFiles) -> None:
    files.launches.write_request(LaunchRequest(3, "sbatch", (), 1.0, {"PATH": 3}))  # type: ignore[dict-item]
    assert files.launches.take_request(3) is None


def test_a_server_says_that_it_is_there(files: WorkerJobFiles) -> None:
    files.launches.say_serving()
    first = files.launches.serving_stamp()
    assert first is not None
    os.utime(files.path / "launch" / "serving", ns=(first - 10**9, first - 10**9))
    files.launches.say_serving()
    assert files.launches.serving_stamp() > first - 10**9  # type: ignore[operator]
    files.launches.end_serving()
    assert files.launches.serving_stamp() is None


def test_a_link_in_the_place_of_a_file_is_not_followed(files: WorkerJobFiles, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(json.dumps({"groups": {"a": {"min_workers": 0, "max_workers": 1}}}))
    (files.path / "scale.json").symlink_to(tmp_path / "other")
    assert files.read_bounds() == {}
    assert files.bounds_stamp() is None
