"""The post-mortem: from a record to a page."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raycluster_cli.cli.app import app
from raycluster_cli.model.record import EndReport, HeadInfo, NodeReport, ProcessDeath
from raycluster_cli.ops.post_mortem import post_mortem
from raycluster_cli.ops.verdict import judge
from raycluster_cli.ops.why import page
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.losses import end_without_report
from tests.unit.records_by_hand import change_head

NOW = time.time()

#: What raylets of Ray 2.60 have written when they ended.
DATA = Path(__file__).parents[2] / "data" / "ray-logs"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    record = Record.create(tmp_path / "state", "c", "4711")
    record.write_head(HeadInfo("n1", "10.0.0.1", 20000, started=NOW - 60, driver=("python", "train.py")))
    return record


def reported(host: str, role: str = "worker", phase: str = "gone", **more: object) -> NodeReport:
    return NodeReport(host, role, phase, **{"updated": time.time(), "exit_code": 0, **more})  # type: ignore[arg-type]


def test_who_ended_first(record: Record) -> None:
    record.write_end(
        EndReport(NOW, 5, "worker-lost", "n2", "worker n2 (10.0.0.2) is lost: the raylet on n2 …")
    )
    record.write_node(reported("n1", "head", "failed", exit_code=5))
    deaths = (ProcessDeath("raylet", 7, -9, NOW - 2),)
    record.write_node(reported("n2", phase="failed", exit_code=5, deaths=deaths, oom_kills=0))
    drained = (ProcessDeath("raylet", 7, 0, NOW + 0.1),)
    record.write_node(reported("n3", deaths=drained))
    logs = record.log_dir("n2")
    (logs / "raylet.out").write_text("health check failed\nlast lines of the raylet\n")
    post = post_mortem(record)
    assert [str(death) for death in post.deaths] == ["raylet on n2 was killed by SIGKILL"]
    text = page(post)
    assert "exit code 5" in text
    assert "raylet on n2 was killed from outside" in text
    assert "last lines of the raylet" in text
    assert str(logs) in text
    assert "1 node exited cleanly" in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("check-failed.err", "Check failed: allow_cluster_id_nil Unexpected nil Cluster ID."),
        ("sigabrt.err", "*** SIGABRT received at time="),
        ("sigabrt.out", "Received address and liveness notification for node"),
    ],
)
def test_the_last_lines_of_a_raylet_are_not_addresses_of_its_stack(
    record: Record, name: str, shown: str
) -> None:
    record.write_end(EndReport(NOW, 5, "worker-lost", "n2", "worker n2 is lost: its raylet was killed"))
    record.write_node(reported("n2", phase="failed", exit_code=5))
    log = (DATA / name).read_text()
    (record.log_dir("n2") / f"raylet{Path(name).suffix}").write_text(log)
    text = " ".join(page(post_mortem(record)).split())
    assert shown in text
    assert "0x" in log and "0x" not in text
    assert "StackTrace" not in text and "state-dump" not in text


def test_an_earlier_loss_of_a_worker_job_is_not_the_cause(record: Record) -> None:
    text = "raycluster's supervisor and keeper on n1 were killed"
    record.write_end(EndReport(NOW, 137, "supervisor-killed", "n1", text))
    record.write_node(reported("n1", "head", "driver running", exit_code=None))
    deaths = (ProcessDeath("raylet", 7, -9, NOW - 90),)
    lost = {"exit_code": 5, "deaths": deaths, "oom_kills": 0, "job": "4712_1"}
    record.write_node(reported("n2.4712_1", phase="failed", **lost))
    verdict, _, _ = judge(post_mortem(record))
    assert verdict.startswith("raycluster on n1, its keeper included, was killed from outside")


def test_a_local_driver_has_its_output_on_its_terminal(tmp_path: Path) -> None:
    """`raycluster logs` has no file to show, and Ray's logs say nothing of an error of the driver's own."""
    record = Record.create(tmp_path, "local", "local-1")
    record.write_head(HeadInfo("head", "127.0.0.1", 20000, started=NOW - 60, driver=("python", "train.py")))
    record.write_end(EndReport(NOW, 1, "driver", "head", "the driver ended with code 1"))
    record.write_node(reported("head", "head", exit_code=1))
    (record.log_dir("head") / "raylet.out").write_text("Connection is broken\n")
    text = " ".join(page(post_mortem(record)).split())
    assert "on the terminal in which `run --local` was started" in text
    assert "raycluster logs" not in text
    assert "Last lines of" not in text
    record.write_node(reported("head", "head", exit_code=1, deaths=(ProcessDeath("raylet", 7, -9, NOW - 2),)))
    assert "Connection is broken" in page(post_mortem(record))


def test_memory_is_told_before_everything_else(record: Record) -> None:
    record.write_end(EndReport(NOW, 1, "driver", "n1", "the driver ended with code 1"))
    record.write_node(reported("n1", "head", oom_kills=0))
    record.write_node(reported("n2", oom_kills=2))
    verdict, remedies, _ = judge(post_mortem(record))
    assert verdict.startswith("Out of memory: the kernel killed 2 processes")
    assert "n2 (2)" in verdict
    assert "--mem" in remedies[0]


def test_known_text_in_a_log(record: Record) -> None:
    record.write_end(EndReport(NOW, 3, "error", "n1", "the head did not start on n1"))
    record.write_node(reported("n1", "head", "failed", exit_code=3))
    (record.log_dir("n1") / "gcs_server.out").write_text("x\nbind: Address already in use [/tmp]\n")
    text = page(post_mortem(record))
    assert "A port is already in use" in text
    assert "n1/gcs_server.out: bind: Address already in use" in text
    assert "--master-port" in text


def test_broken_connections_after_a_driver_that_failed_by_itself_are_no_cause(record: Record) -> None:
    record.write_end(EndReport(NOW, 3, "driver", "n1", "the driver ended with code 3 after 2 s"))
    record.write_node(reported("n1", "head", exit_code=3))
    (record.log_dir("n1") / "raylet.out").write_text("Failed to read the next message: End of file\n")
    verdict, _, _ = judge(post_mortem(record))
    assert verdict.startswith("The driver itself failed: it ended with code 3")


def test_silent_host(record: Record) -> None:
    record.write_end(EndReport(NOW, 5, "worker-lost", "n2", "worker n2 is lost: no answer"))
    record.write_node(reported("n1", "head", "failed", exit_code=5))
    record.write_node(reported("n2", phase="joined", exit_code=None))
    verdict, remedies, _ = judge(post_mortem(record))
    assert "n2 stopped responding" in verdict
    assert "--exclude=n2" in remedies[0]
    assert "exited without reporting" in page(post_mortem(record))


def test_a_worker_that_was_cut_off_and_could_still_report_it(record: Record) -> None:
    """The record's file system may be reached by another network than Ray."""
    why = "the head at 10.0.0.1:6379 is lost: no answer to 2 checks of 4 s"
    record.write_end(EndReport(NOW, 5, "worker-lost", "n2", f"worker n2 is lost: {why}"))
    record.write_node(reported("n1", "head", "gone", exit_code=5))
    record.write_node(reported("n2", phase="failed", exit_code=5, message=why, reason="head-lost"))
    (record.log_dir("n1") / "raylet.out").write_text(
        "health check failed due to missing too many heartbeats\n"
    )
    verdict, remedies, _ = judge(post_mortem(record))
    assert verdict.startswith("n2 stopped responding: the head and it could no longer reach each other.")
    assert why in verdict
    assert "--exclude=n2" in remedies[0]


