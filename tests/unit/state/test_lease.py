"""The head's lease: exactly one process has it, and when it is over."""

from __future__ import annotations

import errno
import json
import os
import time

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.record import EndReport, Lease, encode
from raycluster_cli.state.lease import Leases
from raycluster_cli.state.record import Record
from raycluster_cli.system.proctree import ProcessRef, identify


def test_a_second_head_is_refused_and_the_first_is_named(record: Record) -> None:
    lease = record.take_lease(host="a1")
    with pytest.raises(
        UsageError, match=rf"already has a head: raycluster on a1, pid {os.getpid()}, since \d{{4}}-"
    ):
        Record.open(record.path).take_lease(host="a2")
    assert record.leases.holder() == lease
    assert lease.create_time == identify(os.getpid()).start_ticks  # type: ignore[union-attr]


def test_a_lease_of_a_reused_process_id_is_over(record: Record) -> None:
    record.take_lease()
    lease = record.path / "head.claim.1"
    values = json.loads(lease.read_text())
    lease.write_text(json.dumps({**values, "create_time": values["create_time"] - 5}))
    Record.open(record.path).take_lease()


def test_a_lease_of_another_host_expires_only_without_heartbeats(record: Record) -> None:
    record.take_lease(host="a1")
    lease = record.path / "head.claim.1"
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "boot_id": "another", "pid": 1}))
    second = Record.open(record.path)
    os.utime(lease, (time.time() - 170, time.time() - 170))
    with pytest.raises(UsageError, match="on a1"):
        second.take_lease()
    os.utime(lease, (time.time() - 190, time.time() - 190))
    record.leases.beat()
    with pytest.raises(UsageError, match="on a1"):
        second.take_lease()
    os.utime(lease, (time.time() - 190, time.time() - 190))
    second.take_lease(host="a2")
    holder = record.leases.holder()
    assert holder is not None and holder.host == "a2"


def test_without_hard_links_the_lease_is_still_exclusive(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    record.take_lease(host="a1")
    with pytest.raises(UsageError, match="on a1"):
        Record.open(record.path).take_lease()


def test_the_holder_is_identified_by_process_id_and_start(record: Record) -> None:
    lease = record.take_lease()
    asked: list[ProcessRef] = []
    with pytest.raises(UsageError):
        Record.open(record.path).take_lease(alive=lambda ref: asked.append(ref) or True)  # type: ignore[func-returns-value]
    assert asked == [ProcessRef(lease.pid, lease.create_time)]


def held_elsewhere(record: Record, age_s: float = 0.0) -> None:
    """Make the last lease one of a process in another kernel, touched ``age_s`` ago."""
    lease = max(record.path.glob("head.claim.*"))
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "boot_id": "another"}))
    os.utime(lease, (time.time() - age_s, time.time() - age_s))


def test_a_recorded_end_frees_the_lease_at_once(record: Record) -> None:
    record.take_lease(host="a1")
    held_elsewhere(record)
    record.write_end(EndReport(1.0, 0))
    assert Record.open(record.path).take_lease(host="a2").host == "a2"


def test_whether_the_head_runs_is_known_only_on_its_own_host(record: Record) -> None:
    assert record.leases.head_runs_here() is None
    record.take_lease()
    assert record.leases.head_runs_here() is True
    lease = record.path / "head.claim.1"
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "create_time": 1}))
    assert record.leases.head_runs_here() is False
    held_elsewhere(record)
    assert record.leases.head_runs_here() is None


def test_the_last_heartbeat_is_that_of_the_last_lease(record: Record) -> None:
    assert record.leases.last_heartbeat() is None
    record.leases.beat()  # without a lease of its own nothing happens
    record.take_lease()
    held_elsewhere(record, age_s=1000)
    first = record.leases.last_heartbeat()
    assert first is not None
    record.leases.beat()
    assert record.leases.last_heartbeat() > first + 900  # type: ignore[operator]
    held_elsewhere(record, age_s=1000)
    Record.open(record.path).take_lease()
    assert record.leases.last_heartbeat() > first + 900  # type: ignore[operator]


def test_a_record_that_is_gone_has_no_head(record: Record) -> None:
    gone = Record(record.path / "gone", "tux", "1", "")
    assert gone.leases.last_heartbeat() is gone.leases.head_runs_here() is None


def test_the_maker_of_a_lease_that_is_not_written_yet_is_waited_for(record: Record) -> None:
    """Without link(2) a lease is made first and then written."""
    lease = record.path / "head.claim.1"
    lease.write_text("")
    waits: list[float] = []

    def write(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 3:
            lease.write_text(encode(Lease("a1", 7, 8, 9.0)))

    leases = Leases(record.path, lambda: False, sleep=write)
    assert leases.holder() == Lease("a1", 7, 8, 9.0)
    lease.write_text("")
    assert leases.holder() is None  # its maker died before it was written
    assert sum(waits) == pytest.approx(1.15)
    assert leases.take(host="a2")[0].host == "a2"


def test_a_lease_has_expired_when_its_holder_has_gone(record: Record) -> None:
    assert not record.leases.has_expired()  # there was none
    record.take_lease()
    assert not record.leases.has_expired()
    assert record.leases.has_expired(alive=lambda ref: False)
    held_elsewhere(record, age_s=170)
    assert not record.leases.has_expired()
    held_elsewhere(record, age_s=190)
    assert record.leases.has_expired()
