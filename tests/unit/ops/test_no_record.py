"""Jobs in which raycluster never started: what `why` and `status` say of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raycluster_cli.cli.app import app
from raycluster_cli.model.errors import UsageError
from raycluster_cli.ops.clusters import ended_without_record
from raycluster_cli.ops.clusters import job_without_record as without_record
from raycluster_cli.ops.no_record import job_without_record, page
from raycluster_cli.slurm.job_state import JobState, parse_job
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.submitted import remember
from tests.unit.growing import write_growing_record
from tests.unit.records_by_hand import write_record
from tests.unit.slurm_by_hand import SlurmCommands

CASES = [
    ("waits", JobState("PENDING", "Resources"), "The job waits in the queue (Resources).", ""),
    ("held", JobState("PENDING", "JobHeldUser"), "waits in the queue (JobHeldUser)", "`scontrol release 9`"),
    ("too large", JobState("PENDING", "PartitionNodeLimit"), "waits in the queue", "will never start"),
    ("runs", JobState("RUNNING", nodes="n[1-2]"), "runs on n[1-2], and there is no record", ""),
    (
        "no directory",
        JobState("FAILED", exit_code=0, signal=53),
        "could not start the batch script",
        "--output",
    ),
    ("not found", JobState("FAILED", exit_code=127), "was not found on the node", "only the login node"),
    ("not executable", JobState("FAILED", exit_code=126), "is not executable", "chmod +x"),
    ("memory", JobState("OUT_OF_MEMORY", signal=125), "more memory than it asked for", "--mem"),
    (
        "cancelled",
        JobState("CANCELLED", nodes="n1"),
        "ended: cancelled, exit code 143, before raycluster started.",
        "",
    ),
    (
        "cancelled in the queue",
        JobState("CANCELLED", reason="JobHeldUser"),
        "The job ended: cancelled, exit code 143, before it started.",
        "",
    ),
    (
        "other code",
        JobState("FAILED", exit_code=3),
        "ended: failed, exit code 3, before raycluster started.",
        "",
    ),
    ("completed", JobState("COMPLETED"), "The job completed, and there is no record of a cluster:", ""),
]


@pytest.mark.parametrize(
    ("state", "verdict", "remedy"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_why_by_what_slurm_says(tmp_path: Path, state: JobState, verdict: str, remedy: str) -> None:
    found = job_without_record("9", tmp_path, {}, ask=lambda job, env: state)
    assert found is not None
    assert verdict in found.verdict
    assert remedy in " ".join(found.remedies)


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("CANCELLED", "stopped"),
        ("COMPLETED", "ended"),
        ("FAILED", "failed"),
        ("TIMEOUT", "failed"),
        ("PENDING", "pending"),
        ("RUNNING", "no record"),
    ],
)
def test_the_state_that_status_shows(tmp_path: Path, state: str, phase: str) -> None:
    found = job_without_record("9", tmp_path, {}, ask=lambda job, env: JobState(state))
    assert found is not None
    assert ended_without_record(found).phase.value == phase
    if state not in ("PENDING", "RUNNING"):
        assert without_record(Job("9", "9", state)).phase.value == phase


def test_a_worker_job_has_no_record_of_its_own(tmp_path: Path) -> None:
    record = write_growing_record(tmp_path)
    state = JobState("RUNNING", nodes="n1")
    assert job_without_record("4712", record.path.parent.parent, {}, ask=lambda job, env: state) is None


def test_the_output_shows_and_explains_more(tmp_path: Path) -> None:
    output = tmp_path / "train-9.out"
    output.write_text(
        "\n".join(f"line {number}" for number in range(50)) + "\nOSError: No space left on device\n"
    )
    remember(tmp_path, "9", str(output), ["python", "train.py"])
    found = job_without_record("9", tmp_path, {}, ask=lambda job, env: JobState("FAILED", exit_code=1))
    assert found is not None
    text = page(found)
    assert "OSError: No space left on device" in text and "line 45" in text and "line 20" not in text
    assert "--spill-dir" in text


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        (
            "0: raycluster: warning: no record can be kept: /home/ada: Read-only file system.\n1\n",
            "The job completed. raycluster ran in it, and there is no record of the cluster: warning: no "
            "record can be kept: /home/ada: Read-only file system.",
        ),
        (
            "raycluster: 2 nodes ready at 10.0.0.1:20000 after 2.5 s; driver: python train.py\n1\n",
            "The job completed. raycluster ran in it, and there is no record of the cluster (none could "
            "be kept, or it was removed).",
        ),
        (
            "raycluster: error: cannot make /proc/x: No such file or directory. Give another one.\n",
            "The job completed. raycluster ran in it, and there is no record of the cluster: cannot make "
            "/proc/x: No such file or directory. Give another one.",
        ),
    ],
)
def test_a_cluster_that_could_keep_no_record(tmp_path: Path, lines: str, verdict: str) -> None:
    (tmp_path / "9.out").write_text(lines)
    state = JobState("COMPLETED", output=str(tmp_path / "9.out"))
    found = job_without_record("9", tmp_path, {}, ask=lambda job, env: state)
    assert found is not None
    assert found.verdict == verdict
    assert "before raycluster started" not in page(found)


def test_a_job_that_slurm_has_forgotten(tmp_path: Path) -> None:
    assert job_without_record("9", tmp_path, {}, ask=lambda job, env: None) is None
    remember(tmp_path, "9", "/gone/job.out", ["python"])
    found = job_without_record("9", tmp_path, {}, ask=lambda job, env: None)
    assert found is not None
    assert "Slurm no longer knows the job" in found.verdict
    assert "Output: /gone/job.out (empty, or not visible from here)" in page(found)


@pytest.mark.parametrize("job", ["train", "4711+blue", "/tmp/x", "", "٣", "local-7"])
def test_only_job_ids_are_asked_for(tmp_path: Path, job: str) -> None:
    assert job_without_record(job, tmp_path, {}, ask=lambda job, env: pytest.fail("asked")) is None


def test_a_job_with_several_records_is_not_one_without(tmp_path: Path) -> None:
    write_record(tmp_path, 1, name="a")
    write_record(tmp_path, 1, name="b")
    assert job_without_record("4711", tmp_path, {}, ask=lambda job, env: JobState("RUNNING")) is None


def test_a_job_of_another_user_is_theirs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no record of job 9 in .*: the job belongs to ada\."):
        job_without_record("9", tmp_path, {}, ask=lambda job, env: JobState("RUNNING", user="ada(4294967)"))
    mine = JobState("RUNNING", user=f"me({os.getuid()})")
    assert job_without_record("9", tmp_path, {}, ask=lambda job, env: mine) is not None


def test_the_commands_agree(tmp_path: Path) -> None:
    slurm = SlurmCommands(tmp_path / "slurm")
    slurm.answer("squeue", "")
    slurm.answer(
        "scontrol", "JobId=9 JobName=x JobState=FAILED Reason=NonZeroExitCode ExitCode=0:53 StdOut=/a/b\n"
    )
    env = {"PATH": slurm.path, "RAYCLUSTER_STATE_DIR": str(tmp_path)}
    why = CliRunner().invoke(app, ["why", "9"], env=env).stdout
    assert "could not start the batch script" in " ".join(why.split())
    found = json.loads(CliRunner().invoke(app, ["why", "9", "--json"], env=env).stdout)
    assert (found["reason"], found["exit_code"], found["running"]) == ("no-record", 181, False)
    status = CliRunner().invoke(app, ["status", "9"], env=env).stdout
    assert "FAILED" in status and "could not start the batch script" in " ".join(status.split())
    document = json.loads(CliRunner().invoke(app, ["status", "9", "--json"], env=env).stdout)
    assert (document["state"], document["exit_code"], document["reason"]) == ("failed", 181, "no-record")
    assert document["cause"] == found["verdict"] and "cause" not in status


LOOKS = ("status 9", "why 9", "logs 9", "monitor --once 9", "url 9")
ENTERS = ("stop 9", "exec 9 -- id", "attach 9", "submit-job 9 -- id", "dashboard 9", "tunnel 9", "scale 9")


@pytest.mark.parametrize("line", [*LOOKS, *ENTERS])
def test_every_command_says_whose_a_job_is(tmp_path: Path, line: str) -> None:
    slurm = SlurmCommands(tmp_path / "slurm")
    slurm.answer("squeue", "")
    slurm.answer(
        "scontrol", "JobId=9 JobName=x UserId=ada(4294967) JobState=RUNNING Reason=None StdOut=/a/b\n"
    )
    env = {"PATH": slurm.path, "RAYCLUSTER_STATE_DIR": str(tmp_path), "SLURM_JOB_ID": ""}
    done = CliRunner().invoke(app, line.split(), env=env)
    assert isinstance(done.exception, UsageError | SystemExit), done.exception
    told = str(done.exception) + done.output
    assert "the job belongs to ada." in told, told
    assert ("--state-dir ~ada/.raycluster" in told) is (os.geteuid() == 0)


def test_a_job_as_scontrol_prints_it() -> None:
    text = (
        "JobId=9 UserId=ada(1001) GroupId=x(1) JobState=FAILED "
        "Reason=RaisedSignal:53(Real-time_signal_19) ExitCode=0:53 "
        "StdOut=/a b/x.out Power="
    )
    state = parse_job(text)
    assert (state.state, state.exit_code, state.signal, state.output) == ("FAILED", 0, 53, "/a b/x.out")
    assert state.user == "ada(1001)" and not state.is_mine
