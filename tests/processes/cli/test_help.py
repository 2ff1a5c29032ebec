"""Every help text: a one-line summary, an example that is a valid command line, 80 columns, plain usage."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from raycluster_cli.cli.app import app

COMMANDS = sorted(
    command.name or command.callback.__name__
    for command in app.registered_commands
    if not command.hidden and command.callback is not None
)

ALL_HELP = """
import contextlib, io, os, sys
os.environ["COLUMNS"] = "80"
from raycluster_cli.cli import app as cli
for name in sys.argv[1:]:
    sys.argv = ["raycluster", *([name] if name != "-" else []), "--help"]
    with contextlib.suppress(SystemExit):
        cli.run_command_line(cli.Launcher({}))
    print("\\f", end="")
"""


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The help of each command, and under "-" that of raycluster itself."""
    names = ["-", *COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", ALL_HELP, *names], capture_output=True, text=True, check=True, timeout=60
    )
    return dict(zip(names, done.stdout.split("\f"), strict=False))


@pytest.mark.parametrize("name", ["-", *COMMANDS])
def test_help_fits_a_terminal_and_is_plain(texts: dict[str, str], name: str) -> None:
    lines = texts[name].splitlines()
    assert [line for line in lines if len(line) > 80] == []
    usage, blank, summary = lines[:3]
    assert usage.startswith("Usage: raycluster")
    assert not re.search(r"\[\[|\]\]|[{}<>]", usage)
    assert "list[" not in texts[name]
    assert blank == ""
    assert re.fullmatch(r"  [A-Z].*\.", summary), summary


def test_defaults_are_shown_as_they_are_given(texts: dict[str, str]) -> None:
    text = " ".join(texts["run"].split())
    assert "listens, {host} in the driver's arguments. [default: 0.0.0.0]" in text
    assert "SIGTERM and SIGKILL. [default: 10]" in text


@pytest.mark.parametrize("name", ["-", *COMMANDS])
def test_help_has_an_example(texts: dict[str, str], name: str) -> None:
    assert re.search(r"^  Examples?:\n(    .*raycluster .*\n)+", texts[name], re.MULTILINE)


def test_summaries_are_not_cut(texts: dict[str, str]) -> None:
    listed = texts["-"].partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line] != []
    assert "..." not in listed


def examples(text: str) -> list[list[str]]:
    """The arguments of raycluster in each example; without comments, pipes and other commands around it."""
    found = []
    for line in re.findall(r"^    (.*raycluster .*)$", text, re.MULTILINE):
        command = re.split(r"\s{3,}|\s[|>]", line)[0]
        words = shlex.split(command)
        found.append(words[words.index("raycluster") + 1 :])
    return found


PARSE = """
import sys, json
from raycluster_cli.cli import app as cli
import typer.main
command = typer.main.get_command(cli.app)
context = command.make_context("raycluster", []) if False else None
for words in json.loads(sys.argv[1]):
    name, *rest = words
    command.commands[name].make_context(name, rest)
"""


def test_examples_are_valid_command_lines(texts: dict[str, str]) -> None:
    import json

    lines = [words for text in texts.values() for words in examples(text)]
    assert len(lines) > 30
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAYCLUSTER")}
    done = subprocess.run(
        [sys.executable, "-c", PARSE, json.dumps(lines)], capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == 0, done.stderr


def test_options_of_submit_are_in_groups(texts: dict[str, str]) -> None:
    titles = re.findall(r"^(\S.*):$", texts["submit"], re.MULTILINE)
    assert titles[:3] == ["Options", "Common options of sbatch", "The cluster"]
    assert "Failures, the end, and logs" in titles
    groups = re.split(r"^\S.*:$", texts["submit"], flags=re.MULTILINE)
    assert "--follow" in groups[1] and "--follow" not in groups[3]
    assert "-N, --nodes N" in groups[2]


def complete(*words: str) -> list[str]:
    """What bash offers for the last of these words."""
    env = {"COMP_WORDS": shlex.join(["raycluster", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-c", "from raycluster_cli.cli.app import app; app(prog_name='raycluster')"],
        env={**os.environ, **env, "_RAYCLUSTER_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.split()


def test_options_of_sbatch_are_completed_with_those_of_submit() -> None:
    assert {"--nodes", "--nodelist", "--no-tls"} <= set(complete("submit", "-N", "2", "--no"))
    assert complete("submit", "--parti") == ["--partition"]
