"""The command line as a program: what help imports, and what the console script says under its keeper."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

from raycluster_cli.cli import app as cli

COMMANDS = sorted(command.name or command.callback.__name__ for command in cli.app.registered_commands)  # type: ignore[union-attr]


#: Until 0.22 Typer imported Rich for a help without it.
TYPER_IMPORTS_RICH = tuple(map(int, version("typer").split(".")[:2])) < (0, 22)


def test_the_console_script_says_the_same_under_its_keeper() -> None:
    env = {**os.environ, "RAYCLUSTER_MASTER_PORT": "x"}
    done = subprocess.run(
        [sys.executable, "-m", "raycluster_cli", "head"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("raycluster: error: ")
    assert done.stderr.count("\n") == 1, done.stderr


LOOK = """
import contextlib, io, sys
from raycluster_cli.cli import app as cli
out = io.StringIO()
for words in {lines!r}:
    sys.argv = ["raycluster", *words]
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.run_command_line(cli.Launcher({{}}))
heavy = sorted({{"ray", "rich", "asyncio", "psutil"}} & set(sys.modules))
print(len(out.getvalue()), *heavy)
"""


def test_help_of_every_command_imports_nothing_heavy() -> None:
    """Ray takes half a second, Rich a tenth: who asks for help gets it at once."""
    lines = [["--help"], *([name, "--help"] for name in COMMANDS)]
    code = LOOK.format(lines=lines)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    size, *heavy = done.stdout.split()
    assert int(size) > 300 * len(lines), done.stderr
    assert heavy == (["rich"] if TYPER_IMPORTS_RICH else [])
