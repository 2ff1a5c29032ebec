"""What is meant by a command that there is not."""

from __future__ import annotations

import pytest

from raycluster_cli.cli.suggestions import command_for

COMMANDS = ("head", "run", "status", "stop", "submit", "submit-job", "logs", "monitor", "exec", "help")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("list", "status"),
        ("ps", "status"),
        ("cancel", "stop"),
        ("cancle", "stop"),
        ("statsu", "status"),
        ("stat", "status"),
        ("Sub", "submit"),
        ("start", "run"),
        ("submit_job", "submit-job"),
        ("LOG", "logs"),
        ("qqqq", ""),
        ("nope", ""),
    ],
)
def test_suggestions(name: str, meant: str) -> None:
    assert command_for(name, COMMANDS) == meant
