"""The task probe: when it asks, which answers it believes, and the step in which it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.slurm.task_probe import TaskProbe, hosts_without_task, parse_ended_tasks

from .programs import programs, with_reaper

LISTING = """\
n1: PID JOBID STEPID LOCALID GLOBALID 2145 7 0 0 0
n2: StepId=7.0 does not exist on node (null).
noise
n3: slurm_job_step_get_pids: StepId=7.0 does not exist on node (null).
"""


def test_listing() -> None:
    assert parse_ended_tasks(LISTING) == ["n2", "n3"]
    assert parse_ended_tasks("") == []


class Slurm:
    """Answers of Slurm, one for each question, and a clock."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, tuple[str, ...]]] = []
        self.now = 0.0

    async def ask(self, hosts: Sequence[str]) -> list[str]:
        self.asked.append((self.now, tuple(hosts)))
        return self.answers.pop(0)


def outcomes(slurm: Slurm, silent: Sequence[str], until_s: int) -> list[tuple[float, list[str]]]:
    """When, in seconds, the probe reports which hosts, looked at twice a second."""

    async def work() -> list[tuple[float, list[str]]]:
        probe = TaskProbe(slurm.ask, first_s=8, confirm_s=5, clock=lambda: slurm.now)
        found = []
        for tick in range(until_s * 2):
            slurm.now = tick / 2
            if ended := probe.ended(silent):
                found.append((slurm.now, ended))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        probe.close()
        return found

    return asyncio.run(work())


def test_two_answers_that_agree_are_believed() -> None:
    slurm = Slurm(["n2"], ["n2"])
    assert outcomes(slurm, ["n1", "n2"], 15) == [(14.0, ["n2"])]
    assert slurm.asked == [(8.0, ("n1", "n2")), (13.5, ("n1", "n2"))]


def test_a_node_whose_task_starts_late_is_not_believed_to_have_ended() -> None:
    slurm = Slurm(["n2"], ["n3"], ["n3"])
    assert outcomes(slurm, ["n2", "n3"], 21) == [(19.5, ["n3"])]


def test_while_all_nodes_have_a_task_slurm_is_asked_rarely() -> None:
    slurm = Slurm([], [], [])
    assert outcomes(slurm, ["n2"], 60) == []
    assert [when for when, _ in slurm.asked] == [8.0, 28.5, 49.0]


def test_nothing_is_asked_when_every_node_has_reported() -> None:
    slurm = Slurm()
    assert outcomes(slurm, [], 60) == []
    assert slurm.asked == []


def test_an_error_of_the_question_is_seen() -> None:
    async def fails(hosts: Sequence[str]) -> list[str]:
        raise ValueError("a bug")

    async def work() -> None:
        probe = TaskProbe(fails, first_s=0)
        assert probe.ended(["n1"]) == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        probe.ended(["n1"])

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(work())


ALLOCATION = Allocation("7", ("n1", "n2", "n3"), step_id="0", procid=0)


def test_the_question_is_one_small_step_on_these_nodes(tmp_path: Path) -> None:
    srun = f"""
        printf '%s\\n' "$@" >{tmp_path}/asked; env >{tmp_path}/env
        for step; do :; done
        script=$(grep '^echo' {tmp_path}/asked)
        for name in n2 n3; do SLURMD_NODENAME=$name sh -c "$script" "$step"; done
    """
    scontrol = """
        test "$*" = "listpids 7.0" || exit 9
        test "$SLURMD_NODENAME" = n2 && { echo PID; echo 2145; exit; }
        echo "StepId=$2 does not exist on node (null)." >&2; exit 1
    """
    env = programs(tmp_path, srun=srun, scontrol=scontrol)
    env |= {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2"}
    ended = with_reaper(lambda reaper: hosts_without_task(["n2", "n3"], ALLOCATION, env, reaper))
    assert ended == ["n3"]
    asked = (tmp_path / "asked").read_text().split("\n")
    assert asked[:5] == ["--jobid=7", "--overlap", "--nodelist=n2,n3", "--nodes=2", "--ntasks=2"]
    assert asked[-2] == "7.0"
    assert "SLURM_CPUS_PER_TASK" not in (tmp_path / "env").read_text()


@pytest.mark.parametrize(
    "allocation",
    [Allocation("7", ("n1",)), Allocation("7", ("n1",), step_id="0", procid=0, het_size=2)],
    ids=["outside a task", "heterogeneous"],
)
def test_where_slurm_cannot_be_asked_no_task_has_ended(tmp_path: Path, allocation: Allocation) -> None:
    env = programs(tmp_path, srun="echo 'n1: StepId=7.0 does not exist on node'")
    assert with_reaper(lambda reaper: hosts_without_task(["n1"], allocation, env, reaper)) == []


def test_without_srun_no_task_has_ended(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path)}
    assert with_reaper(lambda reaper: hosts_without_task(["n1"], ALLOCATION, env, reaper)) == []
