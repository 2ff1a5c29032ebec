"""`raycluster stop`: which clusters it means, what it asks, and its exit code; ending them is ops.stop's."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from raycluster_cli.cli import stop as command
from raycluster_cli.cli.app import app
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import EndReport
from raycluster_cli.node.sweep import Swept
from raycluster_cli.ops import stop as core
from raycluster_cli.ops.stop import Outcome
from raycluster_cli.state.record import Record
from tests.unit.command_lines import run_line
from tests.unit.records_by_hand import write_record
from tests.unit.slurm_by_hand import SlurmCommands, squeue_line

OVER = EndReport(time.time() - 100, 0, "driver", "", "the driver ended")


class Stops:
    """Calls the command; notes which clusters it ends, and gives each the outcome that a test wants."""

    def __init__(self, state_dir: Path, slurm: SlurmCommands) -> None:
        self.ended: list[str] = []
        self.outcomes: dict[str, Outcome | RayclusterError] = {}
        self.swept: list[Swept] = []
        self._state_dir, self.path = state_dir, slurm.path

    def end(self, record: Record, around: object, *, requested: bool = False, **_: object) -> Outcome:
        name = record.path.name
        self.ended.append(f"{name} (asked)" if requested else name)
        outcome = self.outcomes.get(name, Outcome.ENDED)
        if isinstance(outcome, RayclusterError):
            raise outcome
        return outcome

    def end_here(self, record: Record, around: object) -> Outcome:
        return self.end(record, around)

    def __call__(self, *words: str, answer: str | None = None, **env: str) -> Result:
        given: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith(("SLURM", "RAYCLUSTER"))
        }
        given |= {"PATH": self.path, "RAYCLUSTER_STATE_DIR": str(self._state_dir), **env}
        return CliRunner().invoke(app, ["stop", *words], env=given, input=answer)


@pytest.fixture
def slurm(tmp_path: Path) -> SlurmCommands:
    commands = SlurmCommands(tmp_path / "slurm")
    commands.answer("squeue", "".join(squeue_line(job, "RUNNING", nodes="n1") for job in ("1", "2", "3")))
    commands.answer("scancel", "")
    commands.answer("scontrol", "", code=1)
    return commands


@pytest.fixture
def stop(tmp_path: Path, slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch) -> Stops:
    stops = Stops(tmp_path / "state", slurm)
    monkeypatch.setattr(core, "stop_cluster", stops.end)
    monkeypatch.setattr(core, "end_here", stops.end_here)
    monkeypatch.setattr(core, "sweep_here", lambda *_: stops.swept)
    return stops


def records(tmp_path: Path, *keys: str, end: EndReport | None = None) -> None:
    for key in keys:
        write_record(tmp_path / "state", 2, key=key, end=end)


def lost(tmp_path: Path, key: str) -> None:
    """A cluster whose head has gone from this machine without reporting its end."""
    record = write_record(tmp_path / "state", 2, key=key, cluster="local")
    claim = json.loads((record.path / "head.claim.1").read_text())
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (record.path / "head.claim.1").write_text(json.dumps({**claim, "boot_id": boot, "pid": 2**22 + 1}))


@pytest.mark.parametrize(
    ("running", "words", "env", "ended"),
    [
        ("1", (), {}, ["1"]),
        ("12", (), {"SLURM_JOB_ID": "2"}, ["2"]),  # the cluster of this job
        ("1", (), {"SLURM_JOB_ID": "9"}, ["1"]),  # in a job without one
        ("12", ("2",), {}, ["2"]),
        ("12", ("2", "2"), {}, ["2"]),
        ("123", ("3", "1"), {}, ["3 (asked)", "1 (asked)"]),  # at once, then waited for
        ("123", ("--all", "--yes"), {}, ["1 (asked)", "2 (asked)", "3 (asked)"]),
        ("1", ("--all", "-y"), {}, ["1"]),
    ],
)
def test_which_clusters_are_meant(
    stop: Stops, tmp_path: Path, running: str, words: Sequence[str], env: dict[str, str], ended: list[str]
) -> None:
    records(tmp_path, *running)
    result = stop(*words, **env)
    assert (result.exit_code, result.exception) == (0, None), result.output
    assert sorted(stop.ended) == sorted(ended)
    for one in ended:
        asked = Record.at(tmp_path / "state" / "bed" / one.partition(" ")[0]).stop_requested()
        assert (asked is not None) is ("asked" in one)


@pytest.mark.parametrize(
    ("running", "words", "message"),
    [
        ("", (), "no cluster of mine runs (records in "),
        ("12", (), "2 clusters run: 2, 1. Name one, or give --all."),
        ("12", ("--all",), "nobody can be asked here: Stop these 2 clusters? Give --yes."),
        ("1", ("--all",), "nobody can be asked here: Stop this cluster?"),
        ("1", ("--all", "1"), "--all was given together with JOB."),
        ("1", ("9",), "no record of '9' was found"),
        ("1", ("--timeout=-1",), "--timeout is -1; it must be a number of seconds, 0 or more."),
    ],
)
def test_what_is_not_clear_ends_nothing(
    stop: Stops, tmp_path: Path, running: str, words: Sequence[str], message: str
) -> None:
    records(tmp_path, *running)
    records(tmp_path, "8", end=OVER)
    result = stop(*words)
    assert isinstance(result.exception, RayclusterError)
    assert message in str(result.exception)
    assert stop.ended == []


@pytest.mark.parametrize(("answer", "ended"), [("y\n", ["1 (asked)", "2 (asked)"]), ("n\n", []), ("\n", [])])
def test_all_asks_and_shows_which(
    stop: Stops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, ended: list[str]
) -> None:
    records(tmp_path, "1", "2")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    env = {"PATH": stop.path, "RAYCLUSTER_STATE_DIR": str(tmp_path / "state")}
    result = run_line("stop", "--all", env=env)
    assert sorted(stop.ended) == ended
    assert result.returncode == (0 if ended else 1)
    _, *table, asked = result.stderr.partition("\nraycluster: error")[0].splitlines()
    assert [line.split()[0] for line in table] == ["2", "1"]
    assert asked.startswith("Stop these 2 clusters? [y/N]:")
    assert ("nothing was stopped." in result.stderr) is (ended == [])


def test_a_lost_cluster_is_cleared_without_being_named(stop: Stops, tmp_path: Path) -> None:
    lost(tmp_path, "local-1")
    lost(tmp_path, "local-2")
    records(tmp_path, "8", end=OVER)
    assert stop().exit_code == 0
    assert sorted(stop.ended) == ["local-1 (asked)", "local-2 (asked)"]


def test_what_crashed_clusters_left_is_cleared_and_told(stop: Stops, tmp_path: Path) -> None:
    stop.swept = [Swept(Path("/tmp/rc-0-1"), "7", (11, 12), ("/dev/shm/x",))]
    result = stop("--here")
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            "raycluster: cleared /tmp/rc-0-1, left behind by cluster 7, 2 processes ended",
            "raycluster: could not clear /dev/shm/x",
        ],
    )
    assert stop().exit_code == 0  # there is something to do also without a cluster
    stop.swept = []
    result = stop("--all")
    assert (result.exit_code, result.output) == (
        *(0, f"raycluster: no cluster of mine runs (records in {tmp_path}/state), and this node is clean\n"),
    )


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Outcome.FORCED, 0), (Outcome.OVER, 0), (Outcome.CLEARED, 0), (Outcome.FAILED, 1)],
)
def test_its_exit_code_says_whether_all_have_ended(
    stop: Stops, tmp_path: Path, outcome: Outcome, code: int
) -> None:
    records(tmp_path, "1", "2")
    stop.outcomes["1"] = outcome
    result = stop("1", "2")
    assert (result.exit_code, len(stop.ended)) == (code, 2)
    told = "raycluster: not all clusters have ended (2 stops requested)\n"
    assert result.output == (told if code else "")
    assert stop("--here", "1").exit_code == code


def test_one_that_cannot_be_asked_does_not_keep_others_running(
    stop: Stops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is on a full disk, for example."""
    records(tmp_path, "1", "2", "3")
    full = RayclusterError("cannot write stop.json: it is full.")
    request = Record.request_stop

    def ask(record: Record, reason: str = "") -> Any:
        if record.key == "2":
            raise full
        return request(record, reason)

    monkeypatch.setattr(Record, "request_stop", ask)
    stop.outcomes["2"] = full
    result = stop("1", "2", "3")
    assert (result.exit_code, stop.ended) == (1, ["1 (asked)", "2", "3 (asked)"])
    assert "2 was not stopped: cannot write stop.json: it is full." in result.output
    result = stop("2")
    assert result.exception is full


def test_a_job_that_waits_is_cancelled(stop: Stops, tmp_path: Path, slurm: SlurmCommands) -> None:
    records(tmp_path, "1")
    slurm.answer("squeue", squeue_line("1", "RUNNING", nodes="n1") + squeue_line("5", "PENDING"))
    result = stop("5", "1")
    assert (result.exit_code, stop.ended) == (0, ["1 (asked)"])
    assert "scancel 5" in slurm.called()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_last_line_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    clear = "\r\x1b[K"
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((11, 5)))
    progress = command._Progress()
    progress.show("waiting for n1")
    progress.show("waiting for n1")
    progress.say("n1 ended")
    progress.show("x\x1b[2J")
    progress.clear()
    progress.clear()
    assert screen.getvalue() == f"{clear}waiting fo{clear}raycluster: n1 ended\n{clear}x\\x1b[2J{clear}"


def test_elsewhere_nothing_is_said_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = command._Progress()
    progress.show("waiting for n1")
    progress.say("n1 ended")
    progress.clear()
    assert stream.getvalue() == "raycluster: n1 ended\n"
