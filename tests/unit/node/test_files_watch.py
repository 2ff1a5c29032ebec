"""Which files a running raylet needs, and which of them is missing."""

from __future__ import annotations

import asyncio
import types
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.node.files_watch import first_missing, needed_files, removed_file
from tests.unit.loops import run_loop


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


@pytest.mark.parametrize("ends", [False, True], ids=["removed by a cleaner", "removed by a raylet that ends"])
def test_only_files_of_a_raylet_that_runs_are_missed(tmp_path: Path, ends: bool) -> None:
    socket = tmp_path / "sockets" / "raylet"
    socket.parent.mkdir()
    socket.touch()
    runs: list[Any] = [types.SimpleNamespace(session_dir=str(tmp_path))]

    async def main() -> str | None:
        watch = asyncio.ensure_future(removed_file(lambda: runs[0]))
        await asyncio.sleep(0)
        socket.unlink()
        if ends:
            runs[0] = None
        await asyncio.wait({watch}, timeout=60)
        found = watch.result() if watch.done() else None
        watch.cancel()
        return found

    assert run_loop(main()) == (None if ends else str(socket))


def test_other_files_are_missed_too_and_what_can_be_made_again_is(tmp_path: Path) -> None:
    key, token = tmp_path / "key", tmp_path / "token"
    key.touch()
    started: Any = types.SimpleNamespace(session_dir=str(tmp_path))

    async def main() -> str | None:
        watch = asyncio.ensure_future(removed_file(lambda: started, token.touch, [str(token), str(key)]))
        await asyncio.sleep(60)
        assert not watch.done() and token.exists()
        key.unlink()
        return await asyncio.wait_for(watch, 60)

    assert run_loop(main()) == str(key)
