"""Spare tasks: which task of a step is one, and for whom it waits."""

from __future__ import annotations

import os
import signal

import pytest

from raycluster_cli.supervisor.spare_task import hold_first_place, is_spare, wait_for_first_task
from tests.unit.slurm.test_allocation import environment


def task(number: int) -> dict[str, str]:
    """Variables of a task of a step of our own: n1 has tasks 0 and 1, n2 has 2 and 3."""
    return {**environment(f"22.05/two-tasks-a-node.task{number}"), "SLURM_JOB_ID": f"9{os.getpid()}"}


@pytest.mark.parametrize(
    ("number", "line", "expected"),
    [
        (1, "run -- python", True),
        (3, "worker", True),
        (0, "run -- python", False),
        (2, "run", False),
        (1, "head", False),
        (1, "run --local=2 -- python", False),
        (1, "run -- python --local", True),
        (1, "status", False),
    ],
)
def test_who_is_spare(number: int, line: str, expected: bool) -> None:
    assert is_spare(line.split(), task(number)) is expected


@pytest.mark.parametrize("name", ["salloc.shell", "three-nodes.batch", "three-nodes.task1", "het.task2"])
def test_nobody_waits_for_a_first_task_where_there_is_one_on_each_node(name: str) -> None:
    env = environment(f"22.05/{name}")
    assert not is_spare(["run"], env)
    assert hold_first_place(env) is None


def test_variables_that_cannot_be_read_are_left_to_the_start() -> None:
    assert not is_spare(["run"], {**task(1), "SLURM_PROCID": "one"})


def test_without_a_first_task_it_ends_at_the_deadline() -> None:
    before = {number: signal.getsignal(number) for number in (1, 2, 15, 10, 12)}
    try:
        wait_for_first_task({**task(1), "SLURM_STEP_ID": "77"}, wait_s=0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
