"""Making and removing a node's directory; other file systems by their mountinfo."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.node.directory import NodeRoot, make_node_root
from raycluster_cli.node.places import Mount, mount_of, mountinfo, parse_mountinfo

from .roots import LOCAL, NOBODY, needs_root


def test_a_root_is_private_short_and_locked(make: Callable[..., NodeRoot], base: Path) -> None:
    os.umask(old := os.umask(0))
    try:
        os.umask(0o007)
        root = make("12.r1", role="head")
    finally:
        os.umask(old)
    assert root.path.parent == base
    assert root.path.name.startswith(f"rc-{os.geteuid()}-")
    assert stat.S_IMODE(root.path.stat().st_mode) == 0o700
    assert len(str(root.ray_dir)) <= 39
    assert {path.name for path in root.path.iterdir()} == {"about.json", "alive", "logs", "r", "t"}
    about = json.loads((root.path / "about.json").read_text())
    assert (about["key"], about["role"], about["pid"]) == ("12.r1", "head", os.getpid())
    assert root.warnings == ()
    # Ray's longest socket below it still has room.
    name = "session_2026-11-23_04-12-33_123456_4194304/sockets/plasma_store.9"
    with socket.socket(socket.AF_UNIX) as sock:
        longest = root.path.parent / ("r" * (39 - len(str(base)) - 1)) / name
        longest.parent.mkdir(parents=True)
        sock.bind(str(longest))


def test_two_roots_at_once_are_two_directories(make: Callable[..., NodeRoot]) -> None:
    assert make("1").path != make("1").path


def test_the_token_is_for_the_user_alone(make: Callable[..., NodeRoot]) -> None:
    root = make()
    assert root.write_token("secret") == root.token_path
    root.write_token("another")
    assert root.token_path.read_text() == "another"
    assert stat.S_IMODE(root.token_path.stat().st_mode) == 0o600


def test_a_token_that_cannot_be_restored_leaves_no_files(
    make: Callable[..., NodeRoot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried every few seconds."""
    root = make()
    before = sorted(root.path.iterdir())

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        root.restore_token("secret")
        with pytest.raises(OSError, match="No space"):
            root.write_token("secret")
    assert sorted(root.path.iterdir()) == before
    root.restore_token("secret")
    assert root.token_path.read_text() == "secret"


def test_remove_leaves_nothing_and_may_be_repeated(make: Callable[..., NodeRoot]) -> None:
    root = make()
    root.journal("raylet", os.getpid())
    assert root.remove() == []
    assert not root.path.exists()
    assert root.remove() == []


def test_mountinfo_is_read_with_its_escapes_and_options() -> None:
    text = (
        "36 35 98:0 / /my\\040tmp ro,noatime shared:1 master:2 - nfs4 srv:/x rw,vers=4\n"
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "broken line\n"
        "37 1 0:5 / /s rw - tmpfs none ro\n"
    )
    expected = [Mount("/my tmp", "nfs4", True), Mount("/", "ext4"), Mount("/s", "tmpfs", True)]
    assert parse_mountinfo(text) == expected


def test_the_mount_of_a_path_is_the_longest_and_the_last() -> None:
    mounts = [Mount("/", "ext4"), Mount("/a", "xfs"), Mount("/a/b", "nfs"), Mount("/a", "tmpfs")]
    found = {path: mount_of(path, mounts).type for path in ("/", "/ab", "/a", "/a/x", "/a/b/c")}
    assert found == {"/": "ext4", "/ab": "ext4", "/a": "tmpfs", "/a/x": "tmpfs", "/a/b/c": "nfs"}
    assert mount_of("/x", []).type == "unknown"


def test_the_real_mountinfo_knows_this_file_system(base: Path) -> None:
    mounts = parse_mountinfo(mountinfo())
    assert mount_of(str(base), mounts).type == mount_of("/tmp", mounts).type != "unknown"


def test_tmpdir_is_used_when_it_will_do(base: Path) -> None:
    (base / "mine").mkdir(mode=0o700)
    root = make_node_root("1", env={"TMPDIR": str(base / "mine")}, role="head", fallbacks=[base])
    assert root.path.parent == base / "mine"
    root.remove()
    env = {"TMPDIR": str(base / "mine"), "RAY_TMPDIR": str(base)}
    root = make_node_root("1", env=env, role="head", fallbacks=[])
    assert root.path.parent == base
    root.remove()


@pytest.mark.parametrize(
    ("tmpdir", "warned"),
    [
        ("missing", "there is no such directory; using"),
        ("a-directory-with-a-rather-long-name", ""),  # as many sites have it: nothing to worry about
        ("file", "it is not a directory"),
        ("open", "without the sticky bit"),
    ],
)
def test_a_tmpdir_that_will_not_do_is_passed_over(base: Path, tmpdir: str, warned: str) -> None:
    (base / "a-directory-with-a-rather-long-name").mkdir()
    (base / "file").write_text("")
    (base / "open").mkdir()
    (base / "open").chmod(0o777)
    root = make_node_root("1", env={"TMPDIR": str(base / tmpdir)}, role="worker", fallbacks=[base])
    assert root.path.parent == base
    assert len(root.warnings) == bool(warned)
    assert all(warned in warning for warning in root.warnings)
    root.remove()


