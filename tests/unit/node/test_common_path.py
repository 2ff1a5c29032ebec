"""The link by which a node's directory has the same path as the head's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from raycluster_cli.node.common_path import NOTE, make_common_path, restore_common_path
from raycluster_cli.node.directory import NodeRoot
from raycluster_cli.node.sweep import sweep_root

from .roots import LOCAL, NOBODY, needs_root

Make = Callable[..., NodeRoot]


def as_head(base: Path, tail: str = "0a1b2c3d") -> str:
    return str(base / f"rc-{os.geteuid()}-{tail}")


def common(root: NodeRoot, head_root: str) -> tuple[Path, str]:
    return make_common_path(root.path, head_root, lambda: LOCAL)


def test_a_worker_is_reached_under_its_heads_path_until_it_ends(make: Make, base: Path) -> None:
    root = make()
    root.write_token("secret")
    link = Path(as_head(base))
    assert common(root, str(link)) == (link, "")
    assert (link / "token").read_text() == "secret"
    assert common(root, str(link)) == (link, "")  # the raylet was started again
    link.unlink()  # a program that cleans /tmp
    restore_common_path(root.path, link)
    assert (link / "token").read_text() == "secret"
    assert root.remove() == []
    assert os.listdir(base) == []


def test_the_link_goes_too_when_a_program_that_cleans_tmp_has_removed_its_note(
    make: Make, base: Path
) -> None:
    root, other = make(), base / as_head(base, "99999999")
    common(root, as_head(base))
    other.symlink_to(base / "elsewhere")
    (root.path / NOTE).unlink()
    assert root.remove() == []
    assert os.listdir(base) == [other.name]


def test_a_sweep_removes_the_link_too(make: Make, base: Path) -> None:
    root = make()
    common(root, as_head(base))
    root.close()
    assert sweep_root(root.path) is not None
    assert os.listdir(base) == []


def test_a_link_that_leads_nowhere_is_replaced(make: Make, base: Path) -> None:
    link = Path(as_head(base))
    link.symlink_to(base / "rc-0-99999999")
    root = make()
    assert common(root, str(link)) == (link, "")
    assert link.resolve() == root.path.resolve()


def test_a_link_that_another_node_removes_meanwhile_is_made(
    make: Make, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, root = make(), make()
    link = Path(as_head(base))
    common(other, str(link))
    read = os.readlink

    def removed(path: Path) -> str:
        link.unlink(missing_ok=True)
        return read(path)

    with monkeypatch.context() as changed:
        changed.setattr(os, "readlink", removed)
        found = common(root, str(link))
    assert found == (link, "")
    assert link.resolve() == root.path.resolve()


def test_the_head_itself_and_another_worker_on_this_machine_are_left_alone(make: Make, base: Path) -> None:
    head, root, other = make(role="head"), make(), make()
    assert common(root, str(head.path)) == (root.path, "")
    assert common(head, str(head.path)) == (head.path, "")
    assert stat.S_ISDIR(os.lstat(head.path).st_mode)
    link = Path(as_head(base))
    assert common(root, str(link)) == (link, "")
    assert common(other, str(link)) == (other.path, "")
    other.remove()
    assert link.resolve() == root.path.resolve()


@pytest.mark.parametrize("head_root", ["/etc", "relative", "", "/tmp/rc-99-0a1b2c3d", "/tmp/rc-0-0a1b2c3d/t"])
def test_nothing_is_made_at_a_path_that_is_no_nodes_directory(make: Make, head_root: str) -> None:
    root = make()
    assert common(root, head_root) == (root.path, "")


def test_a_place_that_this_node_does_not_have_is_told(make: Make, base: Path) -> None:
    root = make()
    path, why = common(root, as_head(base / "job.7"))
    assert path == root.path
    assert why == f"{base}/job.7: there is no such directory"


@needs_root
def test_what_another_user_has_put_there_is_not_used(make: Make, base: Path) -> None:
    base.chmod(0o1777)
    root = make()
    for tail, put in (("00000001", Path.mkdir), ("00000002", lambda path: path.symlink_to("/etc"))):
        path = Path(as_head(base, tail))
        put(path)  # type: ignore[operator]
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        assert common(root, str(path)) == (
            root.path,
            f"{path} belongs to another user (uid {NOBODY})",
        )
        assert not (root.path / "common-path").exists()
