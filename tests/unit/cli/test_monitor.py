"""The monitor without a terminal: lines told once, exit codes, files for Prometheus."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path

import pytest

from raycluster_cli.cli import feed
from raycluster_cli.cli.changes import Changes
from raycluster_cli.cli.monitor import Options, exit_code, monitor, view_after, write_prometheus
from raycluster_cli.cli.screen import View
from raycluster_cli.cli.terminal import split_keys
from raycluster_cli.model.cluster_status import ClusterPhase
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import EndReport
from raycluster_cli.model.status import NodePhase
from raycluster_cli.ops.reader import read_cluster
from tests.unit.records_by_hand import write_record
from tests.waiting import wait_until


def test_each_thing_is_told_once(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    changes = Changes()
    first = changes.lines(read_cluster(record))
    assert len(first) == 3
    assert first[-1].endswith("running: driver runs on 3 nodes; 1 h 29 min left")
    assert changes.lines(read_cluster(record)) == []
    record.append_event("worker n003 is lost: raylet died")
    assert [line[9:] for line in changes.lines(read_cluster(record))] == ["worker n003 is lost: raylet died"]
    assert len(changes.lines(read_cluster(record, now=time.time() + 61))) == 1  # a sign of life


def test_lines_until_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "READ_S", 0.02)
    record, metrics = write_record(tmp_path, 3), tmp_path / "out.prom"

    def end() -> None:
        wait_until(metrics.exists, timeout_s=30, what="the first look", interval_s=0.01)
        now = time.time()
        head = record.read_node("n001")
        assert head is not None
        phases = {**head.phases, "gone": now}
        record.write_end(EndReport(now, 7, "driver", "", "the driver ended with code 7"))
        record.write_node(dataclasses.replace(head, phase=NodePhase.GONE.value, phases=phases, updated=now))

    ending = threading.Thread(target=end)
    ending.start()
    status = monitor(record, lambda: None, Options(prometheus=metrics), {})
    ending.join()
    assert status.phase is ClusterPhase.FAILED
    assert exit_code(status) == 7
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("worker n002 joined (10.0.0.2)")
    assert out[-1].endswith("failed: the driver ended with code 7 (exit code 7)")
    assert 'state="failed"} 1' in metrics.read_text()


def test_once_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = write_record(tmp_path, 3)
    monitor(record, lambda: None, Options(once=True, as_json=True), {})
    assert json.loads(capsys.readouterr().out)["state"] == "running"


def test_once_without_a_terminal_has_no_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor(write_record(tmp_path, 3), lambda: None, Options(once=True), {})
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize(
    ("case", "code"),
    [({}, 0), ({"starting": 1, "age_s": 3.0}, 4), ({"failed": 1}, 5)],
)
def test_exit_codes_of_what_runs(tmp_path: Path, case: dict[str, float], code: int) -> None:
    assert exit_code(read_cluster(write_record(tmp_path, 3, **case))) == code  # type: ignore[arg-type]


def test_keys(tmp_path: Path) -> None:
    assert split_keys("gj\x1b[6~\x1bOAq") == ["g", "j", "\x1b[6~", "\x1b[A", "q"]
    assert split_keys("\x1b") == ["\x1b"]
    status = read_cluster(write_record(tmp_path, 30))
    view = view_after(View(), "\x1b[B", status, 24)
    assert view.offset == 1
    assert view_after(view, "\x1b[F", status, 24).offset == 29
    assert view_after(view, "g", status, 24).groups is False
    assert view_after(view, "x", status, 24) == view


def test_a_prometheus_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RayclusterError, match="cannot write"):
        write_prometheus(tmp_path / "no" / "file", read_cluster(write_record(tmp_path, 2)))
