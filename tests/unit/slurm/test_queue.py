"""squeue's and scancel's answers, by stand-ins for the programs."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.slurm.queue import cancel_job, parse_squeue, parse_time, query_jobs

from .programs import programs

TEXT = """\
100|100|RUNNING|1700003600|1700000000|None|n[1-3]|train
103|101_2|PENDING|N/A|1700009999|Priority||a|b
105|105|COMPLETED|2023-11-14T23:13:20|1700000000|None|n1|x
"""


def test_lines() -> None:
    running, waiting, ended = parse_squeue(TEXT)
    assert (running.end_time, running.nodes, running.reason) == (1700003600.0, "n[1-3]", "")
    assert (waiting.id, waiting.shown_id, waiting.name, waiting.is_waiting) == ("103", "101_2", "a|b", True)
    assert waiting.end_time is None
    assert ended.is_ended
    assert ended.end_time == time.mktime((2023, 11, 14, 23, 13, 20, 0, 0, -1))


@pytest.mark.parametrize("text", ["", "N/A", "NONE", "Unknown", "12"])
def test_times_that_are_none(text: str) -> None:
    assert parse_time(text) is None


def test_query(tmp_path: Path) -> None:
    env = programs(tmp_path, squeue=f"test -z \"$SQUEUE_FORMAT\" || exit 1\ncat <<'E'\n{TEXT}E")
    jobs = query_jobs({**env, "SQUEUE_FORMAT": "%i"})
    assert jobs is not None
    assert set(jobs) == {"100", "103", "105"}


def test_no_slurm_no_answer(tmp_path: Path) -> None:
    assert query_jobs({"PATH": str(tmp_path)}) is None
    assert (
        query_jobs(programs(tmp_path, squeue="echo 'Unable to contact slurm controller' >&2; exit 1")) is None
    )

    def hangs(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired("squeue", 8)

    assert query_jobs(programs(tmp_path, squeue="true"), run=hangs) is None


def test_cancel(tmp_path: Path) -> None:
    env = programs(tmp_path, scancel=f'echo "$@" > {tmp_path}/said')
    cancel_job("7", env, step="0")
    assert (tmp_path / "said").read_text() == "7.0\n"
    with pytest.raises(RayclusterError, match="Access/permission denied"):
        cancel_job(
            "7", programs(tmp_path, scancel="echo 'scancel: error: Access/permission denied' >&2; exit 1")
        )
    with pytest.raises(RayclusterError, match="scancel was not found in PATH"):
        cancel_job("7", {"PATH": "/nonexistent"})


def test_the_tasks_of_an_array_that_wait_are_named_in_full(tmp_path: Path) -> None:
    tasks = ",".join(str(number) for number in range(1, 99, 2))
    cut = f"""test "$SLURM_BITSTR_LEN" = 0 && echo '100|100_[{tasks}]|PENDING|N/A|N/A|Priority||x'"""
    jobs = query_jobs(programs(tmp_path, squeue=cut))
    assert jobs is not None
    assert jobs["100"].own_id == f"100_[{tasks}]"  # the array's id alone would cancel the tasks that run too
