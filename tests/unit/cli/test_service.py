"""`raycluster url` and `tunnel` on records written by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pty
import sys
import time
from pathlib import Path

import pytest

from raycluster_cli.cli.service import Progress, url
from raycluster_cli.model.record import EndReport
from raycluster_cli.model.service import ServiceReport
from raycluster_cli.ops.clusters import job_without_record
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.record import Record
from tests.unit.cli.test_commands import Call, call, said, slurm
from tests.unit.records_by_hand import change_head, write_record
from tests.unit.slurm_by_hand import SlurmCommands

__all__ = ["call", "slurm"]


def serving(where: Path, state: str = "ready", listens_on: str = "0.0.0.0") -> Record:
    """A cluster of two nodes with a server."""
    record = write_record(where, 2)
    change_head(record, service=True)
    record.write_service(
        ServiceReport(state, time.time(), "10.0.0.1", 20491, listens_on, message="no answer")
    )
    return record


@pytest.mark.parametrize(
    ("state", "code", "text"),
    [
        ("ready", 0, ""),
        ("starting", 4, "server is starting"),
        ("restarting", 4, "server is restarting: no answer"),
        ("unhealthy", 5, "server is unhealthy: no answer"),
    ],
)
def test_url_prints_it_and_its_code_says_whether_it_is_ready(
    call: Call, tmp_path: Path, state: str, code: int, text: str
) -> None:
    record = serving(tmp_path, state)
    found = call("url", record.key)
    assert found.exit_code == code
    assert found.stdout == "http://10.0.0.1:20491\n"
    assert text in found.stderr
    as_json = json.loads(call("url", record.key, "--json").stdout)
    assert (as_json["service"]["state"], as_json["service"]["url"]) == (state, "http://10.0.0.1:20491")


def test_url_gives_up_after_its_wait(call: Call, tmp_path: Path) -> None:
    record = serving(tmp_path, "starting")
    found = call("url", record.key, "--wait", "0")
    assert (found.exit_code, found.stdout) == (4, "http://10.0.0.1:20491\n")


def test_url_of_one_of_several_clusters_asks_which(call: Call, tmp_path: Path) -> None:
    for key in ("4711", "4712"):
        write_record(tmp_path, 2, key=key, cluster="local")
    for wait in ((), ("--wait", "0")):
        found = call("url", *wait)
        assert "2 clusters run: " in said(found)


def shown_on(terminal: int) -> str:
    """All that was written to a terminal whose other end is closed; closes this end."""
    shown = b""
    with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as file:
        while data := file.read(65536):
            shown += data
    return shown.decode()


def test_on_a_terminal_the_line_of_progress_is_cleared_before_the_url(
    slurm: SlurmCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = serving(tmp_path, "starting")
    service = record.read_service()
    assert service is not None
    record.write_service(dataclasses.replace(service, message="GET /health says \x1b[2J"))
    ours, theirs = pty.openpty()
    monkeypatch.setenv("PATH", slurm.path)
    with open(theirs, "w") as terminal, monkeypatch.context() as changed:
        changed.setattr(sys, "stderr", terminal)
        with pytest.raises(SystemExit):
            url(record.key, False, 0.0, str(tmp_path))
    *progress, rest = shown_on(ours).split("\r\x1b[K")
    assert r"server is starting: GET /health says \x1b[2" in progress[-1]  # escaped
    assert rest.startswith("raycluster: ")


def test_url_of_a_server_on_its_own_node_points_to_the_tunnel(call: Call, tmp_path: Path) -> None:
    record = serving(tmp_path, listens_on="127.0.0.1")
    found = call("url", record.key)
    assert (found.exit_code, found.stdout) == (0, "http://127.0.0.1:20491\n")
    assert f"raycluster tunnel {record.key}" in found.stderr


def test_url_of_a_cluster_without_a_server(call: Call, tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    found = call("url", record.key)
    assert found.exit_code == 1
    assert "was started without --service" in said(found)


def test_url_of_a_cluster_that_has_ended(call: Call, tmp_path: Path) -> None:
    record = serving(tmp_path)
    record.write_end(EndReport(time.time() - 100, 0, "idle", "", "the server had no work for 30 min 0 s"))
    found = call("url", record.key)
    assert found.exit_code == 1
    assert "has ended: the server had no work for 30 min 0 s" in said(found)


def test_urls_code_of_a_cluster_that_has_ended_is_not_the_jobs(call: Call, tmp_path: Path) -> None:
    record = serving(tmp_path)
    record.write_end(EndReport(time.time() - 100, 5, "service", "", "the server was not ready"))
    found = call("url", record.key, "--json")
    assert (found.exit_code, json.loads(found.stdout)["service"]) == (1, None)


@pytest.mark.parametrize(
    ("listens_on", "words", "shown"),
    [
        ("0.0.0.0", (), "ssh -N -L 20491:10.0.0.1:20491 "),
        ("127.0.0.1", (), "ssh -N -L 20491:127.0.0.1:20491 -J "),
        ("0.0.0.0", ("6006", "--port", "7000"), "ssh -N -L 7000:127.0.0.1:6006 -J "),
    ],
)
def test_tunnel_prints_the_way(
    call: Call, tmp_path: Path, listens_on: str, words: tuple[str, ...], shown: str
) -> None:
    record = serving(tmp_path, listens_on=listens_on)
    found = call("tunnel", record.key, *words)
    assert found.exit_code == 0, said(found)
    assert shown in found.stdout


def test_no_tunnel_is_needed_to_a_local_cluster(call: Call, tmp_path: Path) -> None:
    record = write_record(tmp_path, 2, key="local-1", cluster="local")
    found = call("tunnel", record.key, "6006")
    assert (found.exit_code, found.stdout) == (0, "http://127.0.0.1:6006\n")


def test_status_shows_the_server(call: Call, tmp_path: Path) -> None:
    record = serving(tmp_path, "unhealthy")
    page = " ".join(call("status", record.key, COLUMNS="140").output.split())
    assert "Server is unhealthy: no answer" in page or "server is unhealthy: no answer" in page
    assert "unhealthy: " in call("status", COLUMNS="140").output


@pytest.mark.parametrize(
    ("waited_s", "text"),
    [
        (1.0, "job 4711: the job runs; raycluster has not started in it yet (1.0 s)"),
        (40.0, "job 4711: Slurm says running, but there is no record of a cluster: raycluster has not"),
    ],
)
def test_a_job_that_has_just_begun_is_no_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], waited_s: float, text: str
) -> None:
    times = iter([0.0, waited_s])
    job = Job("4711", "4711", "RUNNING")
    with Progress(tmp_path, {}, clock=lambda: next(times)) as progress:
        progress.tell(job_without_record(job))
    assert text in capsys.readouterr().err
