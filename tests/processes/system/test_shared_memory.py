"""Files of shared memory and real processes that map them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.system.shared_memory import files, is_alone, made_since, mapped_by, remove_unmapped

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


#: A step as its node shows it: id, parent, program, Slurm job.
STEP = (
    (1, 0, "systemd", ""),
    (10, 1, "slurmstepd", ""),
    (11, 10, "bash", "7"),
    (12, 11, "srun", "7"),
    (20, 1, "slurmstepd", ""),
    (21, 20, "python3.11", "7"),
    (22, 21, "python3.11", "7"),
    (23, 22, "raylet", "7"),
)
SUPERVISOR = 22


def proc_with(directory: Path, *processes: tuple[int, int, str, str]) -> Path:
    """A /proc with these processes, all of this user's."""
    for pid, parent, program, job in processes:
        process = directory / "proc" / str(pid)
        process.mkdir(parents=True)
        (process / "stat").write_text(f"{pid} ({program[:15]}) S {parent} 1 1 0 -1 {'0 ' * 13}{pid}00 0")
        (process / "environ").write_text(f"HOME=/home/ada\0SLURM_JOB_ID={job}\0" if job else "")
        (process / "exe").symlink_to(f"/usr/bin/{program}")
        (process / "maps").write_text("")
    return directory / "proc"


@pytest.mark.parametrize(
    ("others", "alone"),
    [
        ([], True),
        ([(30, 1, "sshd", ""), (31, 30, "zsh", "")], True),  # a login
        ([(31, 30, "zsh", ""), (32, 31, "python3.12", "")], False),  # and a program in it
        ([(31, 10, "python3.11", "7")], False),  # a program of the batch script
        ([(31, 1, "bash", "8")], False),  # another job, whatever it runs
        ([(31, 23, "python3.11", "7")], True),  # a worker process
    ],
)
def test_who_is_alone_on_a_node(tmp_path: Path, others: list[tuple[int, int, str, str]], alone: bool) -> None:
    assert is_alone(SUPERVISOR, proc=proc_with(tmp_path, *STEP, *others)) == alone


def test_where_slurmstepd_is_not_seen_nobody_knows_who_else_runs(tmp_path: Path) -> None:
    proc = proc_with(tmp_path, (1, 0, "python3.11", "7"), (2, 1, "python3.11", "7"))
    assert not is_alone(2, proc=proc)


def test_what_was_made_since_and_is_not_mapped_is_removed(tmp_path: Path, maps: Mapper) -> None:
    old = segment(tmp_path, "psm_before")
    there = files(tmp_path)
    for name in ("psm_new", "nccl-new", "data"):
        segment(tmp_path, name)
    proc = proc_with(tmp_path, *STEP)
    found = made_since(there, pid=SUPERVISOR, directory=tmp_path, proc=proc)
    assert sorted(found) == ["nccl-new", "psm_new"]
    mapped = maps(tmp_path / "nccl-new")
    assert remove_unmapped(found, directory=tmp_path) == ["psm_new"]
    end(mapped)
    assert old.exists()
    proc_with(tmp_path, (40, 1, "python3.11", "8"))
    assert made_since(there, pid=SUPERVISOR, directory=tmp_path, proc=proc) == {}
