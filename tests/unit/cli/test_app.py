"""Bad input: one line that says what was found, what was needed and what to do; code 2, no traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from raycluster_cli.cli import app as cli
from raycluster_cli.cli.errors import tell_errors
from raycluster_cli.cli.plain import read_line
from raycluster_cli.model.settings import Settings, settings_of, variable_name
from raycluster_cli.supervisor import run
from raycluster_cli.supervisor.launch import Launcher

ENVIRONMENTS = Path(__file__).parents[2] / "data/slurm-env"


HINTS = get_type_hints(Settings)
NEEDED = {bool: "true or false", float: "a number", str: ""}

BATCH = "22.05/three-nodes.batch"
HEAD_TASK = "22.05/three-nodes.task0"
WORKER_TASK = "22.05/three-nodes.task1"
SALLOC = "22.05/salloc.shell"


def slurm(name: str, **changes: str | None) -> dict[str, str]:
    """A recorded environment, with variables changed or (None) taken away."""
    if not name:
        return {}
    lines = (ENVIRONMENTS / f"{name}.env").read_text().splitlines()
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    for variable, value in changes.items():
        if value is None:
            env.pop(variable, None)
        else:
            env[variable] = value
    return env


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):  # type: ignore[no-untyped-def]
    """Calls the command line as the console script does, but for the keeper; gives (code, stderr)."""

    def started(node: object) -> None:
        raise AssertionError(f"{node} was started")

    def one(line: list[str], env: dict[str, str]) -> tuple[int, str]:
        for name in [name for name in os.environ if name.startswith(("SLURM", "RAYCLUSTER"))]:
            monkeypatch.delenv(name)
        for name, value in {**env, "HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(run, "run_and_exit", started)
        monkeypatch.setattr(sys, "argv", ["raycluster", *line])
        launcher = Launcher(dict(os.environ))
        try:
            if plain := read_line(line, launcher.env):
                tell_errors(lambda: launcher.start(plain.command, plain.settings, plain.driver))
            else:
                cli.run_command_line(launcher)
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return one


BAD: list[tuple[str, list[str], dict[str, str], list[str]]] = [
    # -- numbers out of range
    (
        "port 0",
        ["head", "--port", "0"],
        {},
        ["--master-port is 0", "from 1 to 65535", "Leave the option out"],
    ),
    ("port 70000", ["head", "--master-port", "70000"], {}, ["--master-port is 70000", "from 1 to 65535"]),
    ("workers -1", ["head", "--expected-workers=-1"], {}, ["--expected-workers is -1", "0 or more"]),
    ("local -1", ["run", "--local=-1"], {}, ["--local is -1", "0 or more"]),
    ("time-out -5", ["worker", "--timeout=-5"], {}, ["--timeout is -5", "0 or more"]),
    ("time-out nan", ["worker", "--timeout", "nan"], {}, ["--timeout is nan", "number of seconds"]),
    ("retries -1", ["worker", "--max-retries=-1"], {}, ["--max-retries is -1", "0 or more"]),
    (
        "quorum",
        ["head", "--expected-workers", "2", "--min-workers", "3"],
        {},
        ["--min-workers is 3", "--expected-workers 2", "at most"],
    ),
    ("code", ["run", "--requeue-code", "256"], {}, ["--requeue-code is 256", "0 to 255"]),
    # -- values of the wrong kind
    ("no number", ["head", "--expected-workers", "two"], {}, ["'two'; it must be a whole number. `"]),
    (
        "no seconds",
        ["run", "--timeout", "soon"],
        {},
        ["'soon'; it must be a number. `raycluster run --help`"],
    ),
    ("last of two", ["run", "--local=0", "--local", "x"], {}, ["--local is 'x'; it must be a whole number"]),
    ("not the driver's", ["run", "--local=x", "--", "a", "--local=3"], {}, ["--local is 'x'"]),
    ("no choice", ["run", "--keep-logs", "perhaps"], {}, ["--keep-logs is 'perhaps'", "always, on"]),
    ("no policy", ["run", "--on-worker-loss", "cry"], {}, ["--on-worker-loss is 'cry'", "fail, continue"]),
    ("no name", ["run", "--name", "a/b"], {}, ["--name is 'a/b'", "letters, digits"]),
    (
        "no option",
        ["run", "--tiemout", "3"],
        {},
        ["no such option: --tiemout. Did you", "--timeout?", "`raycluster run --help`"],
    ),
    (
        "no value",
        ["worker", "--master-ip"],
        {},
        ["--master-ip", "requires an argument", "`raycluster worker --help`"],
    ),
    (
        "no option like it",
        ["status", "--qq"],
        {},
        ["error: no such option", "--qq", "`raycluster status --h"],
    ),
    ("no command", ["ruin"], {}, ["there is no command 'ruin'", "Did you mean `raycluster run`?"]),
    ("another tool's command", ["ps"], {}, ["there is no command 'ps'", "Did you mean `raycluster status`?"]),
    (
        "no command at all",
        ["qqq"],
        {},
        ["there is no command 'qqq'", "`raycluster --help` lists the commands"],
    ),
    ("help of no command", ["help", "list"], {}, ["there is no command 'list'", "`raycluster status`"]),
    ("terminal of a pipe", ["exec", "7", "-t", "--", "top"], {}, ["-t needs a terminal", "Leave -t out"]),
    # -- variables of raycluster's own
    ("variable port", ["head"], {"RAYCLUSTER_MASTER_PORT": "99999"}, ["99999", "from 1 to 65535"]),
    (
        "variable number",
        ["head"],
        {"RAYCLUSTER_EXPECTED_WORKERS": "x"},
        ["RAYCLUSTER_EXPECTED_WORKERS is 'x'"],
    ),
    ("variable flag", ["head"], {"RAYCLUSTER_AUTH": "maybe"}, ["RAYCLUSTER_AUTH is 'maybe'"]),
    ("variable seconds", ["worker"], {"RAYCLUSTER_TIMEOUT": "1h"}, ["RAYCLUSTER_TIMEOUT is '1h'"]),
    # -- what Slurm says
    (
        "hostlist",
        ["head"],
        slurm(BATCH, SLURM_JOB_NODELIST="n[1-"),
        ["SLURM_JOB_NODELIST cannot be read", "'n[1-'", "needed"],
    ),
    (
        "count",
        ["run"],
        slurm(HEAD_TASK, SLURM_TASKS_PER_NODE="2(x", SLURM_STEP_TASKS_PER_NODE="2(x"),
        ["TASKS_PER_NODE cannot be read", "'2(x'", "needed"],
    ),
    (
        "cpus",
        ["run"],
        slurm(HEAD_TASK, SLURM_CPUS_ON_NODE="many"),
        ["SLURM_CPUS_ON_NODE", "'many'", "needed"],
    ),
    ("job id", ["run"], slurm(HEAD_TASK, SLURM_JOB_ID="../12"), ["SLURM_JOB_ID", "'../12'", "needed"]),
    ("rank", ["run"], slurm(HEAD_TASK, SLURM_PROCID="first"), ["SLURM_PROCID", "'first'", "needed"]),
    ("no rank", ["run"], slurm(WORKER_TASK, SLURM_PROCID=None), ["SLURM_PROCID is not set", "--export"]),
    ("no rank 2", ["worker"], slurm(WORKER_TASK, SLURM_NODEID=None), ["SLURM_NODEID is not set", "--export"]),
    (
        "rank of head",
        ["head"],
        slurm(WORKER_TASK),
        ["task 1 of 3", "a job has one head", "srun raycluster run"],
    ),
    # -- nowhere
    ("head alone", ["head"], {}, ["number of workers is not known", "no Slurm job", "--expected-workers"]),
    ("worker alone", ["worker"], {}, ["the head is not known", "no Slurm job", "--master-ip"]),
    ("run alone", ["run", "--", "true"], {}, ["outside a Slurm job", "srun raycluster run", "--local"]),
    (
        "run in batch",
        ["run", "--", "true"],
        slurm(BATCH),
        ["in a batch script", "not in an srun task", "srun"],
    ),
    ("head on login", ["head"], slurm(SALLOC), ["not a node of job", "srun -N1 -n1 raycluster head"]),
    ("worker on login", ["worker"], slurm(SALLOC), ["not a node of job", "srun raycluster worker"]),
    # -- drivers
    (
        "no driver",
        ["head", "--expected-workers", "0", "--", "no-such-program"],
        {},
        ["'no-such-program' was not found in PATH", "-- python train.py"],
    ),
    (
        "no file",
        ["run", "--local", "0", "--", "/no/such/program"],
        {},
        ["'/no/such/program' does not exist", "Give a path"],
    ),
    (
        "not executable",
        ["run", "--local", "0", "--", __file__],
        {},
        ["is not executable", f"-- python {__file__}"],
    ),
]


@pytest.mark.parametrize(("line", "env", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_gets_one_line_and_code_2(call, line, env, words) -> None:  # type: ignore[no-untyped-def]
    code, said = call(line, env)
    assert code == 2, said
    assert said.startswith("raycluster: error: ")
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    for word in words:
        assert word in said


def test_no_arguments_show_the_help(call) -> None:  # type: ignore[no-untyped-def]
    code, _ = call([], {})
    assert code in (0, 2)


TYPED = [
    pytest.param(one.name, command, needed, id=f"{command}-{one.name}")
    for command in ("env", "worker")  # env has them all
    for one in settings_of(command)
    if (needed := NEEDED.get(HINTS[one.name], "a whole number")) and one.name != "state_dir"
]


@pytest.mark.parametrize(("name", "command", "needed"), TYPED)
def test_a_variable_of_another_type_is_told_in_our_words(call, name: str, command: str, needed: str) -> None:  # type: ignore[no-untyped-def]
    code, said = call([command], {variable_name(name): "maybe"})
    assert (code, said) == (
        2,
        f"raycluster: error: {variable_name(name)} is 'maybe'; it must be {needed}. "
        f"`raycluster {command} --help` lists the options.\n",
    )


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("NUM_CPUS", "-3", "is -3; it must be 0 or more."),
        ("NUM_CPUS", "2.5", "is '2.5'; it must be a whole number."),
        ("QUICK", "x", "is 'x'; it must be one of auto, node, ray-start."),
        ("MEMORY", "lots", "is 'lots'; it must be a size such as 4G, 900M or a number of bytes."),
        ("MASTER_PORT", "0", "is 0; a port is a number from 1 to 65535."),
        ("TIMEOUT", "inf", "is inf; it must be a number of seconds, 0 or more."),
        ("HEALTH_PATH", "/x", "is for a driver that is a server, but --service is not given."),
        ("IDLE_TIMEOUT", "x", "is 'x'; it must be a time such as 30m, 1h30m or 45s."),
        ("RESOURCES", "x", "contains 'x'; each part must be key=value."),
        ("ON_WORKER_LOSS", "x", "is 'x'; it must be fail, continue or wait:SECONDS."),
    ],
)
def test_a_wrong_value_of_a_variable_names_the_variable(call, variable: str, text: str, message: str) -> None:  # type: ignore[no-untyped-def]
    code, said = call(["run", "--", "true"], {f"RAYCLUSTER_{variable}": text})
    assert code == 2
    assert said.startswith(f"raycluster: error: RAYCLUSTER_{variable} {message}")
    assert said.count("\n") == 1
