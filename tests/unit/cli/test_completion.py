"""What the shell offers for values that are known without a cluster."""

from __future__ import annotations

import pytest
import typer.main

from raycluster_cli.cli.app import app


@pytest.mark.parametrize(
    ("command", "parameter", "begun", "offered"),
    [
        ("run", "keep_logs", "o", ["on-failure"]),
        ("run", "on_worker_loss", "", ["fail", "continue", "wait:"]),
        ("submit", "container_runtime", "p", ["pyxis", "podman"]),
        ("help", "command", "sub", ["submit", "submit-job"]),
        ("status", "state", "failed,l", ["failed,lost"]),
        ("status", "state", "no", ["no-record"]),
        ("logs", "component", "ra", ["raycluster", "raylet"]),
    ],
)
def test_values_are_completed(command: str, parameter: str, begun: str, offered: list[str]) -> None:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    context = found.context_class(found)
    (one,) = (each for each in found.params if each.name == parameter)
    assert [item.value for item in one.shell_complete(context, begun)] == offered
