"""Where a copy can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.node.places import parse_mountinfo
from raycluster_cli.staging.place import ends_with_job, first_usable, needed_bytes, places, problems

MUCH = 1 << 60


def mounts(path: Path, kind: str) -> str:
    return f"36 35 98:0 / {path} rw shared:1 - {kind} x rw"


def test_the_first_place_with_room_is_taken(tmp_path: Path) -> None:
    table = parse_mountinfo(mounts(tmp_path, "ext4"))
    found = places("auto", {"TMPDIR": str(tmp_path)}, table, size_bytes=1, files=1)
    assert [each.path for each in found[:2]] == [tmp_path, Path(os.path.realpath("/tmp"))]
    assert found[-1].path == Path(os.path.realpath("/dev/shm"))
    usable = first_usable(found)
    assert usable is not None and usable.path == tmp_path


def test_a_directory_that_is_given_is_the_only_one(tmp_path: Path) -> None:
    table = parse_mountinfo(mounts(tmp_path, "ext4"))
    assert [each.path for each in places(str(tmp_path), {}, table, size_bytes=1, files=1)] == [tmp_path]
    assert [str(each.path) for each in places("memory", {}, table, size_bytes=1, files=1)] == ["/dev/shm"]


@pytest.mark.parametrize(
    ("kind", "size_bytes", "problem"),
    [
        ("nfs4", 1, "it is on a network file system (nfs4)"),
        ("ext4", MUCH, "MiB are needed"),
        ("tmpfs", MUCH, "MiB are free for it"),
    ],
)
def test_what_is_wrong_with_a_place_is_said(tmp_path: Path, kind: str, size_bytes: int, problem: str) -> None:
    found = places(str(tmp_path), {}, parse_mountinfo(mounts(tmp_path, kind)), size_bytes=size_bytes, files=1)
    assert problem in problems(found)
    assert problems(found).startswith(f"{tmp_path}: ")
    assert first_usable(found) is None


def test_memory_is_taken_only_half_unless_asked_for(tmp_path: Path) -> None:
    space = os.statvfs(tmp_path)
    size_bytes = space.f_bavail * space.f_frsize * 3 // 4
    table = parse_mountinfo(mounts(tmp_path, "tmpfs"))
    asked = places(str(tmp_path), {}, table, size_bytes=size_bytes, files=1)
    assert asked[0].problem == "" and asked[0].in_memory
    found = places("auto", {"TMPDIR": str(tmp_path)}, table, size_bytes=size_bytes, files=1)
    assert "are free for it" in found[0].problem


@pytest.mark.parametrize(
    ("name", "problem"), [("missing", "no such directory"), ("file", "it is not a directory")]
)
def test_a_path_that_is_no_directory(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "file").write_text("")
    found = places(str(tmp_path / name), {}, parse_mountinfo(mounts(tmp_path, "ext4")), size_bytes=1, files=1)
    assert problem in found[0].problem


def test_a_directory_in_which_others_can_rename(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    found = places(str(tmp_path), {}, parse_mountinfo(mounts(tmp_path, "ext4")), size_bytes=1, files=1)
    assert "sticky" in found[0].problem


def test_small_files_take_blocks() -> None:
    assert needed_bytes(0, 10_000) > 10_000 * 1024


@pytest.mark.parametrize(
    ("path", "mount", "ends"),
    [
        ("/tmp/rce-0-0a1b2c3d", "36 35 98:0 / / rw - ext4 x rw", False),
        ("/tmp/rce-0-0a1b2c3d", "36 35 98:0 /base/n1/71/.71 /tmp rw - ext4 x rw", True),
        ("/tmp/rce-0-0a1b2c3d", "36 35 98:0 /base/n1/71/.71 /var/tmp rw - ext4 x rw", False),
        ("/tmp/rce-0-0a1b2c3d", "36 35 98:0 /base/n1/711/.711 /tmp rw - ext4 x rw", False),
        ("/local/job_71/rce-0-0a1b2c3d", "", True),
        ("/local/ada.71/rce-0-0a1b2c3d", "", True),
        ("/local71/rce-0-0a1b2c3d", "", False),
        ("/local/x-171/rce-0-0a1b2c3d", "", False),
    ],
)
def test_a_directory_of_the_job_ends_with_it(path: str, mount: str, ends: bool) -> None:
    assert ends_with_job(path, "71", mount) == ends


def test_outside_of_a_job_nothing_ends_with_it() -> None:
    assert not ends_with_job("/local/71/x", "", "")
