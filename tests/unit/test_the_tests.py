"""The rules for tests hold: unit tests start no Python, and a module's tests run in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.sharing import group_of


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        lambda: subprocess.run([os.fsencode(sys.executable), "-c", ""], check=True),
        lambda: subprocess.run(["unshare", "true"], check=True),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        os.fork,
    ],
    ids=["python", "python by bytes", "unshare", "posix_spawn", "fork"],
)
def test_a_unit_test_that_starts_a_python_fails(start: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match=r"test_a_unit_test_that_starts_a_python_fails.* starts "):
        start()


def test_a_shell_script_is_fine() -> None:
    assert subprocess.run(["sh", "-c", "exit 3"], check=False).returncode == 3


@pytest.mark.parametrize(
    ("test", "group"),
    [
        ("tests/unit/slurm/test_queue.py::test_one[a::b]", "tests/unit/slurm/test_queue.py"),
        ("tests/unit/system/test_ports.py::test_one", "tests/unit/system"),
        ("tests/processes/system/test_port_locks.py::test_one", "tests/processes/system"),
        ("tests/unit/test_layout.py::test_one", "tests/unit/test_layout.py"),
    ],
)
def test_what_runs_in_one_process(test: str, group: str) -> None:
    assert group_of(test) == group
