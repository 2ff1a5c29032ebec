"""Which clusters the commands look at: ended ones, those that Slurm knows to be over, and other users'."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.record import EndReport
from raycluster_cli.state.catalogue import list_records, prune
from raycluster_cli.state.submitted import remember
from tests.unit.cli.test_commands import Call, call, said, slurm
from tests.unit.records_by_hand import write_record
from tests.unit.slurm_by_hand import SlurmCommands, squeue_line

__all__ = ["call", "slurm"]

SOMEBODY = 65534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@contextmanager
def as_somebody() -> Iterator[None]:
    """As another user than root, where this is root."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(SOMEBODY)
    try:
        yield
    finally:
        os.seteuid(me)


def test_ended_clusters_by_their_end(call: Call, tmp_path: Path) -> None:
    now = time.time()
    write_record(
        tmp_path, 2, key="1", end=EndReport(now - 100, 7, "driver", "", "the driver ended with code 7")
    )
    write_record(tmp_path, 2, key="2", end=EndReport(now - 5 * 86400, 0, "driver", "", "done"))
    write_record(tmp_path, 2, key="3", end=EndReport(now - 50, 143, "stop", "", "stopped"))
    lines = [line.split() for line in call("status").output.splitlines()]
    assert [(line[0], line[5]) for line in lines[1:]] == [("3", "143"), ("1", "7"), ("2", "0")]
    found = json.loads(call("status", "--json", "--state", "failed,stopped").output)["clusters"]
    assert [one["job"] for one in found] == ["3", "1"]
    found = json.loads(call("status", "--json", "--since", "2d", "--state", "ended").output)["clusters"]
    assert found == []
    assert "None of 3 clusters" in call("status", "--since", "2d", "--state", "ended").output
    assert "JOB names one" in said(call("status", "1", "--state", "failed"))
    assert "--timing shows one" in said(call("status", "--timing", "--state", "failed"))
    assert "it must be like 30min" in said(call("status", "--since", "soon"))


def test_how_to_start_one_where_there_is_slurm(call: Call, slurm: SlurmCommands, tmp_path: Path) -> None:
    assert "Start one: raycluster run --local 2 --" in call("status", PATH="/nowhere").output
    slurm.answer("sbatch", "")
    assert "Start one: raycluster submit -N 2 --" in call("status").output
    assert "Start one with `raycluster submit -N 2 --" in said(call("why"))


def test_of_clusters_that_seem_to_run_slurm_knows_which_do(
    call: Call, slurm: SlurmCommands, tmp_path: Path
) -> None:
    """A head that was killed at once leaves a record that looks alive for minutes."""
    write_record(tmp_path, 2, key="1")
    write_record(tmp_path, 2, key="2")
    write_record(tmp_path, 2, key="3")
    slurm.answer("squeue", squeue_line("1", "RUNNING") + squeue_line("2", "FAILED"))
    assert json.loads(call("monitor", "--once", "--json").output)["job"] == "1"
    slurm.answer("squeue", squeue_line("1", "RUNNING") + squeue_line("3", "RUNNING"))
    assert "2 clusters run: " in said(call("monitor", "--once"))


def test_submitted_jobs_in_which_nothing_started(call: Call, slurm: SlurmCommands, tmp_path: Path) -> None:
    for job in ("7", "8", "9"):
        remember(tmp_path, job, "/x", ["python"])
    states = {"7": "PENDING", "8": "FAILED", "9": "RUNNING", "10": "RUNNING"}
    slurm.answer("squeue", "".join(squeue_line(job, state) for job, state in states.items()))
    found = json.loads(call("status", "--json").output)["clusters"]
    assert {one["job"]: one["state"] for one in found} == {"7": "pending", "8": "failed", "9": "no record"}


def test_a_directory_that_cannot_be_read(call: Call, tmp_path: Path) -> None:
    there = tmp_path / "theirs"
    there.mkdir()
    there.chmod(0)
    tmp_path.chmod(0o755)
    for command in ("status", "why", "monitor"):
        with as_somebody():
            result = call(command, "--state-dir", str(there))
        assert result.exit_code != 0
        assert "cannot be read" in said(result)
        with as_somebody():
            assert "cannot be read" in said(call(command, "4711", "--state-dir", str(there)))


