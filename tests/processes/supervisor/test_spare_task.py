"""Spare tasks: the command line itself, with the variables of a step of two tasks on each node."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from raycluster_cli.supervisor.spare_task import hold_first_place
from tests.unit.supervisor.test_spare_task import task
from tests.waiting import wait_until

DEADLINE_S = 60.0


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
