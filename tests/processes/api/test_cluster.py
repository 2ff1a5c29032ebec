"""A cluster ends with the program that started it; importing the package imports none of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.forks import run_in_forks

PROGRAM = """
import os, signal, sys
from tests.unit.api.test_cluster import Scripted

class Told(Scripted):
    def _end(self):
        print("ENDED", os.getpid() == pid, flush=True)

"""


#: Programs with a cluster, and their exit codes; each ends it once.
PROGRAMS = [
    ("cluster = Told().start()", 0),
    ("cluster = Told().start(); cluster.stop()", 0),
    ("with Told(): os.kill(pid, signal.SIGTERM)", 143),
    ("with Told(): os.kill(pid, signal.SIGINT)", -signal.SIGINT),
    ("with Told(): sys.exit(5)", 5),
    ("cluster = Told().start()\nif os.fork() == 0: sys.exit(0)\nos.wait()", 0),
    ("with Told():\n if os.fork() == 0: sys.exit(0)\n os.wait()", 0),
    ("with Told(): pass\nos.kill(pid, signal.SIGTERM)", -signal.SIGTERM),
]


def test_it_ends_once_with_its_program(tmp_path: Path) -> None:
    ended = run_in_forks(PROGRAM, [f"pid = os.getpid()\n{code}" for code, _ in PROGRAMS], tmp_path)
    for (code, expected), done in zip(PROGRAMS, ended, strict=True):
        assert (done.code, done.out) == (expected, "ENDED True\n"), (code, done.err)


def test_importing_the_package_imports_none_of_it() -> None:
    code = (
        "import sys, raycluster_cli; print(sum(name.startswith('raycluster_cli.') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