def test_all_of_the_heads_processes_ended_at_once_on_a_host_that_runs(record: Record) -> None:
    record.write_node(reported("n1", "head", "driver running", exit_code=None))
    record.write_end(end_without_report("n1", NOW))
    verdict, remedies, _ = judge(post_mortem(record))
    assert verdict.startswith("raycluster on n1, with all of its processes, was killed from outside")
    assert "`dmesg` on n1" in remedies[0]


def test_colours_in_the_output_are_left_out(record: Record, tmp_path: Path) -> None:
    output = tmp_path / "job.out"
    output.write_text("up\n\x1b[33m(raylet)\x1b[0m The node n2 has been marked dead\n")
    change_head(record, output=str(output))
    record.write_end(EndReport(NOW, 5, "worker-lost", "n2", "worker n2 is lost"))
    assert "  (raylet) The node n2 has been marked dead\n" in page(post_mortem(record))


def test_logs_that_cannot_be_read(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write_end(EndReport(NOW, 3, "error", "n1", "the head did not start on n1"))
    record.write_node(reported("n1", "head", "failed", exit_code=3))
    logs, scandir, listdir, stat = record.log_dir("n1"), os.scandir, os.listdir, os.stat

    def refused(call: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(path: Any = ".", *more: Any, **named: Any) -> Any:
            if str(path).startswith(str(logs.parent)):  # also for root
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *more, **named)

        return maybe

    for name, call in (("scandir", scandir), ("listdir", listdir), ("stat", stat)):
        monkeypatch.setattr(os, name, refused(call))
    assert "No logs were kept" in page(post_mortem(record))


def test_output_that_says_no_more_is_only_named(record: Record, tmp_path: Path) -> None:
    output = tmp_path / "job.out"
    output.write_text("raycluster: error: the driver 'x' was not found in PATH.\n")
    change_head(record, output=str(output))
    record.write_end(EndReport(NOW, 2, "error", "n1", "the driver 'x' was not found in PATH."))
    text = page(post_mortem(record), width=300)
    assert f"Output: {output}\n" in text and "Last lines" not in text


def test_clock_two_minutes_off(record: Record) -> None:
    """By its own clock n3's raylet died before n2's; by the file server's clock after it."""
    record.write_end(EndReport(NOW, 5, "worker-lost", "n2", "worker n2 is lost"))
    for host, skew_s, ago_s in (("n2", 0, 3), ("n3", -120, 1)):
        deaths = (ProcessDeath("raylet", 7, -9, NOW - ago_s + skew_s),)
        record.write_node(reported(host, phase="failed", updated=NOW + skew_s, deaths=deaths))
        os.utime(record.path / "nodes" / f"{host}.json", (NOW, NOW))
    post = post_mortem(record)
    assert [death.host for death in post.deaths] == ["n2", "n3"]
    assert "n3 (-120 s)" in page(post)


def test_good_end_and_no_end(record: Record) -> None:
    record.write_node(reported("n1", "head", "driver running", exit_code=None))
    text = page(post_mortem(record))
    assert text.splitlines()[1:4] == ["  runs", "", "State"]
    record.write_end(EndReport(NOW, 0, "driver", "", "the driver ended with code 0"))
    assert judge(post_mortem(record)) == ("Nothing went wrong.", (), None)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (EndReport(NOW, 137, "driver", "n1", "the driver was killed by SIGKILL"), "was killed by SIGKILL"),
        (EndReport(NOW, 7, "driver", "n1", "the driver ended with code 7"), "ended with code 7"),
        (EndReport(NOW, 143, "signal", "n1", "ended by SIGTERM"), "cancelled"),
        (EndReport(NOW, 4, "error", "", "1 of 2 workers did not join"), "missing at the deadline"),
    ],
)
def test_reasons_without_a_known_text(record: Record, end: EndReport, text: str) -> None:
    record.write_end(end)
    assert text in judge(post_mortem(record))[0]


