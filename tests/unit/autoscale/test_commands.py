"""Where Slurm's commands run: here, or by a server that takes requests from the record."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster_cli.autoscale.commands import (
    REPLY_TIMEOUT_S,
    SERVER_STALE_S,
    Commands,
    MissingCommandError,
    SlowCommandError,
    job_environment,
)
from raycluster_cli.autoscale.worker_jobs import HeadJob, LaunchRefusedError, WorkerJobs
from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.model.worker_job import LaunchReply, LaunchRequest, WorkerJobsReport
from raycluster_cli.ops.launch_server import answers, serve
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from tests.waiting import wait_until

from .slurm_by_hand import FakeSlurm


@pytest.fixture
def files(tmp_path: Path) -> WorkerJobFiles:
    return WorkerJobFiles(Record.create(tmp_path / "state", "tux", "4700").path)


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_environment_of_the_jobs() -> None:
    env = {
        "PATH": "/venv/bin:/bin",
        "VIRTUAL_ENV": "/venv",
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "0",
        "SLURM_CONF": "/etc/slurm.conf",
        "CUDA_VISIBLE_DEVICES": "0",
        "RAY_ADDRESS": "n1:6379",
        "RAY_AUTH_TOKEN_PATH": "/tmp/x/token",
        "RAYCLUSTER_TOKEN": "secret",
        "RAYCLUSTER_STATE_DIR": "/shared",
        "SBATCH_ACCOUNT": "phys",
        "SBATCH_WAIT": "1",
        "SBATCH_GPUS": "8",
        "SBATCH_SIGNAL": "USR1@60",
        "SBATCH_OF_A_PLUGIN": "x",
        "SLURM_CLUSTERS": "tux,other",
        "TMPDIR": "/tmp/rc-1000-0a1b2c3d/t",
    }
    assert job_environment(env) == {
        "PATH": "/venv/bin:/bin",
        "VIRTUAL_ENV": "/venv",
        "SLURM_CONF": "/etc/slurm.conf",
        "RAYCLUSTER_STATE_DIR": "/shared",
        "SBATCH_ACCOUNT": "phys",
        "SBATCH_OF_A_PLUGIN": "x",
    }


def test_here(files: WorkerJobFiles, slurm: FakeSlurm) -> None:
    commands = Commands(files, {**slurm.env, "SQUEUE_FORMAT": "%i"}, run=slurm)
    answer = commands.call("squeue", ["--noheader"])
    assert (answer.code, answer.by) == (0, "")
    assert slurm.envs == [{"PATH": str(slurm.bin), "SLURM_TIME_FORMAT": "%s"}]
    slurm.hangs = {"squeue"}
    with pytest.raises(SlowCommandError, match="squeue did not answer within 60 s"):
        commands.call("squeue", [])


def test_without_sbatch_and_without_server(files: WorkerJobFiles, tmp_path: Path) -> None:
    head = HeadJob("4700", "train", files.path, "/work", ("raycluster",))
    said: list[str] = []
    jobs = WorkerJobs(head, files, {"PATH": str(tmp_path)}, report=said.append)
    for _ in range(3):
        with pytest.raises(LaunchRefusedError, match="sbatch was not found on this node"):
            jobs.launch(WorkerGroup("gpu", 1), 1)
    assert said == [
        "worker group gpu: sbatch was not found on this node. Run `raycluster scale 4700 --serve` on a "
        "login node: it submits the cluster's worker jobs."
    ]


@pytest.fixture
def server(files: WorkerJobFiles, slurm: FakeSlurm) -> Iterator[list[str]]:
    """What the server reports."""
    ended = threading.Event()
    lines: list[str] = []
    thread = threading.Thread(
        target=serve,
        args=(files, {**slurm.env, "SLURM_CONF": "/login/slurm.conf"}),
        kwargs={
            "ended": ended.is_set,
            "report": lines.append,
            "run": slurm,
            "sleep": lambda _: ended.wait(0.01),
        },
    )
    thread.start()
    wait_until(lambda: files.launches.serving_stamp() is not None, timeout_s=30, what="a server")
    yield lines
    ended.set()
    thread.join(30)
    assert files.launches.serving_stamp() is None


def test_a_server_submits_asks_and_cancels(
    files: WorkerJobFiles, slurm: FakeSlurm, server: list[str], tmp_path: Path
) -> None:
    head = HeadJob("4700", "train", files.path, "/work", ("raycluster",))
    env = {"PATH": str(tmp_path / "none"), "VIRTUAL_ENV": "/venv", "SLURM_CONF": "/node/slurm.conf"}
    said: list[str] = []
    jobs = WorkerJobs(head, files, env, report=said.append, sleep=lambda _: time.sleep(0.005))
    assert jobs.launch(WorkerGroup("gpu", 2), 2) == ["4711_0", "4711_1"]
    assert slurm.envs[0] == {**env, "SLURM_CONF": "/login/slurm.conf"}
    slurm.set("4711_0", "PENDING", reason="Resources")
    assert jobs.poll({})["4711_0"].reason == "Resources"
    jobs.cancel(["4711_1"], "not needed any more")
    assert slurm.jobs["4711_1"]["state"] == "CANCELLED"
    assert server == ["sbatch: job 4711 (train-gpu)", "scancel 4711_1"]
    assert os.listdir(files.path / "launch") == ["serving"]
    assert "submitted by " in said[0]


def test_a_server_submits_also_where_sbatch_is_here_and_squeue_stays_here(
    files: WorkerJobFiles, slurm: FakeSlurm, server: list[str]
) -> None:
    commands = Commands(files, slurm.env, run=slurm, sleep=lambda _: time.sleep(0.005))
    assert commands.call("sbatch", ["--comment=x"]).by
    assert not commands.call("squeue", []).by


def test_at_the_end_a_server_cancels_what_is_left(
    files: WorkerJobFiles, slurm: FakeSlurm, tmp_path: Path
) -> None:
    head = HeadJob("4700", "train", files.path, "/work", ("raycluster",))
    jobs = WorkerJobs(head, files, slurm.env, run=slurm)
    jobs.launch(WorkerGroup("gpu", 2), 2)
    lines: list[str] = []
    serve(files, slurm.env, ended=lambda: True, report=lines.append, run=slurm)
    assert lines == ["the cluster has ended: scancel 4711_0 4711_1"]
    assert {job["state"] for job in slurm.jobs.values()} == {"CANCELLED"}


def test_a_job_that_is_submitted_while_the_cluster_ends_is_cancelled_too(
    files: WorkerJobFiles, slurm: FakeSlurm
) -> None:
    """The head has gone: nobody writes the job into the record."""
    files.write_jobs(WorkerJobsReport(1.0, ()))
    arguments = ("--comment=raycluster:4700", "--array=0-2")
    files.launches.write_request(LaunchRequest(1, "sbatch", arguments, 1.0))
    lines: list[str] = []
    ends = iter([False, True])
    serve(
        *(files, slurm.env),
        ended=lambda: next(ends),
        report=lines.append,
        run=slurm,
        sleep=lambda _: None,
    )
    assert lines[1:] == ["the cluster has ended: scancel 4711_0 4711_1 4711_2"]
    assert slurm.calls[-1] == ["scancel", "4711_0", "4711_1", "4711_2"]


def test_at_the_end_a_server_finds_jobs_that_nobody_knows(files: WorkerJobFiles, slurm: FakeSlurm) -> None:
    """sbatch did not answer in time, and has submitted the job."""
    lost = slurm.submit({"--comment": "raycluster:4700 of project 7"})
    slurm.submit({"--comment": "raycluster:4701"})
    lines: list[str] = []
    serve(files, slurm.env, ended=lambda: True, report=lines.append, run=slurm)
    assert lines == [f"the cluster has ended: scancel {lost}"]


def test_without_an_answer_of_squeue_the_last_submitted_job_is_cancelled(
    files: WorkerJobFiles, slurm: FakeSlurm
) -> None:
    slurm.squeue_fails = "slurm_load_jobs error: Unable to contact slurm controller"
    files.launches.write_request(LaunchRequest(1, "sbatch", ("--comment=raycluster:4700",), 1.0))
    ends, lines = iter([False, True]), list[str]()
    serve(
        *(files, slurm.env),
        ended=lambda: next(ends),
        report=lines.append,
        run=slurm,
        sleep=lambda _: None,
    )
    assert lines[1:] == ["the cluster has ended: scancel 4711"]


def test_a_record_that_cannot_be_written_for_a_while_is_told_once(
    files: WorkerJobFiles, slurm: FakeSlurm
) -> None:
    in_the_way = files.path / "launch"
    in_the_way.write_text("")
    lines: list[str] = []
    rounds = iter(range(1, 100))

    def sleep(_: float) -> None:
        if next(rounds) == 3:
            in_the_way.unlink()
            files.launches.write_request(LaunchRequest(1, "scancel", ("7",), 1.0))

    serve(files, slurm.env, ended=lambda: slurm.calls != [], report=lines.append, run=slurm, sleep=sleep)
    assert [line.partition(" ")[0] for line in lines] == ["cannot", "scancel"]


def test_a_server_runs_nothing_else(files: WorkerJobFiles, slurm: FakeSlurm) -> None:
    for number, program in enumerate(("sh", "../bin/sbatch", "/bin/sh", "scontrol"), 1):
        files.launches.write_request(LaunchRequest(number, program, ("-c", "true"), 1.0))
    assert len(list(answers(files, slurm.env, run=slurm))) == 4
    assert slurm.calls == []
    reply = files.launches.read_reply(1)
    assert reply is not None
    assert (reply.code, reply.stderr.partition(" on ")[0]) == (127, "sh cannot be run")


def test_a_server_that_was_killed_is_not_waited_for(files: WorkerJobFiles, tmp_path: Path) -> None:
    clock = Clock()
    files.launches.say_serving()
    commands = Commands(files, {"PATH": str(tmp_path)}, clock=clock, sleep=clock.sleep)
    began = clock.now
    with pytest.raises(MissingCommandError, match="has ended"):
        commands.call("sbatch", [])
    assert clock.now - began < 3 * SERVER_STALE_S
    assert files.launches.pending_requests() == []
    assert not commands.is_served()


def test_a_server_that_takes_a_request_and_does_not_answer(files: WorkerJobFiles, tmp_path: Path) -> None:
    clock = Clock()
    files.launches.say_serving()

    def sleeps(seconds: float) -> None:
        clock.sleep(seconds)
        for number in files.launches.pending_requests():
            files.launches.take_request(number)

    commands = Commands(files, {"PATH": str(tmp_path)}, clock=clock, sleep=sleeps)
    with pytest.raises(SlowCommandError, match="did not answer the request for sbatch"):
        commands.call("sbatch", [])


def test_a_late_answer_is_not_taken_for_that_of_the_next_request(
    files: WorkerJobFiles, tmp_path: Path
) -> None:
    clock = Clock()
    files.launches.say_serving()

    def answers(seconds: float) -> None:
        clock.sleep(seconds)
        files.launches.write_reply(LaunchReply(int(clock.now) - 1000, 0, "old"))
        for number in files.launches.pending_requests():
            files.launches.take_request(number)
            files.launches.write_reply(LaunchReply(number, 0, "new"))

    commands = Commands(files, {"PATH": str(tmp_path)}, clock=clock, sleep=answers)
    assert commands.call("sbatch", []).stdout == "new"
    assert commands.call("sbatch", []).stdout == "new"
    assert REPLY_TIMEOUT_S > 60


def test_a_server_whose_clock_differs_is_known_by_its_changes(files: WorkerJobFiles, tmp_path: Path) -> None:
    clock = Clock()
    clock.now += 10_000
    commands = Commands(files, {"PATH": str(tmp_path)}, clock=clock)
    files.launches.say_serving()
    assert not commands.is_served()
    stamp = files.launches.serving_stamp()
    assert stamp is not None
    os.utime(files.path / "launch" / "serving", ns=(stamp + 1, stamp + 1))
    assert commands.is_served()
    clock.now += SERVER_STALE_S
    assert not commands.is_served()
