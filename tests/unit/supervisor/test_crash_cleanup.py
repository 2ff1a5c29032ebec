"""What the keeper reports when its supervisor crashed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from raycluster_cli.model.record import EndReport, HeadInfo, NodeReport
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.crash_cleanup import clear_node, report_crash
from raycluster_cli.system.keeper_link import KeeperNotes

MESSAGE = "raycluster on n1 (process 7) was killed by SIGKILL"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    record = Record.create(tmp_path / "state", "tux", "12")
    for host, role in (("n1", "head"), ("n2", "worker")):
        record.write_node(NodeReport(host, role, "joined", pid=7, message="well"))
    return record


def notes(record: Record, host: str, role: str) -> KeeperNotes:
    return KeeperNotes(host, role, record=str(record.path), keep_logs="never", step="0")


def test_the_end_of_a_head_is_written_and_its_nodes_report(record: Record) -> None:
    record.write_head(HeadInfo("n1", "10.0.0.1", 20000))
    report_crash(notes(record, "n1", "head"), MESSAGE, -9)
    end, report = record.read_end(), record.read_node("n1")
    assert end is not None
    assert report is not None
    assert (end.exit_code, end.reason, end.failed_host) == (137, "supervisor-killed", "n1")
    assert (report.phase, report.exit_code, report.message) == ("failed", 137, MESSAGE)
    assert (report.reason, report.detail, end.detail) == ("supervisor-killed", "", "")
    assert [(one.name, one.code) for one in report.deaths] == [("raycluster", -9)]
    assert record.read_refusal("0") is None


def test_a_keeper_that_was_killed_too_is_told_of_head_and_worker(record: Record) -> None:
    for host, role in (("n1", "head"), ("n2", "worker")):
        report_crash(notes(record, host, role), MESSAGE, -9, "keeper-too")
        report = record.read_node(host)
        assert report is not None and report.detail == "keeper-too"
    end = record.read_end()
    assert end is not None and (end.failed_host, end.detail) == ("n1", "keeper-too")


def test_a_head_that_had_not_named_itself_tells_its_step(record: Record) -> None:
    report_crash(notes(record, "n1", "head"), MESSAGE, -9)
    refusal = record.read_refusal("0")
    assert refusal is not None
    assert refusal.message == MESSAGE


def test_a_worker_reports_only_its_own_end(record: Record) -> None:
    report_crash(notes(record, "n2", "worker"), MESSAGE, -9)
    report = record.read_node("n2")
    assert report is not None
    assert report.phase == "failed"
    assert record.read_end() is record.read_refusal("0") is None


def test_an_exit_by_an_error(record: Record) -> None:
    report_crash(notes(record, "n1", "head"), "exited with code 1", 1)
    end, report = record.read_end(), record.read_node("n1")
    assert end is not None
    assert report is not None
    assert (end.exit_code, end.reason) == (1, "bug")
    assert (report.phase, report.exit_code, report.deaths[-1].code) == ("failed", 1, 1)


def test_what_was_reported_already_stays(record: Record) -> None:
    report = record.read_node("n1")
    assert report is not None
    record.write_node(dataclasses.replace(report, phase="gone", message="done", exit_code=0))
    record.write_end(EndReport(1.0, 0, "driver", "", "done"))
    report_crash(notes(record, "n1", "head"), MESSAGE, -9)
    end, report = record.read_end(), record.read_node("n1")
    assert end is not None
    assert report is not None
    assert (end.message, report.message) == ("done", "done")


def test_a_record_or_a_directory_that_has_gone_is_no_error(tmp_path: Path) -> None:
    lost = KeeperNotes("n1", "head", record=str(tmp_path / "gone"), keep_logs="always")
    report_crash(lost, MESSAGE, -9)
    clear_node(KeeperNotes(host="n1"))
    clear_node(KeeperNotes(host="n1", node_root=str(tmp_path / "none" / "here")))
