"""Unit tests are fast: none starts a Python or forks.  Those that do are in tests/processes."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests import typer_once as typer_once

#: How Python starts a process; what happens in it may be seen by no unit test.
FORKS = ("os.fork", "os.forkpty", "os.posix_spawn", "os.system")

#: Programs that start another and are slow, besides Python's own.
SLOW = ("unshare",)

HERE = Path(__file__).parent


def pytest_collection_finish() -> None:
    """What is there now stays to the end: the garbage collector need not look through it again and again."""
    gc.freeze()


_running: list[str] = []
"""The test that runs, while one does."""


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _running or (event != "subprocess.Popen" and event not in FORKS):
        return
    program = os.path.basename(os.fsdecode(arguments[0])) if event == "subprocess.Popen" else event
    if event in FORKS or program in SLOW or program.startswith("python"):
        raise AssertionError(f"{_running[-1]} starts {program}: tests that do belong into tests/processes")


sys.addaudithook(_guard)


@pytest.hookimpl(wrapper=True)  # not a fixture: it would cost as much as the shortest tests
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fails a test that does; short shell scripts in the place of Slurm's commands are fine."""
    if not item.path.is_relative_to(HERE):  # where both directories are run at once
        return (yield)
    _running.append(item.nodeid)
    try:
        return (yield)
    finally:
        _running.pop()
