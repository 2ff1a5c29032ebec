"""Which logs of a node are kept, and how much of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.node import log_archive
from raycluster_cli.node.log_archive import copy_logs


def write(root: Path, name: str, text: str, when: float = 100.0) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (when, when))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node's directory with a session, and the link to it that Ray makes."""
    root = tmp_path / "node"
    write(root, "r/session_1/logs/raylet.out", "raylet")
    (root / "r" / "session_latest").symlink_to("session_1")
    return root


def kept(target: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(target.iterdir())}


def test_logs_of_raycluster_of_ray_and_of_worker_processes(root: Path, tmp_path: Path) -> None:
    write(root, "raycluster.log", "a traceback")
    write(root, "r/companion.log", "companion")
    write(root, "r/session_1/logs/worker-1.out", "worker")
    write(root, "r/session_1/logs/empty.out", "")
    write(root, "r/session_1/logs/old/raylet.out", "no log of its own")
    write(root, "token", "a secret")
    write(root, "r/session_1/sockets/raylet", "no log")
    (root / "r" / "session_1" / "logs" / "link.out").symlink_to(root / "token")
    copied = copy_logs(root, tmp_path / "to" / "n1")
    assert kept(tmp_path / "to" / "n1") == {
        "companion.log": "companion",
        "raycluster.log": "a traceback",
        "raylet.out": "raylet",
        "worker-1.out": "worker",
    }
    assert copied == sum(map(len, ("companion", "a traceback", "raylet", "worker")))


def test_of_each_file_the_end_is_kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_archive, "MAX_FILE_BYTES", 3)
    assert copy_logs(root, tmp_path / "to") == 3
    assert kept(tmp_path / "to") == {"raylet.out": "let"}


def test_the_most_useful_come_first(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the node's share goes to the newest files of worker processes, errors first."""
    logs = "r/session_1/logs"
    for name, when in (("old.out", 100), ("new.out", 200), ("old.err", 100), ("new.err", 200)):
        write(root, f"{logs}/worker-{name}", "12345678", when)
    write(root, f"{logs}/raylet.err", "error")
    write(root, f"{logs}/log_monitor.log", "monitor")
    first = ["log_monitor.log", "raylet.err", "raylet.out"]
    shares = [
        (5, ["raylet.err"]),
        (11, ["raylet.err", "raylet.out"]),
        (18, first),
        (26, [*first, "worker-new.err"]),
        (42, [*first, "worker-new.err", "worker-new.out", "worker-old.err"]),
    ]
    for number, (share, names) in enumerate(shares):
        monkeypatch.setattr(log_archive, "MAX_NODE_BYTES", share)
        assert copy_logs(root, tmp_path / str(number)) == share
        assert sorted(kept(tmp_path / str(number))) == names


def test_the_last_session_counts(root: Path, tmp_path: Path) -> None:
    """Not the one before it, whichever the directory lists first; and no file takes its share twice."""
    for session, when in ((2, 300.0), (3, 200.0)):
        write(root, f"r/session_{session}/logs/raylet.out", f"of {session}", when)
        write(root, f"r/session_{session}/logs/worker-{session}.out", "x", when)
    assert copy_logs(root, tmp_path / "to") == len("of 2") + 2
    assert kept(tmp_path / "to") == {"raylet.out": "of 2", "worker-2.out": "x", "worker-3.out": "x"}


def test_a_file_that_cannot_be_read_is_left_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, "r/session_1/logs/raylet.err", "error")
    opened = open

    def fails(path: Path, mode: str) -> object:
        if path.name == "raylet.err":
            raise OSError("its disk has failed")
        return opened(path, mode)

    monkeypatch.setattr("builtins.open", fails)
    copy_logs(root, tmp_path / "to")
    monkeypatch.undo()
    assert kept(tmp_path / "to") == {"raylet.out": "raylet"}


def test_a_record_that_cannot_be_written_is_an_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RayclusterError):
        copy_logs(root, tmp_path / "file" / "n1")


def test_a_node_without_logs(tmp_path: Path) -> None:
    assert copy_logs(tmp_path / "none", tmp_path / "to") == 0
