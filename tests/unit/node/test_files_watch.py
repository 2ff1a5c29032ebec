"""Which files a running raylet needs, and which of them is missing."""

from __future__ import annotations

from pathlib import Path

from raycluster_cli.node.files_watch import first_missing, needed_files


def test_the_sockets_of_a_session(tmp_path: Path) -> None:
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    for name in ("raylet", "plasma_store"):
        (sockets / name).touch()
    found = needed_files(str(tmp_path))
    assert found == (str(sockets / "plasma_store"), str(sockets / "raylet"))
    assert first_missing(found) is None
    (sockets / "raylet").unlink()
    assert first_missing(found) == str(sockets / "raylet")


def test_a_session_without_sockets_has_nothing_to_miss(tmp_path: Path) -> None:
    assert needed_files(str(tmp_path / "nowhere")) == ()
    assert first_missing(()) is None


def test_a_name_that_cannot_be_looked_up_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert first_missing([str(tmp_path / "file" / "below")]) is None
