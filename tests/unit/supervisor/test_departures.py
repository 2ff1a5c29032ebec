"""What Ray is told of nodes that Slurm takes from worker jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.policy.head_state import HeadState
from raycluster_cli.policy.values import Worker
from raycluster_cli.slurm.departures import JobTimes
from raycluster_cli.state.notices import Notice
from raycluster_cli.supervisor.departures import NO_LIMIT_S, departures, watch_departures
from raycluster_cli.system.process import Reaper
from tests.unit.slurm.programs import programs, with_reaper

ONE, TWO = Worker("1a", "n2.7_3", "10.0.0.2", "7_3"), Worker("2b", "n3.8", "10.0.0.3", "8")
NOW = 1000.0


@pytest.mark.parametrize(
    ("drained", "times", "told", "found"),
    [
        ({}, {}, {}, []),
        ({"n9": "bad disk"}, {}, {}, []),
        ({"n2": "bad disk"}, {"7_3": JobTimes(1500.0)}, {}, [("1a", 1500.0, "Slurm drains n2 (bad disk)")]),
        ({"n3": ""}, {"8": JobTimes()}, {}, [("2b", NOW + NO_LIMIT_S, "Slurm drains n3 (no reason given)")]),
        ({"n2": "bad disk"}, {"7_3": JobTimes(1500.0)}, {"1a": 1500.0}, []),
        ({"n2": "bad disk"}, {}, {"1a": 1500.0}, []),
        ({}, {"8": JobTimes(1500.0)}, {}, []),
        ({}, {"8": JobTimes(1060.0, preempted=True)}, {}, [("2b", 1060.0, "Slurm preempts job 8")]),
        ({}, {"8": JobTimes(1060.0, preempted=True)}, {"2b": 1060.0}, []),
        (
            {"n2": "bad disk"},
            {"7_3": JobTimes(1060.0, preempted=True)},
            {"1a": 1500.0},
            [("1a", 1060.0, "Slurm preempts job 7_3")],
        ),
    ],
)
def test_departures(
    drained: dict[str, str],
    times: dict[str, JobTimes],
    told: dict[str, float],
    found: list[tuple[str, float, str]],
) -> None:
    assert departures([ONE, TWO], drained, times, told, NOW) == [Notice(*each) for each in found]


class Head:
    """What the guard needs of a head; Ray accepts each drain."""

    def __init__(self, directory: Path, preempt_type: str, sinfo: str) -> None:
        self.calls = directory / "calls"
        self.calls.touch()
        self.env = programs(
            directory,
            sinfo=f"echo sinfo >>{self.calls}; {sinfo}",
            squeue=(
                f"echo squeue >>{self.calls}\n"
                "case \"$*\" in *7_3,8*) echo '8 RUNNING 1700000060 1700000000';; esac"
            ),
            scontrol=f"echo scontrol >>{self.calls}; echo 'PreemptType = {preempt_type}'",
        )
        self.elastic: dict[str, Worker] = {"1a": ONE, "2b": TWO}
        self.drained: list[tuple[str, str]] = []
        self.notes: list[str] = []

    async def drain(self, node_ids: Sequence[str], *, message: str, deadline_s: float) -> dict[str, Any]:
        self.drained.append((node_ids[0], message))
        return {node_ids[0]: {"answered": True, "accepted": True}}

    def called(self) -> list[str]:
        return self.calls.read_text().split()

    def watch(self, rounds: int) -> None:
        """Until sinfo has been called so often."""
        state = HeadState(elastic=self.elastic)
        companion: Any = SimpleNamespace(drain=self.drain)

        async def until(reaper: Reaper) -> None:
            parts: Any = SimpleNamespace(
                context=SimpleNamespace(env=self.env),
                reaper=reaper,
                report=SimpleNamespace(note=self.notes.append),
            )
            watching = asyncio.ensure_future(
                watch_departures(parts, lambda: state, lambda: companion, look_s=0.01)
            )
            while self.called().count("sinfo") < rounds and not watching.done():
                await asyncio.sleep(0.01)
            watching.cancel()
            await asyncio.wait({watching})

        with_reaper(lambda reaper: asyncio.wait_for(until(reaper), 60))


def test_ray_is_told_once_of_drained_and_preempted_nodes(tmp_path: Path) -> None:
    head = Head(tmp_path, "preempt/qos", "echo 'n2|draining|bad disk'")
    head.watch(4)
    assert sorted(head.drained) == [("1a", "Slurm drains n2 (bad disk)"), ("2b", "Slurm preempts job 8")]
    assert head.called().count("scontrol") == 2
    assert head.called().count("squeue") >= 3


def test_without_preemption_squeue_is_asked_for_the_end_of_a_drained_nodes_job_alone(tmp_path: Path) -> None:
    head = Head(tmp_path, "preempt/none", "echo 'n2|draining|bad disk'")
    head.watch(4)
    assert head.drained == [("1a", "Slurm drains n2 (bad disk)")]
    assert head.called().count("squeue") == 1


def test_a_controller_that_does_not_answer_is_asked_again_and_told_once(tmp_path: Path) -> None:
    head = Head(tmp_path, "preempt/none", "echo 'Unable to contact slurm controller' >&2; exit 1")
    head.watch(4)
    assert head.notes == [
        "Slurm did not say which nodes it drains: sinfo failed: Unable to contact slurm controller."
    ]
