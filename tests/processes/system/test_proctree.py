"""Processes by /proc: identity, descendants, and the end of a tree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raycluster_cli.system import proctree
from raycluster_cli.system.proctree import (
    ProcessRef,
    TreeEnd,
    descendants,
    identify,
    is_running,
    kernel_identity,
    let_tree_go_on,
    parse_stat,
    read_stat,
    send_signal,
)
from tests.waiting import wait_until

TREE = "trap '' TERM; sleep 600 & (sleep 600 & exec sleep 600) & echo up; wait"


@contextmanager
def shell(script: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        try:
            yield process
        finally:
            for stat in descendants(process.pid):
                send_signal(stat.ref, signal.SIGKILL)
            process.kill()


@pytest.mark.parametrize(
    ("line", "name", "state", "parent"),
    [
        ("7 (sh) S 1" + " 0" * 17 + " 991 0", "sh", "S", 1),
        ("7 (a) b (c)) Z 4" + " 0" * 17 + " 991 0", "a) b (c)", "Z", 4),
    ],
)
def test_a_line_of_stat(line: str, name: str, state: str, parent: int) -> None:
    stat = parse_stat(line)
    assert (stat.pid, stat.name, stat.state, stat.parent, stat.ref) == (
        7,
        name,
        state,
        parent,
        ProcessRef(7, 991),
    )


def test_this_process() -> None:
    me = identify(os.getpid())
    assert me is not None and is_running(me)
    assert not is_running(ProcessRef(me.pid, me.start_ticks + 1))
    assert not send_signal(ProcessRef(me.pid, me.start_ticks + 1), signal.SIGKILL)
    stat = read_stat(os.getpid())
    assert stat is not None and stat.parent == os.getppid()
    assert read_stat(2**22 + 1) is identify(2**22 + 1) is None


def test_a_zombie_does_not_run() -> None:
    with subprocess.Popen(["true"]) as child:
        ref = identify(child.pid)
        assert ref is not None
        wait_until(lambda: not is_running(ref), timeout_s=30, what="the end of true", interval_s=0.005)
        assert identify(child.pid) == ref  # not yet reaped
        assert child.pid not in [stat.pid for stat in descendants(os.getpid())]


def test_the_kernel_is_identified() -> None:
    identity = kernel_identity()
    assert len(identity["boot_id"]) == 36
    assert identity["pid_namespace"].startswith("pid:[")


def test_descendants_of_all_generations_but_those_skipped() -> None:
    with shell(TREE) as process:
        found = wait_until(
            lambda: len(all_ := descendants(process.pid)) == 3 and all_, timeout_s=30, what="three sleeps"
        )
        assert found[0].parent == process.pid
        grandchild = next(stat for stat in found if stat.parent != process.pid)
        left = descendants(process.pid, skip=[grandchild.parent])
        assert len(left) == 1 and left[0].pid not in (grandchild.pid, grandchild.parent)


def test_stopped_processes_of_a_tree_are_continued() -> None:
    with shell(TREE) as process:
        wait_until(lambda: len(descendants(process.pid)) == 3, timeout_s=30, what="three sleeps")
        stopped = {process.pid, descendants(process.pid)[-1].pid}
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        wait_until(
            lambda: all((stat := read_stat(pid)) and stat.state == "T" for pid in stopped),
            timeout_s=30,
            what="two stopped processes",
        )
        root = identify(process.pid)
        assert root is not None
        assert let_tree_go_on(root.but(start_ticks=root.start_ticks + 1)) == []  # an earlier process's id
        assert set(let_tree_go_on(root)) == stopped
        wait_until(lambda: let_tree_go_on(root) == [], timeout_s=30, what="none that is stopped")


def test_a_tree_gets_sigterm_once_and_sigkill_after_the_grace_period() -> None:
    now = 0.0
    child = """trap "echo told" TERM; echo up; while :; do sleep 0.01; done"""
    with shell(f"sh -c '{child}'; true") as process:
        end = TreeEnd(process.pid, grace_s=5, kill_wait_s=5, clock=lambda: now)
        assert not end.step()
        assert "sh" in [stat.name for stat in end.left]
        assert process.stdout is not None and process.stdout.readline() == "told\n"
        now = 4.9
        assert not end.step()
        now = 5.0
        wait_until(end.step, timeout_s=30, what="the end of the tree", interval_s=0.005)
        assert end.left == []
        assert process.stdout.read() == ""  # one SIGTERM, not one for each step
        process.wait(timeout=30)


def test_what_cannot_be_killed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    with shell("echo up; sleep 600; true") as process:
        wait_until(lambda: descendants(process.pid), timeout_s=30, what="sleep", interval_s=0.005)
        with monkeypatch.context() as patch:
            patch.setattr(proctree, "send_signal", lambda ref, number: False)
            end = TreeEnd(process.pid, grace_s=1, kill_wait_s=2, clock=lambda: now)
            assert not end.step()
            now = 3.0
            assert not end.step()
            now = 3.1
            assert end.step()
            assert [stat.name for stat in end.left] == ["sleep"]


def test_a_subreaper_ends_and_reaps_daemons_too() -> None:
    code = """
        import os, signal, subprocess
        from raycluster_cli.system.proctree import (
            become_subreaper, descendants, end_descendants_of_this_process as end_all
        )
        become_subreaper()
        # A daemon: forked twice, in a session of its own, deaf to SIGTERM.
        script = "trap '' TERM; echo up; while :; do sleep 0.01; done"
        starter = subprocess.Popen(["setsid", "-f", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        assert starter.stdout.readline() == "up\\n"
        starter.wait()
        names = {stat.name for stat in descendants(os.getpid())}
        print("sh" in names, end_all(0.05), descendants(os.getpid()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "True [] []\n", done.stderr
