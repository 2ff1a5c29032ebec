"""A copy is locked while it is made and while it is used; its last user or a later start removes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.node.staged_copy import (
    ABOUT,
    begin_copy,
    copy_name,
    copy_of,
    open_copy,
    remove_own_copy,
    remove_unused,
    sweep_copies,
    write_about,
)

NAME = copy_name(os.geteuid(), "0a1b2c3d")


def made(path: Path, **about: object) -> int:
    """A complete copy that this process still holds exclusively."""
    lock = begin_copy(path)
    assert lock is not None
    (path / "env").mkdir()
    (path / "env/file").write_text("x")
    write_about(path, {"job": "c/1", "keep": False, **about})
    return lock


def test_a_copy_in_the_making_is_waited_for(tmp_path: Path) -> None:
    lock = begin_copy(tmp_path / NAME)
    assert lock is not None
    with pytest.raises(BlockingIOError):
        open_copy(tmp_path / NAME)
    assert begin_copy(tmp_path / NAME) is None
    assert remove_unused(tmp_path / NAME) is None
    os.close(lock)
    assert open_copy(tmp_path / NAME) is None  # its maker ended before it was complete


def test_the_last_user_removes_a_copy(tmp_path: Path) -> None:
    os.close(made(tmp_path / NAME))
    first, second = open_copy(tmp_path / NAME), open_copy(tmp_path / NAME)
    assert first is not None and second is not None
    os.close(first)
    assert remove_unused(tmp_path / NAME) is None
    assert (tmp_path / NAME / "env/file").exists()
    os.close(second)
    removed = remove_unused(tmp_path / NAME)
    assert removed is not None and removed.left == ()
    assert not (tmp_path / NAME).exists()
    assert open_copy(tmp_path / NAME) is None


def test_what_is_not_a_directory_of_ours_is_left_alone(tmp_path: Path) -> None:
    assert remove_unused(tmp_path / NAME) is None
    (tmp_path / "other").mkdir()
    (tmp_path / NAME).symlink_to(tmp_path / "other")
    assert remove_unused(tmp_path / NAME) is None
    assert (tmp_path / "other").exists()
    with pytest.raises(OSError):
        open_copy(tmp_path / NAME)


@pytest.mark.parametrize(
    ("about", "job", "stays"),
    [
        ({"keep": True}, "c/1", True),
        ({"keep": True}, "c/2", False),
        ({"keep": True}, "", False),
        ({"keep": False}, "c/1", False),
    ],
)
def test_a_start_removes_what_its_job_does_not_keep(
    tmp_path: Path, about: dict[str, object], job: str, stays: bool
) -> None:
    os.close(made(tmp_path / NAME, **about))
    (tmp_path / "rce-x").mkdir()
    swept = sweep_copies([tmp_path, tmp_path / "missing"], job=job, mounts=str)
    assert [each.path for each in swept] == ([] if stays else [tmp_path / NAME])
    assert (tmp_path / NAME).exists() == stays
    assert (tmp_path / "rce-x").exists()


def test_a_start_leaves_copies_that_are_used_or_just_begun(tmp_path: Path) -> None:
    lock = made(tmp_path / NAME)
    young = tmp_path / copy_name(os.geteuid(), "11111111")
    young.mkdir()
    assert sweep_copies([tmp_path], job="", mounts=str) == []
    os.close(lock)
    os.unlink(tmp_path / NAME / ABOUT)
    assert sweep_copies([tmp_path], job="", mounts=str) == []
    assert len(sweep_copies([tmp_path], job="", mounts=str, young_s=0)) == 2


def test_nothing_is_listed_on_a_network_file_system(tmp_path: Path) -> None:
    os.close(made(tmp_path / NAME))
    mounts = f"36 35 98:0 / {tmp_path} rw shared:1 - nfs4 srv:/x rw"
    assert sweep_copies([tmp_path], job="", mounts=lambda: mounts) == []
    assert (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/tmp/rce-0-0a1b2c3d/env", True),
        ("/local/job/rce-1000-0a1b2c3d", True),
        ("/tmp/rce-0-0a1b2c3d4/env", False),
        ("/home/ada/env", False),
    ],
)
def test_a_process_knows_that_it_runs_from_a_copy(path: str, inside: bool) -> None:
    assert (copy_of(path) is not None) == inside


@pytest.mark.parametrize("keep", [False, True])
def test_a_process_removes_the_copy_that_it_runs_from(tmp_path: Path, keep: bool) -> None:
    os.close(made(tmp_path / NAME, keep=keep))
    assert open_copy(tmp_path / NAME) is not None
    remove_own_copy(str(tmp_path / NAME / "env"))
    assert (tmp_path / NAME).exists() == keep


def test_a_process_that_runs_from_no_copy_removes_nothing(tmp_path: Path) -> None:
    remove_own_copy(str(tmp_path))
    assert tmp_path.exists()
