"""The record on a real file system: leases between processes, reports, and what can be wrong."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from raycluster_cli.model.record import SCHEMA, EndReport, HeadInfo, NodeReport, encode
from raycluster_cli.state import record as module
from raycluster_cli.state.record import Record

ROOT = os.geteuid() == 0
NOBODY = 65534
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: to be another user, or to mount")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- reports ---------------------------------------------------------------------------------------


def test_what_is_written_is_read(record: Record) -> None:
    head = HeadInfo(
        "a1", "10.0.0.1", 20480, driver=("python", "train.py"), ports={"gcs": 20480, "worker_list": [1]}
    )
    report = NodeReport(
        "a1", "head", "joined", phases={"launched": 1.5}, pid=7, create_time=99, exit_code=0, updated=2.5
    )
    end = EndReport(3.5, 7, "driver", "a1", "ended with code 7")
    record.write_head(head)
    record.write_node(report)
    record.write_end(end)
    other = Record.open(record.path)
    assert other.read_head() == head
    assert other.read_node("a1") == report
    assert other.read_nodes() == {"a1": report}
    assert other.read_end() == end
    assert (other.slurm_cluster, other.key, other.name) == ("tux", "123", "")


def test_every_file_has_a_schema_and_is_for_the_user_alone(record: Record) -> None:
    os.umask(old := os.umask(0))
    try:
        os.umask(0)
        record.write_head(HeadInfo("a", "10.0.0.1", 1))
        record.write_node(NodeReport("a", "head", "joined"))
        record.make_token()
        record.append_event("began")
        record.log_dir("a")
    finally:
        os.umask(old)
    assert json.loads((record.path / "head.json").read_text())["schema"] == SCHEMA
    for directory in (record.path.parent.parent, record.path.parent, record.path, record.path / "nodes"):
        assert mode(directory) == 0o700
    for name in ("head.json", "nodes/a.json", "token", "events.log"):
        assert mode(record.path / name) == 0o600


def test_fields_of_a_newer_version_are_ignored_and_missing_ones_have_their_default(record: Record) -> None:
    newer = {"schema": 9, "host": "a", "address_ip": "::1", "port": 5, "colour": {"red": 1}}
    (record.path / "head.json").write_text(json.dumps(newer))
    assert record.read_head() == HeadInfo("a", "::1", 5)
    assert HeadInfo("a", "::1", 5).address == "[::1]:5"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"x"', '{"host": "a"}', '{"host": 3, "address_ip": "x", "port": 1}'),
        *(
            '{"host": "a", "address_ip": "x", "port": true}',
            '{"host": "a", "address_ip": "x", "port": 1, "driver": 3}',
        ),
    ],
)
def test_a_file_that_is_empty_partial_or_not_ours_reads_as_none(record: Record, text: str) -> None:
    (record.path / "head.json").write_text(text)
    assert record.read_head() is None


def test_what_is_missing_reads_as_none(record: Record) -> None:
    assert record.read_head() is record.read_end() is record.read_node("a") is record.stop_requested() is None
    assert record.read_token() is None
    assert record.read_nodes() == {}
    assert record.read_events() == []
    gone = Record(record.path / "gone", "tux", "1", "")
    assert gone.read_nodes() == {}
    assert not gone.append_event("nobody hears this")


def test_a_thousand_nodes_are_listed_and_no_report_is_opened_twice(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1000):
        (record.path / "nodes" / f"n{n:04}.json").write_bytes(
            encode(NodeReport(f"n{n:04}", "worker", "joined", phases={"launched": 1.0})).encode()
        )
    assert len(record.read_nodes()) == 1000
    monkeypatch.setattr(module, "read_bytes", lambda path: pytest.fail(f"{path} is opened again"))
    assert len(record.read_nodes()) == 1000


def test_an_unchanged_report_is_not_opened_again_and_a_changed_one_is(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.write_node(NodeReport("a", "worker", "launched"))
    record.write_node(NodeReport("b", "worker", "launched"))
    record.read_nodes()
    opened: list[str] = []
    real = module.read_bytes
    monkeypatch.setattr(module, "read_bytes", lambda path: opened.append(path.name) or real(path))
    record.write_node(NodeReport("b", "worker", "joined"))
    assert record.read_nodes()["b"].phase == "joined"
    assert opened == ["b.json"]
    (record.path / "nodes" / "a.json").write_text("{")  # as a reader may see it on a slow file system
    assert record.read_nodes()["a"].phase == "launched"


# -- the place of the head -----------------------------------------------------------------------


def test_the_next_cluster_of_the_same_key_starts_afresh(record: Record) -> None:
    record.take_lease()
    token = record.make_token()
    record.write_head(HeadInfo("a", "10.0.0.1", 1, identity="old"))
    record.write_node(NodeReport("a", "head", "gone"))
    record.write_node(NodeReport("b", "worker", "joined"))
    record.append_event("old")
    record.request_stop("enough")
    record.tell_loss("ab12")
    for name in ("groups.json", "scale.json", "worker-jobs.json"):
        (record.path / name).write_text("{}")
    time.sleep(0.02)
    record.write_end(EndReport(1.0, 0))
    time.sleep(0.02)
    record.write_node(NodeReport("c", "worker", "waiting for head"))  # of the next cluster, before its head
    record.write_node(NodeReport("d", "worker", "gone"))  # of the old one, late

    again = Record.create(record.path.parent.parent, "tux", "123")
    again.take_lease()
    assert again.read_head() is again.read_end() is again.stop_requested() is again.read_token() is None
    assert set(again.read_nodes()) == {"c"}
    assert again.read_events() == again.lost_node_ids() == []
    assert again.make_token() != token
    earlier = record.path / "earlier" / "1"
    assert json.loads((earlier / "head.json").read_text())["identity"] == "old"
    assert {path.stem for path in (earlier / "nodes").iterdir()} == {"a", "b", "d"}
    assert not (earlier / "token").exists()
    # its worker jobs are not taken for those of the next
    assert not [*record.path.glob("*s.json"), *record.path.glob("scale.json")]


def test_many_runs_under_one_key_leave_the_last_one(record: Record) -> None:
    sizes = []
    for number in range(20):
        record.take_lease()
        record.write_head(HeadInfo("a", "10.0.0.1", 1, identity=str(number)))
        record.write_node(NodeReport("a", "head", "gone"))
        record.append_event("x" * 1000)
        record.write_end(EndReport(1.0, 0))
        record.remove_earlier()
        sizes.append(sum(1 for path in record.path.rglob("*") if path.is_file()))
    assert sizes[-1] == sizes[10]
    assert [path.name for path in (record.path / "earlier").iterdir()] == ["19"]
    assert json.loads((record.path / "earlier/19/head.json").read_text())["identity"] == "18"
    assert record.leases.holder() is not None
    assert (record.path / "head.claim.20").exists()
    assert not (record.path / "head.claim.1").exists()


# -- stop and losses ------------------------------------------------------------------------------


def test_a_node_tells_of_its_dead_raylet(record: Record) -> None:
    assert record.lost_node_ids() == []
    assert record.tell_loss("ab12")
    assert record.tell_loss("ab12")
    assert record.lost_node_ids() == ["ab12"]


def test_a_loss_that_cannot_be_told_is_no_error(tmp_path: Path) -> None:
    gone = Record(tmp_path / "gone", "local", "1", "")
    assert not gone.tell_loss("ab12")
    assert gone.lost_node_ids() == []


def test_the_first_who_asks_for_the_end_stands(record: Record) -> None:
    record.request_stop("tired", by="ann@login1")
    record.request_stop("me too", by="bob@login2")
    asked = Record.open(record.path).stop_requested()
    assert asked is not None and (asked.by, asked.reason) == ("ann@login1", "tired")


def test_whether_the_head_wrote_since_a_node_did(tmp_path: Path) -> None:
    """By the files' times, which are the file server's."""
    record = Record.create(tmp_path, "tux", "4711")
    assert not record.head_wrote_since("n2", 5.0)
    record.write_node(NodeReport("n2", "worker", "stopping"))
    assert not record.head_wrote_since("n2", 5.0)
    (record.path / "events.log").write_text("{}")
    reported = (record.path / "nodes/n2.json").stat().st_mtime
    for seconds, wrote in ((-60.0, False), (-8.0, False), (-4.0, True), (3.0, True)):
        os.utime(record.path / "events.log", (reported + seconds, reported + seconds))
        assert record.head_wrote_since("n2", 5.0) is wrote
    os.utime(record.path / "events.log", (reported - 60, reported - 60))
    record.write_end(EndReport(1.0, 0, "driver"))
    assert record.head_wrote_since("n2", 5.0)
