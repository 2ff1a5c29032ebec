"""A state directory and a record of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.state.record import Record


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def record(state: Path) -> Record:
    return Record.create(state, "tux", "123")
