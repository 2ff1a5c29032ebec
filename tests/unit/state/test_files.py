"""Files and directories of a record: whole, private, and errors with a remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.model.record import EndReport
from raycluster_cli.state.catalogue import list_records
from raycluster_cli.state.files import read_bytes, write_whole
from raycluster_cli.state.record import Record

ROOT = os.geteuid() == 0
NOBODY = 65534
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: to be another user, or to mount")


def test_a_stale_handle_is_asked_again_after_the_directory_was_opened(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.write_end(EndReport(1.0, 0))
    calls: list[str] = []
    real = os.open

    def stale_once(path: os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        calls.append(Path(path).name)
        if calls == ["end.json"]:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", stale_once)
    assert record.read_end() == EndReport(1.0, 0)
    assert calls == ["end.json", "123", "end.json"]


def test_a_link_or_fifo_in_place_of_a_file_is_not_followed(record: Record, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('{"host": "a", "address_ip": "x", "port": 1}')
    (record.path / "head.json").symlink_to(tmp_path / "elsewhere")
    assert record.read_head() is None
    os.mkfifo(record.path / "end.json")
    assert record.read_end() is None  # and does not hang


@pytest.mark.parametrize("key", ["../x", "a/b", "", ".", "..", "a+b", "-x", "x" * 101, "a\n"])
def test_a_key_that_is_no_file_name_is_refused(state: Path, key: str) -> None:
    with pytest.raises(UsageError, match="cannot be used in a file name"):
        Record.create(state, "tux", key)


def test_a_link_in_place_of_the_record_is_refused(state: Path, tmp_path: Path) -> None:
    Record.create(state, "tux", "1")
    (tmp_path / "trap").mkdir()
    (state / "tux" / "2").symlink_to(tmp_path / "trap")
    with pytest.raises(UsageError, match="not a directory"):
        Record.create(state, "tux", "2")


def test_a_state_dir_that_others_can_write_is_refused_with_the_remedy(state: Path) -> None:
    state.mkdir()
    state.chmod(0o775)
    with pytest.raises(UsageError, match="chmod go-w"):
        Record.create(state, "tux", "1")
    state.chmod(0o755)
    Record.create(state, "tux", "1")


def test_a_home_behind_a_link_is_fine(state: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "home").symlink_to(tmp_path / "real")
    assert (
        Record.create(tmp_path / "home" / ".raycluster", "", "1").path
        == tmp_path / "real/.raycluster/local/1"
    )


def test_a_file_in_place_of_the_state_dir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a directory"):
        Record.create(tmp_path / "file", "tux", "1")
    with pytest.raises(UsageError, match="--state-dir"):
        Record.create(tmp_path / "file" / "below", "tux", "1")


@needs_root
def test_another_users_directory_is_refused(state: Path) -> None:
    Record.create(state, "tux", "1")
    os.chown(state / "tux" / "1", NOBODY, NOBODY)
    with pytest.raises(UsageError, match=r"belongs to nobody, not to root; .* token"):
        Record.create(state, "tux", "1")
    with pytest.raises(UsageError, match="belongs to nobody"):
        Record.open(state / "tux" / "1")
    assert list_records(state) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "file", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(RayclusterError, match=r"cannot write .*/file: No space left on device\. Free space"):
        write_whole(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert read_bytes(tmp_path / "file") == b"old"
