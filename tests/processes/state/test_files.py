"""Files of a record between processes and users, and on a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.record import HeadInfo
from raycluster_cli.state.catalogue import list_records
from raycluster_cli.state.files import read_bytes
from raycluster_cli.state.record import Record
from tests.unit.state.test_files import NOBODY, needs_root
from tests.waiting import wait_until


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
