"""Slurm's commands as a supervisor runs them: output, exit codes, and commands that hang."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.slurm.command import run_command
from raycluster_cli.system.process import Reaper

from .programs import programs, with_reaper


def test_exit_code_and_both_outputs_come_back(tmp_path: Path) -> None:
    env = programs(tmp_path, scontrol='echo "$@ $SLURM_TIME_FORMAT"; echo "no such job" >&2; exit 3')
    assert with_reaper(lambda reaper: run_command(["scontrol", "show", "job"], env, reaper)) == (
        3,
        "show job %s\nno such job\n",
    )


def test_output_of_any_size_and_encoding_is_read(tmp_path: Path) -> None:
    env = programs(tmp_path, scontrol="printf '\\377'; head -c 300000 /dev/zero | tr '\\0' x")
    code, text = with_reaper(lambda reaper: run_command(["scontrol"], env, reaper))
    assert (code, len(text), text[0]) == (0, 300001, "\ufffd")


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RayclusterError, match="scontrol was not found in PATH"):
        with_reaper(lambda reaper: run_command(["scontrol"], {"PATH": str(tmp_path)}, reaper))


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    env = programs(tmp_path, scontrol="true")
    (tmp_path / "scontrol").write_text("#!/no/such/interpreter\n")
    with pytest.raises(RayclusterError, match="scontrol could not be started: No such file"):
        with_reaper(lambda reaper: run_command(["scontrol"], env, reaper))


def test_a_command_that_hangs_is_killed(tmp_path: Path) -> None:
    env = programs(tmp_path, scontrol=f"echo $$ >{tmp_path}/pid; exec sleep 600")
    with pytest.raises(RayclusterError, match=r"scontrol did not answer within 0\.3 s"):
        with_reaper(lambda reaper: run_command(["scontrol"], env, reaper, timeout_s=0.3))
    pid = int((tmp_path / "pid").read_text() or "0")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_command_is_killed_when_nobody_waits_any_more(tmp_path: Path) -> None:
    env = programs(tmp_path, scontrol=f"echo $$ >{tmp_path}/pid; exec sleep 600")
    file = tmp_path / "pid"

    async def cancelled(reaper: Reaper) -> None:
        running = asyncio.ensure_future(run_command(["scontrol"], env, reaper, timeout_s=60))
        while not (file.exists() and file.read_text().strip()):
            await asyncio.sleep(0.005)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with_reaper(cancelled)
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_a_child_that_keeps_the_output_open_does_not_hold_up_the_answer(tmp_path: Path) -> None:
    """A site's wrapper of srun can leave a process behind."""
    env = programs(tmp_path, srun=f"sleep 600 & echo $! >{tmp_path}/pid; echo answer; exit 3")
    code, text = with_reaper(lambda reaper: run_command(["srun"], env, reaper, timeout_s=60))
    assert (code, text) == (3, "answer\n")
    os.kill(int((tmp_path / "pid").read_text()), 9)
