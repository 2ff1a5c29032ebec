"""Command lines read without Typer mean what they mean with it, or are left to it."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from typer.testing import CliRunner

from raycluster_cli.cli.plain import Line, read_line
from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.settings import Settings
from raycluster_cli.supervisor.launch import Launcher


class Recorder(Launcher):
    """Stands in for the launcher: remembers what it was told to start."""

    def start(self, command: str, settings: Settings, driver: tuple[str, ...] = ()) -> None:
        seen.append(Line(command, settings, driver))


seen: list[Line] = []


def by_typer(arguments: list[str], env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Line | None:
    """What Typer makes of a line; None when it refuses it."""
    cli: Any = importlib.import_module("raycluster_cli.cli.app")
    monkeypatch.setattr(cli, "_launcher", Recorder(env), raising=False)
    seen.clear()
    result = CliRunner().invoke(cli.app, arguments, env=env)
    return seen[0] if seen and result.exit_code == 0 else None


PLAIN: list[tuple[list[str], dict[str, str]]] = [
    (["run", "--", "python", "train.py"], {}),
    (["run", "--", "python", "train.py", "--", "--lr", "1"], {}),
    (["run", "python", "train.py", "--timeout", "3"], {}),
    (["run", "--timeout", "60", "--timeout=61.5", "--", "x"], {}),
    (["run", "--local=2", "--", "x"], {}),
    (["run", "--dashboard", "--no-auth", "--no-dashboard", "--", "x", ""], {}),
    (["run", "--labels", "a=b,c=d", "--resources={}", "--", "x"], {}),
    (["run"], {"RAYCLUSTER_TIMEOUT": "12", "RAYCLUSTER_AUTH": "0", "RAYCLUSTER_NAME": ""}),
    (["run", "--timeout", "13"], {"RAYCLUSTER_TIMEOUT": "12"}),
    (["head"], {}),
    (["head", "--expected-workers", "3", "--port", "20480", "--", "a b", "$c"], {}),
    (["worker"], {}),
    (["worker", "--master-ip", "gpu01", "--master-port", "20480"], {"RAYCLUSTER_MAX_RETRIES": "2"}),
    (["worker", "--"], {}),
]

LEFT_TO_TYPER: list[tuple[list[str], dict[str, str]]] = [
    ([], {}),
    (["--version"], {}),
    (["status"], {}),
    (["run", "--help"], {}),
    (["run", "--no-such-option"], {}),
    (["run", "--timeout"], {}),
    (["run", "--timeout", "-1"], {}),
    (["run", "--timeout", "soon"], {}),
    (["run", "--timeout", "1e3"], {}),
    (["run", "--dashboard=1"], {}),
    (["run", "--keep-logs", "sometimes"], {}),
    (["run", "--expected-workers", "1", "--min-workers", "2"], {}),
    (["run"], {"RAYCLUSTER_AUTH": "perhaps"}),
    (["run"], {"RAYCLUSTER_NUM_CPUS": "many"}),
    (["worker", "--dashboard"], {}),
    (["worker", "--", "python"], {}),
]


@pytest.mark.parametrize(("arguments", "env"), PLAIN)
def test_it_reads_what_typer_reads(
    arguments: list[str], env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = read_line(arguments, env)
    assert line is not None
    assert line == by_typer(arguments, env, monkeypatch)


@pytest.mark.parametrize(("arguments", "env"), LEFT_TO_TYPER)
def test_it_leaves_the_rest_to_typer(arguments: list[str], env: dict[str, str]) -> None:
    assert read_line(arguments, env) is None


@pytest.mark.parametrize("text", ["0", "0.05"])
def test_health_checks_without_a_pause_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--check-interval is 0.*0\.1 or more"):
        Settings(check_interval=float(text))
