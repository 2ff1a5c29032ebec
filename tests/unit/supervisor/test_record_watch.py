"""What a head does about what others leave in its record."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from raycluster_cli.model.record import HeadInfo
from raycluster_cli.policy import events as on
from raycluster_cli.policy.head_state import HeadState
from raycluster_cli.policy.values import Worker
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.record_watch import RECORD_POLL_S, remove_old_records, watch_record
from tests.unit.loops import in_loop

from .scene import Scene, until


@in_loop
async def test_a_request_to_stop_is_posted_once_and_ends_the_watch(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.record is not None
    watching = asyncio.ensure_future(watch_record(scene.parts, scene.record, HeadState))
    await asyncio.sleep(3 * RECORD_POLL_S)
    assert not watching.done()
    scene.record.request_stop(by="ada@login")
    await watching
    assert scene.posted == [on.StopRequested("ada@login")]
    await scene.close()


@in_loop
async def test_a_raylet_whose_worker_reports_its_death_has_left(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.record is not None
    worker = Worker("bb", "n2", "10.0.0.2")
    state = HeadState(workers={"bb": worker})
    watching = asyncio.ensure_future(watch_record(scene.parts, scene.record, lambda: state))
    scene.record.tell_loss("ee")  # of an earlier cluster
    await asyncio.sleep(3 * RECORD_POLL_S)
    assert scene.posted == []
    scene.record.tell_loss("bb")
    await until(lambda: bool(scene.posted))
    state = HeadState()  # the policy has taken it out
    count = len(scene.posted)
    await asyncio.sleep(3 * RECORD_POLL_S)
    assert scene.posted == [on.WorkerLeft(worker)] * count
    watching.cancel()
    await scene.close()


@in_loop
async def test_the_lease_is_renewed_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.record is not None
    scene.record.take_lease(host="n1")
    before = time.time()
    watching = asyncio.ensure_future(watch_record(scene.parts, scene.record, HeadState))
    await asyncio.sleep(RECORD_POLL_S)
    beat = scene.record.leases.last_heartbeat()
    assert beat is not None and beat >= before - 1
    watching.cancel()
    await scene.close()


@in_loop
async def test_a_record_that_cannot_be_written_is_only_noted(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.record is not None
    scene.record.path.rename(tmp_path / "away")
    await scene.parts.reports.quietly(scene.record.write_head, HeadInfo("n1", "10.0.0.1", 1))
    await until(lambda: bool(scene.said))
    assert [line.partition(": ")[0] for line in scene.said] == ["the record could not be written"]
    await scene.close()


@in_loop
async def test_what_earlier_clusters_of_this_key_have_left_is_removed_but_for_the_last(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    record = scene.record
    assert isinstance(record, Record)
    for number in (1, 2, 10):
        (record.path / "earlier" / str(number)).mkdir(parents=True)
    await remove_old_records(scene.parts, record)
    assert [path.name for path in (record.path / "earlier").iterdir()] == ["10"]
    await scene.close()
