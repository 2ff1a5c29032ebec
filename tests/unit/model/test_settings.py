"""Settings: values that are refused, and which command takes which option."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.settings import (
    Settings,
    option_words,
    settings_of,
    variable_name,
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"master_port": 0}, "--master-port is 0; a port is a number from 1 to 65535"),
        ({"master_port": 65536}, "--master-port is 65536"),
        ({"grace": -0.5}, "--grace is -0.5; it must be a number of seconds, 0 or more"),
        ({"timeout": float("nan")}, "--timeout is nan"),
        ({"timeout": float("inf")}, "--timeout is inf"),
        ({"local": -1}, "--local is -1; it must be 0 or more"),
        ({"quick": "slow"}, "--quick is 'slow'; it must be one of auto, node, ray-start"),
        ({"requeue_code": 256}, "--requeue-code is 256; an exit code is a number from 0 to 255"),
        ({"expected_workers": 2, "min_workers": 3}, "--min-workers is 3, more than --expected-workers 2"),
        ({"name": "-a"}, "--name is '-a'; a name has 1 to 40 letters"),
        ({"name": "a" * 41}, "--name is 'aaa"),
        ({"on_worker_loss": "panic"}, "--on-worker-loss is 'panic'"),
    ],
)
def test_values_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match="^" + re.escape(message)):
        Settings(**given)


def test_values_at_the_edge() -> None:
    Settings(master_port=65535, grace=0.0, local=0, requeue_code=255, name="a" * 40, min_workers=7)
    Settings(expected_workers=2, min_workers=2)


def test_which_command_takes_what() -> None:
    def names(command: str) -> set[str]:
        return {one.name for one in settings_of(command)}

    assert names("env") == {one.name for one in fields(Settings)}
    assert names("submit") == names("run") - {"local"}
    assert names("run") - names("worker") > {"expected_workers", "dashboard", "local"}
    assert names("worker") - names("run") == {
        "max_retries",
        "retry_delay",
        "cluster",
        "group",
        "drain_before",
    }
    assert names("monitor") == {"state_dir"}


@pytest.mark.parametrize("one", fields(Settings), ids=lambda one: one.name)
def test_every_help_text_is_one_sentence(one: Any) -> None:
    text = one.metadata["help"]
    assert re.fullmatch(r"[A-Z][^.]*(?:\.[^\s.][^.]*|\d\.\d[^.]*)*\.", text), text


def test_a_setting_as_arguments_reads_back() -> None:
    assert option_words("grace", 2.5) == ["--grace=2.5"]
    assert option_words("dashboard", True) == ["--dashboard"]
    assert option_words("auth", False) == ["--no-auth"]
    assert option_words("num_gpus", 0) == ["--num-gpus=0"]
    assert option_words("num_gpus", None) == option_words("memory", "") == []
    assert variable_name("num_gpus") == "RAYCLUSTER_NUM_GPUS"