def test_status_names_the_cause_of_a_bad_end(call: Call, slurm: SlurmCommands, tmp_path: Path) -> None:
    slurm.answer("scontrol", "JobId=1 JobState=TIMEOUT ExitCode=0:15 StdOut=/gone\n")
    write_record(
        tmp_path, 2, key="1", end=EndReport(time.time() - 100, 143, "signal", "n001", "ended by SIGTERM")
    )
    write_record(tmp_path, 2, key="2", end=EndReport(time.time() - 100, 0, "driver", "", "done"))
    assert "cause  The job reached its time limit." in call("status", "1").output
    for job, cause in (("1", "The job reached its time limit."), ("2", "")):
        assert json.loads(call("status", job, "--json").output)["cause"] == cause
        verdict = json.loads(call("why", job, "--json").output)["verdict"]
        assert verdict == (cause or "Nothing went wrong.")


@only_root
def test_root_looks_at_a_users_clusters_and_changes_nothing(
    call: Call, slurm: SlurmCommands, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    record = write_record(theirs, 2, key="1")
    write_record(
        theirs, 2, key="2", end=EndReport(time.time(), 5, "worker-lost", "n002", "worker n002 is lost")
    )
    slurm.answer("squeue", squeue_line("1", "RUNNING"))
    for path in (theirs, *theirs.rglob("*")):
        os.chown(path, SOMEBODY, -1)
    before = sorted(str(path) for path in theirs.rglob("*"))
    where = ["--state-dir", str(theirs)]
    found = json.loads(call("status", "--json", *where).output)["clusters"]
    assert [(one["job"], one["state"]) for one in found] == [("1", "running"), ("2", "failed")]
    assert f"--user={SOMEBODY}" in slurm.calls.read_text()
    assert json.loads(call("monitor", "1", "--once", "--json", *where).output)["state"] == "running"
    assert "worker n002 is lost" in call("why", *where).output
    for words in (["stop", "1"], ["stop"], ["exec", "1", "--", "true"], ["attach", "1"], ["dashboard", "1"]):
        command, *rest = words
        assert "only its owner can enter or change it" in said(call(command, *where, *rest)), words
    assert sorted(str(path) for path in theirs.rglob("*")) == before
    os.utime(record.path, (1, 1))
    for path in record.path.iterdir():
        os.utime(path, (1, 1))
    assert prune(theirs) == []
    assert len(list_records(theirs)) == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["exec", "--", "true"], ""),
        (["exec", "-n", "n001", "--", "true"], ""),
        (["exec", "1", "--", "true"], "1"),
        (["exec", "1", "-n", "n001", "--", "true", "--", "2"], "1"),
        (["submit-job", "--", "python", "x.py"], ""),
        (["submit-job", "--no-wait", "--", "python", "x.py"], ""),
        (["submit-job", "1", "--no-wait", "--", "python", "x.py"], "1"),
        (["attach"], ""),
        (["attach", "1", "-n", "n001"], "1"),
        (["dashboard"], ""),
    ],
)
def test_job_can_be_left_out(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    asked: list[str] = []

    def running(job: str, directory: str, env: object) -> None:
        asked.append(job)
        raise UsageError("seen")

    monkeypatch.setattr("raycluster_cli.cli.inside.running_record", running)
    assert "seen" in said(call(*words))
    assert asked == [named]


@pytest.mark.parametrize("directory", ["/bin/true/records", "/proc/none"])
def test_submit_warns_once_of_records_that_cannot_be_written(
    call: Call, slurm: SlurmCommands, directory: str
) -> None:
    """Root may write to /proc as far as access(2) knows; that it cannot is seen behind the submission."""
    slurm.answer("sbatch", "12\n")
    slurm.answer("scontrol", "JobId=12 JobState=PENDING Reason=Priority\n")
    result = call("submit", "--state-dir", directory, "--", "true")
    assert result.exit_code == 0
    assert said(result).count("workers cannot find the head. --state-dir sets another") == 1
