"""Removal of this user's directory trees, and of nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.system.removal import remove_tree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to give a directory to another user")


def tree(path: Path) -> Path:
    (path / "a/b").mkdir(parents=True)
    (path / "a/b/file").write_text("x")
    os.mkfifo(path / "a/fifo")
    return path


def test_a_tree_and_one_that_is_gone(tmp_path: Path) -> None:
    root = tree(tmp_path / "root")
    assert remove_tree(root) == []
    assert remove_tree(root) == []
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    precious = tree(tmp_path / "precious")
    root = tree(tmp_path / "root")
    (root / "link").symlink_to(precious)
    assert remove_tree(root) == []
    (tmp_path / "link").symlink_to(precious)
    assert remove_tree(tmp_path / "link") == [f"{tmp_path}/link: Not a directory"]
    assert (precious / "a/b/file").read_text() == "x"


def test_directories_without_permissions_are_opened(tmp_path: Path) -> None:
    root = tree(tmp_path / "root")
    (root / "a/b").chmod(0)
    (root / "a").chmod(0o500)
    assert remove_tree(root) == []
    assert not root.exists()


@needs_root
def test_another_users_directory_is_left_alone(tmp_path: Path) -> None:
    root = tree(tmp_path / "root")
    os.chown(root, 65534, 65534)
    assert remove_tree(root) == [f"{root}: it belongs to another user (uid 65534)"]
    assert (root / "a/b/file").exists()


def test_what_cannot_be_removed_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "root")
    real = os.unlink

    def refuse(path: str, **options: int) -> None:
        if path == "file":
            raise PermissionError(1, "Operation not permitted")
        real(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    assert remove_tree(root) == [f"{root}/a/b/file: you have no permission to write there"]
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["a", "a/b", "a/b/file"]
