"""Where the records are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.state.location import state_dir_of


@pytest.mark.parametrize(
    ("given", "env", "found"),
    [
        ("", {"HOME": "/home/ada"}, "/home/ada/.raycluster"),
        ("/shared/ada", {"HOME": ""}, "/shared/ada"),
        ("/shared/ada", {"RAYCLUSTER_STATE_DIR": "/shared/ada"}, "/shared/ada"),
        ("~/records", {"HOME": "/home/ada"}, "/home/ada/records"),
        ("~", {"HOME": "/home/ada"}, "/home/ada"),
        ("~root/x", {"HOME": "/home/ada"}, os.path.expanduser("~root/x")),
        ("records", {"HOME": "/home/ada"}, str(Path.cwd() / "records")),
    ],
)
def test_where_they_are(given: str, env: dict[str, str], found: str) -> None:
    assert str(state_dir_of(given, env)) == found


@pytest.mark.parametrize(
    ("given", "env", "message"),
    [
        (
            "",
            {"HOME": ""},
            "the environment variable HOME is '', so the directory of the records is not known",
        ),
        ("", {"HOME": "ada"}, "the environment variable HOME is 'ada'"),
        ("~/records", {"HOME": ""}, "the environment variable HOME is ''"),
        ("~nobody-here/x", {"HOME": "/home/ada"}, "there is no such user"),
        (
            "records",
            {"HOME": "/home/ada", "RAYCLUSTER_STATE_DIR": "records"},
            "RAYCLUSTER_STATE_DIR is 'records'; it must be an absolute path",
        ),
    ],
)
def test_what_is_refused(given: str, env: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        state_dir_of(given, env)
    assert message in str(refused.value)
    assert refused.value.hint
