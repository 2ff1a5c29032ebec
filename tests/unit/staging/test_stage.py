"""A head copies the environment and tells its workers, which unpack it; what is in the way is said."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.node.staged_copy import read_about
from raycluster_cli.staging import stage as module
from raycluster_cli.staging.inventory import Inventory, take_inventory
from raycluster_cli.staging.note import NoHead, NoteWriter, note_path, remove_old, wait_for_note
from raycluster_cli.staging.removal import clear_copy
from raycluster_cli.staging.sources import Interpreter, find_sources
from raycluster_cli.staging.stage import NotStaged, Request, Staged, stage
from raycluster_cli.system.keeper_link import KeeperNotes
from tests.unit.staging.environments import make_environment
from tests.waiting import wait_until


class Bench:
    """A shared file system and a node's disk, as directories."""

    def __init__(self, root: Path) -> None:
        self.shared, self.disk = root / "shared", root / "disk"
        self.disk.mkdir()
        self.python = make_environment(self.shared)
        self.made: list[Path] = []

    def request(self, **changes: object) -> Request:
        note = note_path(self.shared / "state", "c", "1", "0.4711+")
        base = Request(
            value=str(self.disk), env={}, host="n1", job="c/1", note=note, is_head=True, same_step=True
        )
        return base.but(**changes)

    def stage(self, python: Interpreter | None = None, **changes: object) -> Staged:
        return stage(self.request(**changes), python or self.python, self.made.append)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    before = set(os.listdir("/proc/self/fd"))
    yield Bench(tmp_path)
    for fd in set(os.listdir("/proc/self/fd")) - before:  # locks are held to the end of a process
        with contextlib.suppress(OSError):
            os.close(int(fd))


def released(bench: Bench, staged: Staged) -> None:
    """As after the end of the processes that used it."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == str(staged.path):
                os.close(int(fd))


def test_a_head_copies_and_a_worker_unpacks_under_the_same_path(bench: Bench) -> None:
    head = bench.stage()
    assert head.path.parent == bench.disk
    assert "copied to" in head.text and "on n1 in" in head.text and "MB/s" in head.text
    assert f"{bench.shared}/src stays on the shared file system" in head.text
    released(bench, head)
    shutil.rmtree(head.path)
    worker = bench.stage(is_head=False, host="n2")
    assert worker.path == head.path
    assert dict(worker.pairs) == dict(head.pairs)
    assert "unpacked to" in worker.text
    assert (worker.path / "env/bin/tool").exists()
    assert read_about(worker.path)["job"] == "c/1"
    assert bench.made == [head.path, head.path]


def test_the_next_cluster_of_the_job_uses_the_copy_again(bench: Bench) -> None:
    first = bench.stage()
    second = bench.stage()
    assert second.path == first.path
    assert "is on n1 already" in second.text
    assert bench.made == [first.path]
    assert "is on n2 already" in bench.stage(is_head=False, host="n2").text


@pytest.fixture
def no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do not wait for its first note."""
    for name in ("FIRST_NOTE_S", "OTHER_STEP_NOTE_S"):
        monkeypatch.setattr(module, name, 0.0)


def test_a_changed_environment_is_copied_anew(bench: Bench) -> None:
    first = bench.stage()
    (bench.shared / "env/lib/python3.11/site-packages/package/new.py").write_text("")
    assert bench.stage().path != first.path


def test_a_copy_of_a_maker_that_was_killed_is_made_anew(bench: Bench) -> None:
    first = bench.stage()
    released(bench, first)
    (first.path / "about.json").unlink()
    (first.path / "env/pyvenv.cfg").write_text("half")
    assert "copied to" in bench.stage().text
    assert (first.path / "env/pyvenv.cfg").read_text() != "half"


def test_another_job_has_a_copy_of_its_own(bench: Bench) -> None:
    assert bench.stage().path != bench.stage(job="c/2", note=None).path


def head_and_worker(bench: Bench) -> tuple[Staged, Staged]:
    """Both at once, as in a job."""
    found: list[Staged] = []
    thread = threading.Thread(target=lambda: found.append(bench.stage()))
    thread.start()
    worker = bench.stage(is_head=False, host="n2")
    thread.join()
    return found[0], worker


def test_workers_wait_until_the_head_has_packed(bench: Bench) -> None:
    head, worker = head_and_worker(bench)
    assert worker.path == head.path


