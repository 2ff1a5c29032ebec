"""A start with --stage-env: when no copy is made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raycluster_cli.model.settings import Settings
from raycluster_cli.supervisor import staged_start

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_CLUSTER_NAME": "tux",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURMD_NODENAME": "n1",
}


@pytest.mark.parametrize(("driver", "copies"), [("sh", True), ("no-such-program", False)])
def test_a_driver_that_is_not_there_is_refused_before_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, copies: bool
) -> None:
    """The refusal itself is the start's; workers do not wait for a copy that never comes."""
    asked: list[Any] = []
    monkeypatch.setattr(staged_start, "hand_over", lambda request, *_: asked.append(request))
    keeper = cast(Any, SimpleNamespace(note=lambda notes: None))
    settings = Settings(stage_env="/tmp", state_dir=str(tmp_path))
    env = {**JOB, "PATH": "/usr/bin:/bin"}
    staged_start.start_from_copy(
        "run", settings, (driver, "x"), env=env, keeper=keeper, warm=None, arguments=()
    )
    assert bool(asked) is copies
    notes = [json.loads(path.read_text()) for path in tmp_path.glob(".environments/tux/7/*.json")]
    assert [note["state"] for note in notes] == ([] if copies else ["shared"])
