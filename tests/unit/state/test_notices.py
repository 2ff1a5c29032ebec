"""Notices of nodes that will go."""

from __future__ import annotations

from pathlib import Path

from raycluster_cli.state.notices import Notice, read_notices, write_notice


def test_a_notice_is_read_once(tmp_path: Path) -> None:
    assert read_notices(tmp_path) == []
    notice = Notice("0a1b", 1700000000.0, "SIGTERM")
    write_notice(tmp_path, notice)
    (tmp_path / "notices" / "broken.json").write_text("{")
    assert read_notices(tmp_path) == [notice]
    assert read_notices(tmp_path, frozenset({"0a1b"})) == []
