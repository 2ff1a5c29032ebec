"""The console script's first step: what is started under a keeper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.forks import run_in_forks

#: The console script with a keeper that says so and ends.
SCRIPT = """
import sys
from raycluster_cli.supervisor import keeper

def guard(*_, **__):
    sys.exit(77)

keeper.guard = guard
from raycluster_cli.__main__ import main
"""


LINES = {
    "run --local 1 -- python x.py --help": True,
    "run --local 1 python x.py --help": True,
    "head": True,
    "worker": True,
    "status": False,
    "--help": False,
}


def test_what_starts_ray_here_has_a_keeper(tmp_path: Path) -> None:
    programs = [f"sys.argv = ['raycluster', *{line.split()!r}]\nmain()" for line in LINES]
    ended = run_in_forks(SCRIPT, programs, tmp_path)
    kept = {line: done.code == 77 for line, done in zip(LINES, ended, strict=True)}
    assert kept == LINES, [done.err for done in ended]


def test_help_of_a_command_that_has_a_keeper() -> None:
    words = [sys.executable, "-m", "raycluster_cli", "run", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--expected-workers" in done.stdout


@pytest.mark.parametrize("inside", [True, False])
def test_what_describes_a_driver_is_no_option_of_the_cluster_that_it_starts(inside: bool) -> None:
    """A server that was started again finds RAYCLUSTER_DRIVER_RESTARTS, an option by its name."""
    own = {"RAYCLUSTER_DRIVER_RESTARTS": "2", "RAYCLUSTER_SERVICE_PORT": "20011"}
    done = subprocess.run(
        [sys.executable, "-m", "raycluster_cli", "submit", "--dry-run", "--", "true"],
        env={**os.environ, **own, **({"RAYCLUSTER_DRIVER_OF": "1-2-3"} if inside else {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (0 if inside else 2), done.stderr
    assert "--service-port" not in done.stdout


def test_output_that_cannot_be_written_is_told_in_a_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "raycluster_cli", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "raycluster: error: cannot write the output: No space left on device. Free "
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_streams_that_are_closed_are_dev_null(closed: str) -> None:
    """As in cron, and in some daemons: no file that is opened later gets their numbers."""
    program = (
        "import os, sys, raycluster_cli.__main__ as script; script._open_closed_streams(); "
        "print('out', flush=True); print('err', file=sys.stderr, flush=True); "
        "sys.exit(os.open('/dev/null', os.O_RDONLY))"
    )
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == ("" if ">&-" in closed.split() else "out\n")
    assert done.stderr == ("" if "2>&-" in closed else "err\n")


def test_an_error_is_told_by_its_code_where_stderr_is_closed() -> None:
    line = f"exec {sys.executable} -m raycluster_cli run --local 1 -- ./no-such-driver <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", line], timeout=60, check=False)
    assert done.returncode == 2