def test_a_sticky_directory_that_all_can_write_is_fine(base: Path, make: Callable[..., NodeRoot]) -> None:
    base.chmod(0o1777)
    assert make().path.parent == base


def test_a_link_is_followed_to_where_it_leads(base: Path, make: Callable[..., NodeRoot]) -> None:
    (base / "real").mkdir()
    (base / "link").symlink_to(base / "real")
    assert make(base=base / "link").path.parent == base / "real"


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "fuse.sshfs", "beegfs"])
def test_a_network_file_system_is_avoided_and_refused_when_given(base: Path, kind: str) -> None:
    mounts = f"{LOCAL}2 1 0:9 / {base}/net rw - {kind} srv:/x rw\n"
    # The directory is not even there: nothing may be asked of a server that could be dead.
    env = {"TMPDIR": f"{base}/net/tmp"}
    root = make_node_root("1", env=env, role="worker", fallbacks=[base], mounts=lambda: mounts)
    assert root.path.parent == base
    root.remove()
    with pytest.raises(UsageError, match=rf"below {base}/net/x: it is on a network file system \({kind}\)"):
        make_node_root("1", env={}, role="worker", base=base / "net" / "x", mounts=lambda: mounts)


def test_a_link_into_a_network_file_system_is_seen(base: Path) -> None:
    (base / "net").mkdir()
    (base / "link").symlink_to(base / "net")
    mounts = f"{LOCAL}2 1 0:9 / {base}/net rw - nfs4 srv:/x rw\n"
    with pytest.raises(UsageError, match="network file system"):
        make_node_root("1", env={}, role="worker", base=base / "link", mounts=lambda: mounts)


def test_an_unknown_file_system_is_taken_last_with_a_warning(base: Path) -> None:
    (base / "odd").mkdir()
    (base / "known").mkdir()
    mounts = f"{LOCAL}2 1 0:9 / {base}/odd rw - newfs none rw\n"

    def made(fallbacks: list[Path]) -> NodeRoot:
        return make_node_root("1", env={}, role="worker", fallbacks=fallbacks, mounts=lambda: mounts)

    root = made([base / "odd", base / "known"])
    assert (root.path.parent, root.warnings) == (base / "known", ())
    root.remove()
    root = made([base / "odd"])
    assert "type newfs, which may not be local" in root.warnings[0]
    root.remove()


def test_memory_as_the_last_place_is_told(base: Path) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    root = make_node_root("1", env={"TMPDIR": f"{base}/missing"}, role="worker", fallbacks=[Path("/dev/shm")])
    assert any("use the job's memory" in warning for warning in root.warnings)
    assert any("no such directory" in warning for warning in root.warnings)
    root.remove()


def test_when_nothing_will_do_each_place_is_named_with_its_reason(base: Path) -> None:
    (base / "file").write_text("")
    with pytest.raises(RayclusterError) as caught:
        make_node_root(
            "1", env={"TMPDIR": "relative"}, role="worker", fallbacks=[base / "missing", base / "file"]
        )
    assert "relative: it is not an absolute path" in str(caught.value)
    assert f"{base}/missing: there is no such directory; {base}/file: it is not a directory" in str(
        caught.value
    )
    assert "--temp-dir" in caught.value.hint


def test_a_given_place_that_is_too_long_says_how_long_it_may_be(base: Path) -> None:
    long = base / ("x" * 30)
    long.mkdir()
    with pytest.raises(UsageError, match=rf"is {len(str(long))} bytes long, and at most \d+ leave room"):
        make_node_root("1", env={}, role="head", base=long)


def test_bytes_count_not_letters(base: Path) -> None:
    wide = base / ("ü" * 7)
    wide.mkdir()
    with pytest.raises(UsageError, match="bytes long"):
        make_node_root("1", env={}, role="head", base=wide)


@pytest.mark.parametrize("name", ["it's", "b\\s"])
def test_a_place_that_ray_does_not_start_in_is_refused(base: Path, name: str) -> None:
    (base / name).mkdir()
    with pytest.raises(UsageError, match="with which Ray does not start"):
        make_node_root("1", env={}, role="head", base=base / name)
    make_node_root("1", env={"TMPDIR": f"{base / name}"}, role="head", fallbacks=[base]).remove()


@needs_root
def test_a_place_of_somebody_else_is_refused(base: Path) -> None:
    (base / "bob").mkdir()
    os.chown(base / "bob", NOBODY, NOBODY)
    with pytest.raises(UsageError, match=r"belongs to another user \(uid 65534\)"):
        make_node_root("1", env={}, role="head", base=base / "bob")
