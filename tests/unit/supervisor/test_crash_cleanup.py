"""What the keeper writes when its supervisor was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.model.record import HeadInfo, NodeReport
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.crash_cleanup import record_killed_supervisor

MESSAGE = "raycluster on n1 (process 7) was killed by SIGKILL"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    record = Record.create(tmp_path / "state", "tux", "12")
    for host, role in (("n1", "head"), ("n2", "worker")):
        record.write_node(NodeReport(host, role, "joined", pid=7, message="well"))
    return record


def notes(record: Record, host: str, role: str, **more: str) -> dict[str, str]:
    return {"host": host, "role": role, "record": str(record.path), "keep_logs": "never", "step": "0"} | more


def test_the_end_of_a_head_is_written_and_its_own_word(record: Record) -> None:
    record.write_head(HeadInfo("n1", "10.0.0.1", 20000))
    record_killed_supervisor(notes(record, "n1", "head"), MESSAGE, 137)
    end, word = record.read_end(), record.read_node("n1")
    assert end is not None and word is not None
    assert (end.exit_code, end.reason, end.failed_host) == (137, "supervisor-killed", "n1")
    assert (word.phase, word.exit_code, word.message) == ("failed", 137, MESSAGE)
    assert [(one.name, one.code) for one in word.deaths] == [("raycluster", -9)]
    assert record.read_refusal("0") is None


def test_a_head_that_had_not_named_itself_leaves_a_word_for_its_step(record: Record) -> None:
    record_killed_supervisor(notes(record, "n1", "head"), MESSAGE, 137)
    refusal = record.read_refusal("0")
    assert refusal is not None
    assert refusal.message == MESSAGE


def test_a_worker_writes_its_own_word_alone(record: Record) -> None:
    record_killed_supervisor(notes(record, "n2", "worker"), MESSAGE, 137)
    word = record.read_node("n2")
    assert word is not None
    assert word.phase == "failed"
    assert record.read_end() is record.read_refusal("0") is None


def test_nobody_is_left_to_be_told_of_a_record_that_has_gone(tmp_path: Path) -> None:
    lost = {"host": "n1", "role": "head", "record": str(tmp_path / "gone"), "keep_logs": "always"}
    record_killed_supervisor(lost, MESSAGE, 137)
    record_killed_supervisor({"host": "n1"}, MESSAGE, 137)
