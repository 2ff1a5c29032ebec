"""`make unit` runs every module, each once, and fails when one of its processes does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import side_by_side


def test_every_module_is_in_one_share() -> None:
    modules = sorted(side_by_side.UNIT.rglob("test_*.py"))
    found = side_by_side.shares(modules, 3)
    assert sorted(module for share in found for module in share) == modules
    assert all(found)


@pytest.mark.parametrize(
    ("second", "code"), [("", 0), ("import os; os.kill(os.getpid(), 9)", 9)], ids=["no test in one", "killed"]
)
def test_the_exit_code_is_the_worst(
    second: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_first.py").write_text("def test(): pass")
    (tmp_path / "test_second.py").write_text(second)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(side_by_side, "UNIT", tmp_path)
    monkeypatch.setattr(side_by_side, "PROCESSES", 2)
    assert side_by_side.main(["-q", "-p", "no:cacheprovider"]) == code
