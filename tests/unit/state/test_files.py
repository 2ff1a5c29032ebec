"""Files and directories of a record: whole, private, and errors with a remedy."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.model.record import EndReport, HeadInfo
from raycluster_cli.state.catalogue import list_records
from raycluster_cli.state.files import read_bytes, write_whole
from raycluster_cli.state.record import Record
from tests.waiting import wait_until

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


def test_readers_see_whole_files_while_they_are_replaced(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from raycluster_cli.state.files import write_whole
        n = 0
        while True:
            n += 1
            write_whole(Path(sys.argv[1]), b"%05d" % (n % 5000) + b"x" * (n % 5000))
    """
    file = tmp_path / "file"
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(file)]) as writer:
        try:
            wait_until(file.exists, timeout_s=30, what="the first file")
            for _ in range(2000):
                data = read_bytes(file)
                assert data is not None and len(data) == 5 + int(data[:5])
            assert writer.poll() is None
        finally:
            writer.kill()


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


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that everybody can reach, as a home may be (pytest's own cannot be)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(call: Callable[[], str]) -> str:
    """What ``call`` returns when another user calls it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(write, call().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


@needs_root
def test_another_user_reads_neither_token_nor_record(open_dir: Path) -> None:
    record = Record.create(open_dir / ".raycluster", "tux", "1")
    record.make_token()
    record.write_head(HeadInfo("a", "10.0.0.1", 1))

    def spy() -> str:
        seen = []
        for path in (record.token_path, record.path / "head.json", record.path, open_dir / ".raycluster"):
            try:
                _ = list(path.iterdir()) if path.is_dir() else path.read_text()
                seen.append(f"{path} was read")
            except PermissionError:
                seen.append("refused")
        return " ".join(
            [*seen, str(record.read_head()), str(record.read_token()), str(list_records(open_dir))]
        )

    assert as_nobody(spy) == "refused refused refused refused None None []"


@needs_root
def test_a_directory_that_cannot_be_written_says_so(open_dir: Path) -> None:
    def create() -> str:
        with pytest.raises(UsageError) as caught:
            Record.create(open_dir / "state", "tux", "1")
        return str(caught.value)

    said = as_nobody(create)
    assert f"cannot make {open_dir}/state: Permission denied" in said
    assert "--state-dir" in said


@needs_root
def test_a_full_disk_is_an_error_with_a_remedy_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
        import os, subprocess, sys
        from pathlib import Path
        from raycluster_cli.model.errors import RayclusterError
        from raycluster_cli.state.record import Record
        from raycluster_cli.model.record import NodeReport
        base = Path(sys.argv[1])
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", base], check=True)
        record = Record.create(base / "s", "tux", "1")
        record.write_node(NodeReport("a", "worker", "launched"))
        with open(base / "filler", "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096): pass
            except OSError: pass
        try: record.write_node(NodeReport("a", "worker", "joined", message="y" * 9000))
        except RayclusterError as error: print(type(error).__name__, error)
        names = sorted(os.listdir(record.path / "nodes"))
        print(record.read_node("a").phase, names, record.append_event("x" * 9000))
        subprocess.run(["mount", "-o", "remount,ro", base], check=True)
        try: record.write_node(NodeReport("a", "worker", "joined"))
        except RayclusterError as error: print(type(error).__name__, error)
    """
    repository = str(Path(__file__).parents[3])
    command = ["unshare", "-m", sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=repository, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0].startswith("RayclusterError") and "No space left" in lines[0] and "Free space" in lines[0]
    assert lines[1] == "launched ['a.json'] False"
    assert lines[2].startswith("UsageError") and "Read-only file system" in lines[2]


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
