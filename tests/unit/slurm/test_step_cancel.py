"""What ends an srun that waits: its step is cancelled, or srun itself where there is no step any more."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.slurm.step_cancel import cancelling_step, srun_here
from raycluster_cli.system.proctree import ProcessRef, Stat, identify

STEP = Allocation("7", ("n1", "n2"), step_id="0", launcher_port=4711, launcher_ip="127.0.0.1")


@pytest.mark.parametrize(
    ("runs_here", "another", "steps", "cancelled", "ended"),
    [
        (False, False, "", True, False),
        (True, False, "7.0 train main alice 1:00 n2", True, False),
        (True, False, "", False, True),
        (True, True, "", False, False),  # its number is another process's now
    ],
    ids=["elsewhere", "the step is there", "srun was not told", "srun has ended"],
)
def test_what_the_small_step_does(
    tmp_path: Path, runs_here: bool, another: bool, steps: str, cancelled: bool, ended: bool
) -> None:
    for name, says in (("squeue", steps), ("scancel", "")):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.arguments\necho {says}\n')
        program.chmod(0o755)
    with subprocess.Popen(["sleep", "60"]) as srun:
        ref = identify(srun.pid)
        assert ref is not None
        waiting = ProcessRef(ref.pid, ref.start_ticks + another) if runs_here else None
        script = cancelling_step(STEP, "n1", 2**22 + 1, 0, waiting)
        command = script[script.index("sh") :]
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(command, env=env, check=False, stdout=subprocess.DEVNULL, timeout=30)
        if not ended:
            assert srun.poll() is None
            srun.kill()
        assert srun.wait(timeout=30) == (-signal.SIGTERM if ended else -signal.SIGKILL)
    assert (tmp_path / "scancel.arguments").exists() == cancelled
    if runs_here:
        assert (tmp_path / "squeue.arguments").read_text() == "--noheader --steps=7.0\n"


def test_only_the_srun_of_this_step_is_meant() -> None:
    def processes(port: int) -> list[Stat]:
        assert port == 4711
        return [Stat(7, "srun", "S", 8, 5), Stat(8, "srun", "S", 3, 4), Stat(3, "python", "S", 1, 2)]

    found = srun_here(STEP, processes)
    assert found is not None and found.pid == 8
    assert srun_here(STEP.but(launcher_ip="192.0.2.1"), processes) is None  # runs on another host
    assert srun_here(STEP.but(launcher_ip=""), processes) is None
    assert srun_here(STEP.but(launcher_port=None), processes) is None
    assert srun_here(STEP, lambda port: []) is None
