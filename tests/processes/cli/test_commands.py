"""Commands whose output nobody reads any more."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.cli.test_commands import slurm as slurm
from tests.unit.forks import run_in_forks
from tests.unit.records_by_hand import write_record
from tests.unit.slurm_by_hand import SlurmCommands

WRITERS = (("status", "--json"), ("status",), ("why", "4711"), ("monitor", "4711", "--once"))


def test_a_pipe_that_is_closed_is_no_error(tmp_path: Path, slurm: SlurmCommands) -> None:
    write_record(tmp_path, 100)  # its JSON is larger than a pipe's buffer
    env = {**os.environ, "PATH": slurm.path, "RAYCLUSTER_STATE_DIR": str(tmp_path)}
    setup = "import os, sys; from raycluster_cli.cli import app; from raycluster_cli.__main__ import main"
    closed = "reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 1)"
    programs = [f"{closed}\nsys.argv = ['raycluster', *{words!r}]\nmain()" for words in WRITERS]
    (tmp_path / "output").mkdir()
    ended = run_in_forks(setup, programs, tmp_path / "output", env)
    assert [(done.code, done.err) for done in ended] == [(0, "")] * len(WRITERS)
