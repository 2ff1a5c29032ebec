"""What a job asks of Slurm for itself: its end, its output, its requeue."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.slurm.job_calls import (
    JobFacts,
    job_end_time,
    job_facts,
    parse_end_time,
    requeue,
    requeue_problem,
)

from .programs import programs, with_reaper


def test_end_times() -> None:
    assert parse_end_time("JobId=7 StartTime=1 EndTime=1795408208 Deadline=N/A") == 1795408208.0
    local = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(1795408208))
    assert parse_end_time(f"EndTime={local}") == 1795408208.0
    assert parse_end_time("EndTime=Unknown") is None
    assert parse_end_time("EndTime=NONE") is None
    assert parse_end_time("slurm_load_jobs error: Invalid job id specified") is None


@pytest.mark.parametrize(
    ("script", "end_time"),
    [
        ('test "$*" = "show job --oneliner 7" && echo "EndTime=1795408208"', 1795408208.0),
        ("echo EndTime=Unknown", None),
        ("echo EndTime=1795408208; exit 1", None),
    ],
)
def test_the_end_is_asked_of_scontrol(tmp_path: Path, script: str, end_time: float | None) -> None:
    env = programs(tmp_path, scontrol=script)
    assert with_reaper(lambda reaper: job_end_time("7", env, reaper)) == end_time


@pytest.mark.parametrize(
    ("script", "facts"),
    [
        (
            "printf 'JobId=7\\n Requeue=1\\n StdErr=/b\\n   StdOut=/shared/a b/x-7.out \\n Power='",
            JobFacts("/shared/a b/x-7.out", errors="/b"),
        ),
        (
            "printf 'JobId=7 JobName=x\\n BatchHost=n2\\n   StdOut=/a b/%%N-%%3j-%%t.out\\n'",
            JobFacts("/a b/n2-007-0.out"),
        ),
        ("printf ' Requeue=0 Restarts=0 BatchFlag=1\\n  StdOut=\\n'", JobFacts(may_requeue=False)),
        ("printf ' Requeue=1 Restarts=0 BatchFlag=0 Reboot=0\\n'", JobFacts(is_batch=False)),
        ("printf '   StdOut=/x\\n'; exit 1", None),
    ],
)
def test_facts_are_asked_of_scontrol(tmp_path: Path, script: str, facts: JobFacts | None) -> None:
    env = programs(tmp_path, scontrol=script)
    assert with_reaper(lambda reaper: job_facts("7", env, reaper)) == facts


def test_what_keeps_a_job_from_being_requeued() -> None:
    assert requeue_problem("7", JobFacts("/x")) == ""
    assert "scontrol update JobId=7 Requeue=1" in requeue_problem("7", JobFacts(may_requeue=False))
    assert "only batch jobs" in requeue_problem("7", JobFacts(is_batch=False, may_requeue=False))


def test_without_slurms_commands_nothing_is_known(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path)}
    assert with_reaper(lambda reaper: job_end_time("7", env, reaper)) is None
    assert with_reaper(lambda reaper: job_facts("7", env, reaper)) is None


def test_requeue(tmp_path: Path) -> None:
    env = programs(tmp_path, scontrol=f'echo "$@" >{tmp_path}/asked')
    with_reaper(lambda reaper: requeue("7", env, reaper))
    assert (tmp_path / "asked").read_text() == "requeue 7\n"


def test_a_refused_requeue_has_slurms_own_message(tmp_path: Path) -> None:
    env = programs(tmp_path, scontrol="echo 'Requested operation is presently disabled' >&2; exit 1")
    with pytest.raises(RayclusterError, match=r"`scontrol requeue 7` ended with code 1: .*presently"):
        with_reaper(lambda reaper: requeue("7", env, reaper))
