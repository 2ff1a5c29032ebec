"""How often nodes ask: soon in a small job, without a storm in a large one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raycluster_cli.model.record import NodeReport
from raycluster_cli.model.status import NodePhase
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.discovery import Pace
from raycluster_cli.supervisor.report_writer import ReportWriter
from tests.unit.loops import run_loop


def steady(nodes: int) -> Pace:
    """The pace of a worker that has looked in vain for a while, without jitter."""
    pace = Pace.of(nodes)
    pace.jitter = lambda: 1.0
    for _ in range(30):
        pace.next_probe_s()
        pace.next_poll_s(known=False)
    return pace


@pytest.mark.parametrize(("nodes", "most_s"), [(2, 0.05), (64, 0.1), (1000, 0.6)])
def test_a_head_that_listens_is_found_soon(nodes: int, most_s: float) -> None:
    assert steady(nodes).next_probe_s() < most_s


@pytest.mark.parametrize("nodes", [2, 64, 1000, 5000])
def test_all_workers_together_do_not_storm_the_head_or_the_file_server(nodes: int) -> None:
    pace = steady(nodes)
    assert nodes / pace.next_probe_s() <= 2000
    assert nodes / pace.next_poll_s(known=False) <= 500
    assert nodes / pace.next_poll_s(known=True) <= 500


def test_the_pace_is_jittered() -> None:
    pace = Pace.of(1000)
    assert len({round(pace.next_probe_s() / pace.next_poll_s(known=True), 6) for _ in range(5)}) == 5


@pytest.mark.parametrize(("rest_s", "most"), [(0.0, 20), (0.2, 3)])
def test_words_rest_in_large_jobs_and_the_last_is_written(tmp_path: Path, rest_s: float, most: int) -> None:
    record = Record.create(tmp_path / "state", "cluster", "1")
    written: list[str] = []
    write = record.write_node

    def counted(word: NodeReport) -> None:
        written.append(word.message)
        write(word)

    record.write_node = counted  # type: ignore[method-assign]

    async def talk() -> None:
        word = ReportWriter(record, NodeReport("n1", "worker", NodePhase.LAUNCHED.value), rest_s=rest_s)
        for number in range(10):
            word.phase(NodePhase.WAITING, f"word {number}")
            await asyncio.sleep(0.03)
        word.phase(NodePhase.GONE, "the last")
        await word.close()

    run_loop(talk())
    assert written[0] == "word 0"
    assert written[-1] == "the last"
    assert len(written) <= most + 1
    found = record.read_node("n1")
    assert found is not None
    assert found.phase == NodePhase.GONE.value