def test_one_page(record: Record) -> None:
    """Of 500 nodes that failed together a page tells the first, and counts the rest."""
    record.write_end(EndReport(NOW, 5, "head-lost", "n1", "the head's GCS is gone"))
    for number in range(500):
        record.write_node(reported(f"n{number}", phase="failed", exit_code=5))
    text = page(post_mortem(record))
    assert "and 488 more" in text
    assert len(text.splitlines()) < 60


def test_command(record: Record, tmp_path: Path) -> None:
    record.write_end(EndReport(NOW, 5, "worker-lost", "n2", "worker n2 is lost"))
    state = ["--state-dir", str(tmp_path / "state")]
    done = CliRunner().invoke(app, ["why", "4711", "--json", *state])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["failed_host"] == json.loads(done.output)["culprit"] == "n2"
    assert "Likely cause" in CliRunner().invoke(app, ["why", *state]).output


@pytest.mark.parametrize("width", [40, 80, 110])
def test_the_page_fits_and_cuts_no_word(record: Record, width: int) -> None:
    long = " ".join(f"word{number}" for number in range(60))
    record.write_end(EndReport(NOW, 5, "worker-lost", "n2", f"worker n2 is lost: {long}"))
    record.write_node(reported("n2", phase="failed", exit_code=5, message=long))
    record.append_event(f"worker n2 {long}")
    (record.log_dir("n2") / "raylet.err").write_text(f"{long}\n")
    text = page(post_mortem(record), width=width)
    paths = ("Logs: ", "Last lines of ")
    assert [line for line in text.splitlines() if len(line) > width and not line.startswith(paths)] == []
    text = text.replace("word59.", "word59")
    assert text.split().count("word59") == text.split().count("word7") >= 4


def test_a_driver_that_did_not_use_the_cluster(record: Record) -> None:
    text = "the driver ended with code 0 after 5 s; no driver has connected to this cluster"
    record.write_end(EndReport(NOW, 0, "driver", "", text))
    verdict, remedies, _ = judge(post_mortem(record))
    assert "did not use this cluster" in verdict
    assert 'address="local" starts another Ray' in remedies[0]


def test_of_many_hosts_those_that_failed_are_searched(record: Record) -> None:
    record.write_end(EndReport(NOW, 5, "head-lost", "n1", "the head's GCS is gone"))
    for number in range(1, 41):
        record.write_node(
            reported(f"n{number}", phase="failed" if number == 40 else "gone", exit_code=number // 40)
        )
        (record.log_dir(f"n{number}") / "raylet.err").write_text("fine\n")
    (record.log_dir("n30") / "raylet.err").write_text("OSError: No space left on device\n")
    assert judge(post_mortem(record)).shown_by is None
    (record.log_dir("n40") / "raylet.err").write_text("OSError: No space left on device\n")
    shown = judge(post_mortem(record)).shown_by
    assert shown is not None and shown.where == "n40/raylet.err"


def test_a_run_that_fails_before_it_has_a_head_is_not_explained_by_the_one_before(tmp_path: Path) -> None:
    record = Record.create(tmp_path / "state", "c", "4711")
    record.write_node(reported("n1", role="head", phase="failed", exit_code=2))
    record.write_end(EndReport(NOW, 2, "error", "n1", "the driver '/no/such' does not exist"))
    output = tmp_path / "job.out"
    output.write_text(
        "raycluster: 2 nodes ready at 10.0.0.1:20000 after 1 s; driver: python a.py\n"
        "Traceback (most recent call last):\n  File 'a'\nModuleNotFoundError: No module named 'x'\n"
        "raycluster: the driver ended with code 1 after 3 s; exit code 1\n"
        "raycluster: error: the driver '/no/such' does not exist\n"
    )
    assert "does not exist" in judge(post_mortem(record, outputs=[output])).verdict
