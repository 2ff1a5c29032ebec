"""Spare tasks: the command line itself, with the variables of a step of two tasks on each node."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from raycluster_cli.supervisor.spare_task import hold_first_place, is_spare, wait_for_first_task
from tests.unit.slurm.test_allocation import environment
from tests.waiting import wait_until

DEADLINE_S = 60.0


def task(number: int) -> dict[str, str]:
    """Variables of a task of a step of our own: n1 has tasks 0 and 1, n2 has 2 and 3."""
    return {**environment(f"22.05/two-tasks-a-node.task{number}"), "SLURM_JOB_ID": f"9{os.getpid()}"}


@pytest.fixture
def first() -> Iterator[socket.socket]:
    """The place of the first task on n1, held as its keeper holds it."""
    place = hold_first_place(task(0))
    assert place is not None
    place.settimeout(DEADLINE_S)
    with place:
        yield place


@pytest.fixture
def spare() -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, **task(1)}
    words = [sys.executable, "-m", "raycluster_cli", "run", "--", "true"]
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


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


def test_a_spare_task_stays_until_the_first_has_ended(
    first: socket.socket, spare: subprocess.Popen[str]
) -> None:
    connection, _ = first.accept()
    assert spare.poll() is None
    connection.close()
    first.close()
    _, errors = spare.communicate(timeout=DEADLINE_S)
    assert spare.returncode == 0
    assert "n1 has several tasks of this step: the first joins for the whole node" in errors


def test_signals_are_for_the_first_task(first: socket.socket, spare: subprocess.Popen[str]) -> None:
    connection, _ = first.accept()
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        os.kill(spare.pid, number)
    connection.close()
    first.close()
    assert spare.wait(DEADLINE_S) == 0


def test_a_first_task_that_is_killed_ends_its_spare_tasks(spare: subprocess.Popen[str]) -> None:
    hold = "import os, sys; from raycluster_cli.supervisor.spare_task import hold_first_place as hold"
    code = f"{hold}; place = hold(os.environ); print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code]
    env = {**os.environ, **task(0)}
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        wait_until(lambda: _connected(holder.pid), timeout_s=DEADLINE_S, what="the spare task's connection")
        assert spare.poll() is None
        holder.kill()
        assert spare.wait(DEADLINE_S) == 0


def _connected(pid: int) -> bool:
    """Whether somebody waits at the socket of a step's first task."""
    name = f"@raycluster-step.{os.geteuid()}.bed.{task(0)['SLURM_JOB_ID']}"
    with open("/proc/net/unix", encoding="ascii") as file:
        return sum(name in line for line in file) > 1  # the listener, and a connection


def test_without_a_first_task_it_ends_at_the_deadline() -> None:
    before = {number: signal.getsignal(number) for number in (1, 2, 15, 10, 12)}
    try:
        wait_for_first_task({**task(1), "SLURM_STEP_ID": "77"}, wait_s=0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
