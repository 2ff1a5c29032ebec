"""What Slurm says of nodes that it drains and of jobs that it preempts: as Slurm 22.05 prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.slurm.departures import (
    JobTimes,
    drained_nodes,
    gives_grace,
    grace_end,
    job_times,
    parse_drained,
    parse_gives_grace,
)

from .programs import programs, with_reaper

PREEMPTED = "JobId=7 JobState=RUNNING Reason=None EndTime=1700000060 PreemptTime=1700000000 X=a=b"


@pytest.mark.parametrize(
    ("state", "drained"),
    [
        *(("idle", False), ("mixed", False), ("allocated*", False), ("down", False), ("completing", False)),
        *(("draining", True), ("drained", True), ("draining*", True), ("draining@", True)),
    ],
)
def test_which_nodes_get_no_new_job(state: str, drained: bool) -> None:
    assert parse_drained(f"n2|{state}|bad disk, bay 1|2\n") == (
        {"n2": "bad disk, bay 1|2"} if drained else {}
    )


def test_what_is_asked(tmp_path: Path) -> None:
    env = programs(
        tmp_path,
        sinfo=f'echo "$@" >{tmp_path}/asked; echo "n2|draining|bad disk"',
        squeue='[ "$SLURM_TIME_FORMAT" = %s ] && echo "7_3 RUNNING 1700000060 N/A"',
        scontrol=f'[ "$2" = config ] && echo "PreemptType = preempt/qos" || echo "{PREEMPTED}"',
    )
    env["SINFO_FORMAT"] = "%N"
    assert with_reaper(lambda reaper: drained_nodes({"n3", "n2"}, env, reaper)) == {"n2": "bad disk"}
    assert (tmp_path / "asked").read_text() == "--noheader --Node --nodes=n2,n3 --format=%N|%T|%E\n"
    assert with_reaper(lambda reaper: job_times({"7_3"}, env, reaper)) == {"7_3": JobTimes(1700000060.0)}
    assert with_reaper(lambda reaper: gives_grace(env, reaper)) is True
    assert with_reaper(lambda reaper: grace_end("7", env, reaper, timeout_s=9)) == 1700000060.0


@pytest.mark.parametrize(
    ("script", "timeout_s"),
    [("exit 1", 60.0), ("exec sleep 60", 0.05), (f"echo '{PREEMPTED}'; exit 1", 60.0)],
)
def test_without_an_answer_there_is_no_grace_time(tmp_path: Path, script: str, timeout_s: float) -> None:
    env = programs(tmp_path, scontrol=script)
    assert with_reaper(lambda reaper: grace_end("7", env, reaper, timeout_s=timeout_s)) is None


def test_a_refusal_has_slurms_own_words(tmp_path: Path) -> None:
    env = programs(tmp_path, sinfo="echo 'slurm_load_node: Unable to contact slurm controller'; exit 1")
    with pytest.raises(RayclusterError, match=r"sinfo failed: slurm_load_node: Unable to contact"):
        with_reaper(lambda reaper: drained_nodes({"n2"}, env, reaper))


@pytest.mark.parametrize(
    ("kind", "grace_s", "gives"),
    [
        *(("preempt/none", 60, False), ("(null)", 60, False), ("preempt/qos", 0, True)),
        *(("preempt/partition_prio", 0, False), ("preempt/partition_prio", 60, True)),
    ],
)
def test_whether_there_are_grace_times(kind: str, grace_s: int, gives: bool) -> None:
    partitions = (
        f"PartitionName=a\n   GraceTime=0 Hidden=NO\nPartitionName=b\n   GraceTime={grace_s} Hidden=NO"
    )
    config = f"PreemptMode             = CANCEL\nPreemptType             = {kind}\n"
    assert parse_gives_grace(config, partitions) is gives