def test_a_head_that_looks_for_long_reports_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 ms for each operation the look at all files took minutes, and workers took the head for dead."""
    note = bench.request().note
    assert note is not None

    def beat() -> int:
        return int(json.loads(note.read_text())["beat"])

    def told(number: int) -> bool:
        return beat() >= number

    def slowly(*arguments: Any, step: Callable[[], None], **options: Any) -> Inventory:
        for _ in range(3):
            next_one = beat() + 1
            step()
            wait_until(partial(told, next_one), timeout_s=30, what="a report", interval_s=0.005)
        return take_inventory(*arguments, step=step, **options)

    monkeypatch.setattr(module, "NoteWriter", partial(NoteWriter, beat_s=0.01))
    monkeypatch.setattr(module, "take_inventory", slowly)
    assert "copied to" in bench.stage().text


def test_a_head_whose_file_system_does_not_answer_reports_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a/note.json"

    def beat() -> int:
        return int(json.loads(path.read_text())["beat"])

    with NoteWriter(path, beat_s=0.002) as writer:
        writer.write(state="searching")
        wait_until(lambda: beat() == 2, timeout_s=10, what="a beat", interval_s=0.005)
        time.sleep(0.05)
        assert beat() == 2
        writer.moved()
        wait_until(lambda: beat() == 3, timeout_s=10, what="a beat", interval_s=0.005)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"value": "/proc"}, "there is no room for 10 MB: /proc: "),
        ({"value": "/missing"}, "/missing: there is no such directory"),
        ({"env": {"APPTAINER_CONTAINER": "/x.sif"}}, "container"),
        ({"is_head": False}, "the head did not say"),
    ],
)
@pytest.mark.usefixtures("no_head")
def test_what_is_in_the_way_is_said(bench: Bench, changes: dict[str, object], why: str) -> None:
    with pytest.raises(NotStaged) as error:
        bench.stage(**changes)
    assert why in str(error.value)
    assert list(bench.disk.iterdir()) == []


def test_workers_use_the_shared_environment_with_their_head_and_say_nothing(bench: Bench) -> None:
    with pytest.raises(NotStaged):
        bench.stage(value="/missing")
    with pytest.raises(NotStaged) as error:
        bench.stage(is_head=False)
    assert str(error.value) == ""


def test_a_broken_pack_leaves_nothing(bench: Bench) -> None:
    head = bench.stage()
    released(bench, head)
    shutil.rmtree(head.path)
    note = bench.request().note
    assert note is not None
    pack = note.with_suffix(".pack")
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.write_bytes(data)
    with pytest.raises(NotStaged, match="is damaged at byte 0"):
        bench.stage(is_head=False)
    assert list(bench.disk.iterdir()) == []


def test_a_worker_with_another_python_uses_its_own(bench: Bench) -> None:
    bench.stage()
    other = bench.python.but(executable="/other/bin/python", prefix="/other")
    with pytest.raises(NotStaged, match=r"this node's Python is /other/bin/python, the head's is "):
        bench.stage(other, is_head=False)


@pytest.mark.usefixtures("no_head")
def test_a_worker_of_another_step_without_a_head_makes_its_own_copy(bench: Bench) -> None:
    worker = bench.stage(is_head=False, same_step=False)
    assert "copied to" in worker.text


def test_a_python_of_the_operating_system_is_not_copied(bench: Bench) -> None:
    system = Interpreter("/usr/bin/python3", "/usr", "/usr", "/usr/bin/python3", "python3.11")
    with pytest.raises(NotStaged, match="part of the operating system"):
        bench.stage(system)


def test_a_conda_environment_with_a_short_path_is_not_copied(bench: Bench) -> None:
    metas = bench.shared / "env/conda-meta"
    metas.mkdir()
    long = bench.disk / ("x" * 60)
    long.mkdir()
    with pytest.raises(NotStaged, match="is longer than"):
        bench.stage(value=str(long))


def test_the_keeper_removes_copy_note_and_pack(bench: Bench) -> None:
    head = bench.stage()
    note = bench.request().note
    notes = KeeperNotes(staged=str(head.path), stage_note=str(note))
    clear_copy(notes)
    assert head.path.exists()  # in use
    released(bench, head)
    clear_copy(notes.but(keep_env=True))
    assert head.path.exists()
    clear_copy(notes)
    assert not head.path.exists()
    assert list((bench.shared / "state/.environments").rglob("*")) == []


@pytest.mark.parametrize("notes", [{}, {"staged": "/missing/rce-0-0a1b2c3d"}, {"stage_note": "/missing/x"}])
def test_the_keeper_finds_nothing_to_remove(notes: dict[str, object]) -> None:
    clear_copy(KeeperNotes.from_known(notes))


def test_a_head_that_stops_reporting_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a/note.json"
    NoteWriter(path).write(state="searching")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] < 50:
            NoteWriter(path).write(state="searching", beat=0, done=now[0])
            content = json.loads(path.read_text())
            path.write_text(json.dumps(content | {"beat": now[0]}))

    with pytest.raises(NoHead, match="has not reported for 60 s"):
        wait_for_note(
            path, lambda _: False, first_s=1, silent_s=60, poll_s=1, clock=lambda: now[0], sleep=sleep
        )
    assert now[0] > 100


def test_sources_of_a_virtual_environment(tmp_path: Path) -> None:
    python = make_environment(tmp_path)
    found = find_sources(python, {}, same_device=True)
    assert [(source.path, source.target) for source in found] == [
        (python.prefix, "env"),
        (python.base_prefix, "base"),
    ]
    assert [source.target for source in find_sources(python, {}, same_device=False)] == ["env"]
    remote = find_sources(python, {}, same_device=False, is_remote=True)
    assert [source.target for source in remote] == ["env", "base"]
    system = python.but(base_prefix="/usr")
    assert [source.target for source in find_sources(system, {}, same_device=True)] == ["env"]


def test_sources_of_pythonpath_are_package_directories_only(tmp_path: Path) -> None:
    system = Interpreter("/usr/bin/python3", "/usr", "/usr", "/usr/bin/python3", "python3.11")
    for name in ("installed/x-1.dist-info", "project/x.egg-info", "lib/site-packages"):
        (tmp_path / name).mkdir(parents=True)
    paths = [f"{tmp_path}/{name}" for name in ("installed", "project", "lib/site-packages", "missing")]
    found = find_sources(system, {"PYTHONPATH": ":".join([*paths, "relative", ""])})
    assert [(source.path, source.target) for source in found] == [(paths[0], "path0"), (paths[2], "path1")]


def test_notes_of_heads_that_lost_power_are_removed_after_days(tmp_path: Path) -> None:
    for key in ("1", "2"):
        NoteWriter(note_path(tmp_path, "c", key, "0")).write(state="ready")
        (tmp_path / ".environments/c" / key / "0.pack").write_bytes(b"x")
    directory = tmp_path / ".environments/c"
    for path in (directory / "1", *(directory / "1").iterdir()):
        os.utime(path, (1000, 1000))
    assert remove_old(directory) == [directory / "1"]
    assert [path.name for path in directory.iterdir()] == ["2"]
