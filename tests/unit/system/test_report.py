"""What is printed and what is recorded."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from raycluster_cli.system.report import Report, command_text


def test_commands_are_one_line_and_not_too_long() -> None:
    assert command_text(["python", "-c", "a\nb\tc\r"]) == "python -c 'a\\nb\\tc\\r'"
    assert command_text(["x" * 500]) == "x" * 199 + "…"


@pytest.mark.parametrize(
    ("verbose", "printed"),
    [(False, "rc: one\nrc: warning: two\n"), (True, "rc: one\nrc: warning: two\nrc: three\n")],
)
def test_all_lines_are_recorded_and_notes_printed_only_when_asked_for(verbose: bool, printed: str) -> None:
    events: list[tuple[float, str]] = []
    stream = io.StringIO()
    report = Report("rc", verbose, stream, clock=lambda: 7.0, on_event=lambda *event: events.append(event))
    report.say("one")
    report.warn("two")
    report.note("three")
    assert stream.getvalue() == printed
    assert events == [(7.0, "one"), (7.0, "warning: two"), (7.0, "three")]


def test_a_closed_stream_does_not_end_the_run() -> None:
    stream = io.StringIO()
    stream.close()
    events: list[str] = []
    report = Report(stream=stream, on_event=lambda _, text: events.append(text))
    report.say("one")
    assert events == ["one"]


def test_a_line_that_a_program_left_open_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "job.out"
    with path.open("a") as stream:
        report = Report(stream=stream)
        report.say("begins")
        stream.write("loss 0.1")
        stream.flush()
        report.say("the driver ended")
        report.say("the end")
    assert path.read_text() == (
        "raycluster: begins\nloss 0.1\nraycluster: the driver ended\nraycluster: the end\n"
    )
