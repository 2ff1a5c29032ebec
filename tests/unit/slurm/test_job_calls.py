"""What is asked of Slurm, and what is made of its words."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.slurm.job_calls import job_end_time, parse_end_time, requeue
from raycluster_cli.system.process import Reaper


def test_end_times() -> None:
    assert parse_end_time("JobId=7 StartTime=1 EndTime=1795408208 Deadline=N/A") == 1795408208.0
    local = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(1795408208))
    assert parse_end_time(f"EndTime={local}") == 1795408208.0
    assert parse_end_time("EndTime=Unknown") is None
    assert parse_end_time("EndTime=NONE") is None
    assert parse_end_time("slurm_load_jobs error: Invalid job id specified") is None


def scontrol(directory: Path, script: str) -> dict[str, str]:
    program = directory / "scontrol"
    program.write_text(f"#!{sys.executable}\nimport os, sys\n{script}\n")
    program.chmod(0o755)
    return {"PATH": str(directory)}


def test_scontrol_is_asked_for_seconds(tmp_path: Path) -> None:
    env = scontrol(
        tmp_path, "print('EndTime=1795408208' if os.environ['SLURM_TIME_FORMAT'] == '%s' else sys.argv)"
    )

    async def ask(env: dict[str, str]) -> float | None:
        reaper = Reaper()
        reaper.attach(asyncio.get_running_loop())
        return await job_end_time("7", env, reaper)

    assert asyncio.run(ask(env)) == 1795408208.0
    assert asyncio.run(ask({"PATH": str(tmp_path / "nothing")})) is None


def test_refused_requeue_says_what_slurm_said(tmp_path: Path) -> None:
    env = scontrol(
        tmp_path, "print('Requested operation is presently disabled', file=sys.stderr); sys.exit(1)"
    )

    async def ask() -> None:
        reaper = Reaper()
        reaper.attach(asyncio.get_running_loop())
        await requeue("7", env, reaper)

    with pytest.raises(RayclusterError, match="presently disabled"):
        asyncio.run(ask())
