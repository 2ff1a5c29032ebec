"""The directory for spilled objects is there before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.spill_directory import make_spill_directory, mode_kept


def test_it_is_made_for_all_users(tmp_path: Path) -> None:
    make_spill_directory(None)
    path = tmp_path / "scratch/spilled"
    for _ in range(2):
        make_spill_directory(str(path))
        assert path.stat().st_mode & 0o7777 == 0o1777


def test_one_that_is_there_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "scratch"
    path.mkdir(0o700)
    make_spill_directory(str(path))
    assert path.stat().st_mode & 0o7777 == 0o700


def test_one_that_cannot_be_made_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartFailure, match=r"--spill-dir .*/file/spilled cannot be made: Not a directory"):
        make_spill_directory(str(tmp_path / "file/spilled"))


def test_what_ray_does_to_its_mode_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "scratch"
    path.mkdir(0o700)
    with pytest.raises(KeyError), mode_kept(str(path)):
        path.chmod(0o777)
        raise KeyError
    assert path.stat().st_mode & 0o7777 == 0o700
    with mode_kept(None), mode_kept(str(tmp_path / "none")):
        pass
