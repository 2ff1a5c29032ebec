"""The commands as a person calls them, on records written by hand and with stand-ins for Slurm's commands."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from raycluster_cli.cli.app import app
from raycluster_cli.cli.look import await_record
from raycluster_cli.model.record import EndReport
from raycluster_cli.state.record import Record
from tests.unit.records_by_hand import write_record
from tests.unit.slurm_by_hand import SlurmCommands, squeue_line

Call = Callable[..., Result]

FAILED = EndReport(time.time() - 100, 7, "driver", "", "the driver ended with code 7")

ESCAPE = "\x1b[2J\x9b\u202e\r\x07"


@pytest.fixture
def slurm(tmp_path: Path) -> SlurmCommands:
    commands = SlurmCommands(tmp_path / "slurm")
    commands.answer("squeue", "")
    return commands


@pytest.fixture
def call(tmp_path: Path, slurm: SlurmCommands) -> Call:
    """Calls a command with the state directory of this test."""

    def one(*arguments: str, **env: str) -> Result:
        changes: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith(("SLURM", "RAYCLUSTER"))
        }
        changes |= {"PATH": slurm.path, "RAYCLUSTER_STATE_DIR": str(tmp_path), "COLUMNS": "100", **env}
        return CliRunner().invoke(app, [*arguments], env=changes)

    return one


def said(result: Result) -> str:
    """Output, or the message of the error that the command line would print."""
    return result.output + (str(result.exception) if result.exception else "")


# -- status -----------------------------------------------------------------------------------------


def test_status_lists_what_runs_waits_and_has_ended(call: Call, slurm: SlurmCommands, tmp_path: Path) -> None:
    write_record(tmp_path, 2, key="1")
    write_record(tmp_path, 2, key="2", end=EndReport(time.time() - 100, 7, "driver"))
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "3").write_text("{}")
    slurm.answer("squeue", squeue_line("3", "PENDING", reason="Priority") + squeue_line("4", "PENDING"))
    lines = call("status").output.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["3", "pending"], ["1", "running"], ["2", "failed"]]
    found = json.loads(call("status", "--json").stdout)
    assert [one["state"] for one in found["clusters"]] == ["pending", "running", "failed"]


def test_status_without_any_cluster_says_how_to_start_one(call: Call) -> None:
    result = call("status")
    assert result.exit_code == 0
    assert "raycluster run --local 2" in result.output


def test_status_of_one(call: Call, tmp_path: Path) -> None:
    record = write_record(tmp_path, 3, name="blue")
    text = call("status", "4711+blue").output
    assert "RUNNING" in text and "LAST REPORT" in text
    assert f"record  {record.path}" in text
    assert "Stop it: raycluster stop 4711+blue" in text
    assert "slowest: n003" in call("status", "blue", "--timing").output
    assert json.loads(call("status", "blue", "--json").stdout)["nodes_ready"] == 3


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("PENDING", "Waiting in Slurm's queue"),
        ("RUNNING", "there is no record of a cluster"),
        ("SUSPENDED", "there is no record of a cluster"),
    ],
)
def test_status_of_a_job_without_a_record(call: Call, slurm: SlurmCommands, state: str, shown: str) -> None:
    slurm.answer("squeue", squeue_line("9", state))
    text = call("status", "9").output
    assert shown in text
    assert "of 1 nodes ready" not in text


def test_status_of_a_task_of_an_array_without_a_record(call: Call, slurm: SlurmCommands) -> None:
    slurm.answer("squeue", squeue_line("9", "PENDING").replace("9|9|", "10|9_1|"))
    assert "Waiting in Slurm's queue" in call("status", "9_1").output


def test_status_of_a_suspended_job(call: Call, slurm: SlurmCommands, tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    old = time.time() - 1000  # a head that is stopped cannot report
    os.utime(record.path / "head.claim.1", (old, old))
    slurm.answer("squeue", squeue_line("4711", "STOPPED"))
    assert "until they get SIGCONT" in " ".join(call("status", "4711").stdout.split())
    slurm.answer("squeue", squeue_line("4711", "SUSPENDED"))
    text = call("status", "4711").output
    assert "SUSPENDED" in text and "until it is resumed" in text
    assert json.loads(call("status", "4711", "--json").stdout)["state"] == "suspended"
    assert "  is suspended\n" in call("why", "4711").stdout
    assert call("monitor", "4711", "--once", "--exit-status").exit_code == 5


def test_a_job_that_nobody_knows(call: Call, tmp_path: Path) -> None:
    write_record(tmp_path, 2, key="1")
    result = call("status", "77")
    assert result.exit_code != 0
    assert "no record of '77'" in said(result) and "the newest records there: 1" in said(result)


def test_slurm_that_does_not_answer_changes_nothing(call: Call, slurm: SlurmCommands, tmp_path: Path) -> None:
    write_record(tmp_path, 2)
    slurm.answer("squeue", "", code=1, error="slurm_load_jobs error: Unable to contact slurm controller")
    assert "running" in call("status").output


# -- monitor, why, logs, stop -----------------------------------------------------------------------


def test_monitor_of_a_job_without_a_record_says_what_to_do(call: Call, slurm: SlurmCommands) -> None:
    slurm.answer("squeue", squeue_line("9", "RUNNING"))
    text = said(call("monitor", "9", "--once"))
    assert "job 9 has no cluster" in text and "scancel 9" in text
    slurm.answer("squeue", squeue_line("9", "PENDING", reason="Resources"))
    assert said(call("monitor", "9", "--once")).endswith("waiting in Slurm's queue (Resources).")


def test_monitor_waits_for_a_job_to_start(
    slurm: SlurmCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.answer("squeue", squeue_line("4711", "RUNNING"))
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            write_record(tmp_path, 2)

    record = await_record("4711", tmp_path, {"PATH": slurm.path}, once=False, sleep=sleep)
    assert record.path.name == "4711"
    assert waited == [1.0, 1.0]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("raycluster: job 4711: Slurm says running, but there is no")


def test_exit_status_is_the_clusters(call: Call, tmp_path: Path) -> None:
    write_record(
        tmp_path, 2, end=EndReport(time.time() - 100, 7, "driver", "", "the driver ended with code 7")
    )
    result = call("monitor", "4711", "--exit-status")
    assert result.exit_code == 7
    assert "failed: the driver ended with code 7 (exit code 7)" in result.output


def test_why_takes_the_newest_that_ended(call: Call, tmp_path: Path) -> None:
    assert "there are no records" in said(call("why"))
    write_record(
        tmp_path, 2, key="1", end=EndReport(time.time(), 7, "driver", "", "the driver ended with code 7")
    )
    write_record(tmp_path, 2, key="2")
    text = call("why").output
    assert text.startswith("Cluster 1: python train.py")
    assert "raycluster logs 1" in text
    text = call("why", "2").output
    assert "The cluster has not ended" in text
    assert "raycluster status 2" in text


def test_logs_of_an_unknown_component_and_of_no_node(call: Call, tmp_path: Path) -> None:
    write_record(tmp_path, 2)
    assert "it must be one of driver, raycluster, raylet, gcs" in said(call("logs", "4711", "-c", "ray"))
    assert "has no node 'n9'" in said(call("logs", "4711", "-c", "raylet", "-n", "n9"))
    assert "Leave --node out" in said(call("logs", "4711", "-c", "gcs", "-n", "n002"))
    assert "--node 100 has no effect" in said(call("logs", "4711", "-n", "100"))


def test_kept_logs_are_shown_and_missing_ones_explained(call: Call, tmp_path: Path) -> None:
    record = write_record(tmp_path, 2, end=EndReport(time.time() - 100, 5, "worker-lost", "n002", "lost"))
    (record.log_dir("n002") / "raylet.err").write_text("first\nsecond\n")
    assert call("logs", "4711", "-c", "raylet", "--lines", "1").stdout == "second\n"
    text = said(call("logs", "4711", "-c", "gcs"))
    assert "no logs were kept (--keep-logs always keeps them)" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("stop", "--timeout=-1"), "--timeout is -1"),
        (("stop", "--all", "4711"), "--all was given together with JOB"),
        (("exec", "4711"), "there is no command"),
        (("env", "4711"), "JOB and --wait belong to --export"),
        (("env", "--export", "4711"), "this machine is no node of cluster 4711"),
        (("env", "--export", "4711", "--wait", "0.1"), "this machine is no node of cluster 4711"),
        (("exec", "4712", "--wait", "0.1", "--", "x"), "cluster 4712 has ended"),
        (("submit-job", "4711"), "there is no command"),
        (("dashboard", "4711"), "cluster 4711 has no dashboard: the head does not hold a port for it"),
        (("submit-job", "4711", "--", "x"), "raycluster exec 4711 -- …"),
        (("attach", "4712"), "cluster 4712 has ended: the driver ended"),
        (("exec", "4711", "-n", "n009", "--", "x"), "has no node 'n009'"),
        (("exec", "4711", "--", "x"), "reached by srun, and there is no srun here"),
        (("submit", "-N", "2"), "no driver was given"),
        (("submit", "train.py"), "belongs to no option"),
        (("submit", "--template", "/no/such", "--", "x"), "the template /no/such cannot be read"),
        (("submit", "-N", "2", "--", "x"), "sbatch was not found here"),
    ],
)
def test_what_cannot_be_done_is_explained(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    write_record(tmp_path, 2)
    write_record(tmp_path, 2, key="4712", end=EndReport(time.time(), 0, "driver", "", "the driver ended"))
    result = call(*arguments)
    assert result.exit_code != 0
    assert text in said(result)


# -- texts from outside -----------------------------------------------------------------------------


def hostile_record(state_dir: Path, key: str, end: EndReport | None = None) -> Record:
    """A record with control characters in every text."""
    record = write_record(state_dir, 3, key=key, failed=1, end=end)
    for path in [record.path / "head.json", *(record.path / "nodes").iterdir()]:
        values = json.loads(path.read_text())
        for name in ("message", "dashboard", "ray_version", "reason", "log_path", "session"):
            values[name] = f"{name}{ESCAPE}"
        values["driver"] = ["python", ESCAPE]
        values["deaths"] = [{"name": f"raylet{ESCAPE}", "pid": 1, "code": -9, "when": 1.0}]
        if path.stem == "n003":
            values["host"] = f"n3{ESCAPE}"
        path.write_text(json.dumps(values))
    record.append_event(f"worker {ESCAPE} is lost\nand more")
    return record


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "4711"),
        ("status", "4712"),
        ("status", "9"),
        ("status", "4711", "--timing"),
        ("status", "4711", "--json"),
        ("status", "--json"),
        ("monitor", "4711", "--once"),
        ("monitor", "4712"),
        ("monitor", "4712", "--json"),
        ("why", "4712"),
        ("why", "4712", "--json"),
        ("logs", "4711", "--component", "raycluster"),
        ("stop", "4712"),
    ],
    ids=" ".join,
)
def test_nothing_from_outside_acts_on_the_terminal(
    call: Call, slurm: SlurmCommands, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    slurm.answer(
        "squeue",
        squeue_line("9", "RUNNING", name=f"job{ESCAPE}") + squeue_line("4711", "RUNNING", name=ESCAPE),
    )
    hostile_record(tmp_path, "4711")
    end = EndReport(time.time() - 100, 5, "worker-lost", f"n3{ESCAPE}", f"lost{ESCAPE}")
    record = hostile_record(tmp_path, "4712", end)
    (record.log_dir("n001") / "raylet.err").write_text(f"bind: Address already in use {ESCAPE}\n")
    result = call(*arguments)
    assert result.exit_code in (0, 5), said(result)
    assert result.output
    found = {char for char in result.output if char != "\n" and not char.isprintable()}
    assert found == set()


def test_a_secret_of_the_driver_is_not_on_the_screen(call: Call, tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    head = json.loads((record.path / "head.json").read_text())
    head["driver"] = ["python", "train.py", "--hf-token", "hf_123456"]
    (record.path / "head.json").write_text(json.dumps(head))
    for arguments in (("status",), ("status", "4711"), ("monitor", "4711", "--once"), ("why", "4711")):
        text = call(*arguments).output
        assert "--hf-token REDACTED" in text
        assert "hf_123456" not in text
    assert json.loads(call("status", "4711", "--json").stdout)["driver"][-1] == "hf_123456"


# -- a reader that leaves ---------------------------------------------------------------------------
