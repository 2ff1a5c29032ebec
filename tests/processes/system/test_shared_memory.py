"""Files of shared memory and real processes that map them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.system.shared_memory import mapped_by, remove_unmapped

MAPS = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    held = mmap.mmap(file.fileno(), 0)
print("maps", flush=True)
sys.stdin.read()
"""

Mapper = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def maps() -> Iterator[Mapper]:
    """Start a process that maps a file until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", MAPS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "maps\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def segment(directory: Path, name: str, mode: int = 0o600) -> Path:
    path = directory / name
    path.write_bytes(b"\0" * 4096)
    path.chmod(mode)
    return path


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_what_a_killed_process_mapped_is_removed(tmp_path: Path, maps: Mapper) -> None:
    ours, other = segment(tmp_path, "psm_ours"), segment(tmp_path, "psm_other")
    process = maps(ours)
    found = mapped_by([process.pid, 2**22 + 1], directory=tmp_path)
    assert found == {"psm_ours": ours.stat().st_ino}
    end(process)
    assert remove_unmapped(found, directory=tmp_path) == ["psm_ours"]
    assert list(tmp_path.iterdir()) == [other]


def test_what_another_process_maps_stays(tmp_path: Path, maps: Mapper) -> None:
    path = segment(tmp_path, "mpich_shm_1")
    process, other = maps(path), maps(path)
    found = mapped_by([process.pid], directory=tmp_path)
    end(process)
    assert remove_unmapped(found, directory=tmp_path) == []
    end(other)
    assert remove_unmapped(found, directory=tmp_path) == ["mpich_shm_1"]


def test_a_new_file_of_the_same_name_stays(tmp_path: Path, maps: Mapper) -> None:
    path = segment(tmp_path, "psm_1")
    process = maps(path)
    found = mapped_by([process.pid], directory=tmp_path)
    end(process)
    os.rename(path, tmp_path / "kept")  # so that the new file has another inode
    segment(tmp_path, "psm_1")
    assert remove_unmapped(found, directory=tmp_path) == []


@pytest.mark.parametrize(("name", "mode"), [("data", 0o600), ("psm_shared", 0o660)])
def test_only_files_that_are_known_to_be_temporary_and_the_users_alone(
    name: str, mode: int, tmp_path: Path, maps: Mapper
) -> None:
    process = maps(segment(tmp_path, name, mode))
    assert mapped_by([process.pid], directory=tmp_path) == {}


def test_a_site_without_shared_memory(tmp_path: Path) -> None:
    assert mapped_by([os.getpid()], directory=tmp_path / "none") == {}
    assert remove_unmapped({}, directory=tmp_path / "none") == []
