"""The event log of a record."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.model.record import Event
from raycluster_cli.state import events
from raycluster_cli.state.record import Record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create(tmp_path / "state", "tux", "123")


def test_events_keep_their_order_and_a_broken_line_is_left_out(record: Record) -> None:
    record.append_event("one", when=1.0)
    with (record.path / "events.log").open("a") as file:
        file.write('{"t": 2, "te\n')
    record.append_event("two\nlines – ü", when=3.0)
    assert record.read_events() == [Event(1.0, "one"), Event(3.0, "two\nlines – ü")]
    assert record.read_events(limit=1) == [Event(3.0, "two\nlines – ü")]


def test_the_event_log_does_not_grow_without_end(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_BYTES", 2000)
    for n in range(200):
        assert record.append_event(f"event {n}")
    size = sum((record.path / name).stat().st_size for name in ("events.log", "events.log.1"))
    assert size < 5000
    assert record.read_events(limit=3)[-1].text == "event 199"


@pytest.mark.parametrize(
    "line",
    [
        *("", "{", "[]", "null", "7", '"t"', "{}", '{"t": 1}', '{"text": "x"}', '{"t": 1, "text": 3}'),
        *('{"t": null, "text": "x"}', '{"t": true, "text": "x"}', '{"t": "1", "text": "x"}'),
        *('{"t": NaN, "text": "x"}', '{"t": Infinity, "text": "x"}', '{"t": 1e308, "text": "x"}'),
        f'{{"t": {"9" * 400}, "text": "x"}}',
        f'{{"t": {"9" * 5000}, "text": "x"}}',
        "[" * 100_000,
    ],
    ids=lambda line: line[:20] or "empty",
)
def test_a_line_that_is_no_event_is_left_out(line: str) -> None:
    assert events.parse_event(line.encode()) is None


def test_a_pipe_or_a_link_in_place_of_the_log_is_not_opened(record: Record, tmp_path: Path) -> None:
    os.mkfifo(record.path / "events.log")
    assert record.read_events() == []
    (record.path / "events.log").unlink()
    (tmp_path / "other").write_text('{"t": 1, "text": "of another"}\n')
    (record.path / "events.log").symlink_to(tmp_path / "other")
    assert record.read_events() == []
    assert not record.append_event("mine")
