"""The keeper, with a real supervisor below it that is a few lines, a real directory and a real record."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster_cli.model.record import NodeReport
from raycluster_cli.state.record import Record
from raycluster_cli.system.proctree import identify, is_running, read_stat
from tests.waiting import wait_until

DEADLINE_S = 60.0

#: A supervisor: it makes its directory, starts a daemon, prints "up PID-OF-DAEMON", and ends as it is told.
SUPERVISOR = """
import os, signal, subprocess, sys, time
from pathlib import Path
from raycluster_cli.supervisor import keeper as keepers
from raycluster_cli.supervisor.keeper import guard

keepers.LOOK_S, keepers.HANDED_ON_S = 0.2, 60.0
base, record, wait_s, ending = sys.argv[1:]
keepers.REMOVE_COPY_S = float(wait_s)
if ending.startswith("# hung"):
    class Hung:
        def find_spec(self, name, *_):
            if name.endswith((".crash_cleanup", ".staging.removal")):
                time.sleep(600)
    sys.meta_path.insert(0, Hung())
keeper_pid = os.getpid()
keeper = guard(float(wait_s))
from raycluster_cli.node.directory import make_node_root
from raycluster_cli.system.keeper_link import KeeperNotes
from raycluster_cli.system.proctree import become_subreaper, identify

become_subreaper()
root = make_node_root("1", env={}, role="worker", base=Path(base), keeper=identify(keeper_pid))
keeper.note(KeeperNotes(host="n1", role="head", record=record, keep_logs="always"))
keeper.note(KeeperNotes(node_root=str(root.path)))
(root.path / "some.log").write_text("a line")
daemon = subprocess.Popen(["setsid", "sleep", "60"])
print("up", daemon.pid, root.path, os.getpgrp() == os.getpid(), flush=True)

def hear():
    os.set_blocking(keeper.relay_fd, True)
    return os.read(keeper.relay_fd, 1)

exec(ending)
"""


class Node:
    """One keeper and its supervisor."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.record = Record.create(directory / "state", "tux", "12")
        self.record.write_node(NodeReport("n1", "head", "joined", pid=7))
        self.process: subprocess.Popen[str] | None = None
        self.daemon = 0
        self.root = Path()
        self.own_group = False

    def start(self, ending: str, wait_s: float = DEADLINE_S, *, within: bool = False) -> Node:
        """``within``: below a process that looks like another keeper, as in a container."""
        words = [sys.executable, "-c", SUPERVISOR, str(self.directory), str(self.record.path), str(wait_s)]
        words += [ending]
        self.process = subprocess.Popen(
            ["raycluster", "-c", '"$@"; exit $?', "sh", *words] if within else words,
            executable="/bin/sh" if within else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = shlex.split(self.process.stdout.readline())
        assert line and line[0] == "up", self.process.communicate(timeout=DEADLINE_S)
        self.daemon, self.root, self.own_group = int(line[1]), Path(line[2]), line[3] == "True"
        return self

    @property
    def supervisor(self) -> int:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(text.split()[0])

    def wait(self) -> tuple[int, str]:
        """(code, stderr); nothing may be left."""
        assert self.process is not None
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        # SIGKILL takes its moment on a busy machine.
        wait_until(lambda: identify(self.daemon) is None, timeout_s=DEADLINE_S, what="the daemon's end")
        assert not self.root.exists()
        return self.process.returncode, errors


@pytest.fixture
def node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:  # pytest's own are too long for a root
        made = Node(Path(name))
        yield made
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def test_a_supervisor_that_is_killed(node: Node) -> None:
    node.start("time.sleep(60)")
    os.kill(node.supervisor, signal.SIGKILL)
    code, errors = node.wait()
    assert code == 137
    assert "was killed by SIGKILL; its processes on this node have been ended" in errors
    end = node.record.read_end()
    assert end is not None
    assert (end.exit_code, end.reason, end.failed_host) == (137, "supervisor-killed", "n1")
    assert (node.record.log_dir("n1") / "some.log").read_text() == "a line"


def test_a_supervisor_that_exits_by_an_error(node: Node) -> None:
    code, errors = node.start("raise ValueError('broken')").wait()
    assert code == 1
    assert "ValueError: broken" in errors
    assert "exited with code 1 without clearing up" in errors
    end = node.record.read_end()
    assert end is not None
    assert (end.exit_code, end.reason) == (1, "bug")


def test_a_clean_exit_is_not_reported(node: Node) -> None:
    code, errors = node.start("daemon.kill(); daemon.wait(); root.remove(); os._exit(3)").wait()
    assert (code, errors) == (3, "")
    assert node.record.read_end() is None


def test_a_record_that_does_not_respond_does_not_keep_the_node_from_being_cleared(node: Node) -> None:
    node.record.log_dir("n1").mkdir(parents=True, exist_ok=True)
    os.mkfifo(node.record.log_dir("n1") / "some.log")  # who writes to it waits
    node.start("time.sleep(60)", wait_s=0.2)
    os.kill(node.supervisor, signal.SIGKILL)
    code, errors = node.wait()
    assert code == 137
    assert f"{node.record.path} does not hold all of this: it did not respond within 0.2 s" in errors


@pytest.mark.parametrize("staged", ["", "/nowhere"])
def test_modules_that_cannot_be_read_do_not_keep_the_keeper(node: Node, staged: str) -> None:
    """They may be on the file server that does not respond.  All processes of the node are ended."""
    note = f"keeper.note(KeeperNotes(staged={staged!r})); print('noted', flush=True)"
    node.start(f"# hung\n{note}\ntime.sleep(60)", wait_s=0.2)
    assert node.process is not None
    assert node.process.stdout is not None
    assert node.process.stdout.readline() == "noted\n"
    os.kill(node.supervisor, signal.SIGKILL)
    _, errors = node.process.communicate(timeout=DEADLINE_S)
    assert node.process.returncode == 137
    wait_until(lambda: identify(node.daemon) is None, timeout_s=DEADLINE_S, what="the daemon's end")
    assert f"{node.root} is left to the next start here" in errors
    assert node.root.exists()


def test_signals_are_relayed_and_the_supervisor_has_a_group_of_its_own(node: Node) -> None:
    node.start("print(hear()[0], flush=True); daemon.kill(); root.remove(); os._exit(0)")
    assert node.own_group
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGUSR1)
    assert node.process.stdout is not None
    assert int(node.process.stdout.readline()) == signal.SIGUSR1
    node.wait()


@pytest.mark.parametrize("within", [False, True])
def test_in_a_container_the_copy_of_the_keeper_outside_is_no_second_signal(node: Node, within: bool) -> None:
    hears = "print(hear()[0], flush=True); " * 2
    node.start(f"{hears} daemon.kill(); root.remove(); os._exit(0)", within=within)
    assert node.process is not None
    assert node.process.stdout is not None
    keeper = node.supervisor if within else node.process.pid
    os.kill(keeper, signal.SIGINT)
    assert int(node.process.stdout.readline()) == signal.SIGINT
    os.kill(keeper, signal.SIGINT)
    if within:
        os.kill(keeper, signal.SIGUSR1)
    assert int(node.process.stdout.readline()) == (signal.SIGUSR1 if within else signal.SIGINT)
    node.wait()


STOPS = "os.kill(os.getpid(), signal.SIGSTOP); "


def is_stopped(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state == "T"


def test_a_stopped_supervisor_that_has_something_to_do_is_continued(node: Node) -> None:
    node.start(f"ended = subprocess.Popen(['true']); {STOPS} daemon.kill(); root.remove(); os._exit(3)")
    code, errors = node.wait()
    assert code == 3
    assert "was stopped (SIGSTOP), and a process that it started has ended: it is continued" in errors


def test_a_stopped_keeper_outside_of_the_container_is_continued(node: Node) -> None:
    node.start("hear(); daemon.kill(); root.remove(); os._exit(3)", within=True)
    assert node.process is not None
    outer, keeper = node.process.pid, node.supervisor
    os.kill(outer, signal.SIGSTOP)
    wait_until(lambda: is_stopped(outer), timeout_s=DEADLINE_S, what="a stopped process")
    os.kill(keeper, signal.SIGUSR1)
    assert node.wait() == (3, "")


def test_another_stopped_supervisor_stays_so_until_a_signal_comes(node: Node) -> None:
    node.start(f"{STOPS} number = hear()[0]; daemon.kill(); root.remove(); os._exit(number)")
    supervisor = node.supervisor
    wait_until(lambda: is_stopped(supervisor), timeout_s=DEADLINE_S, what="a stopped supervisor")
    time.sleep(1.5)  # several looks of its keeper
    assert is_stopped(supervisor)
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGTERM)
    assert node.wait() == (signal.SIGTERM, "")


def test_a_keeper_that_is_killed_is_seen_by_the_supervisor(node: Node) -> None:
    seen = node.directory / "seen"
    node.start(f"Path({str(seen)!r}).write_bytes(hear()); daemon.kill(); root.remove(); os._exit(0)")
    supervisor = identify(node.supervisor)
    assert supervisor is not None
    assert node.process is not None
    node.process.kill()
    wait_until(lambda: seen.exists() and not is_running(supervisor), timeout_s=DEADLINE_S, what="its end")
    assert seen.read_bytes() == b""


def test_the_kernel_kills_the_keeper_last_for_lack_of_memory(node: Node) -> None:
    node.start("hear()")
    assert node.process is not None
    keeper, *others = (
        int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        for pid in (node.process.pid, node.supervisor, node.daemon)
    )
    assert others == [min(keeper + 100, 1000)] * 2


#: A keeper that is stopped while its child removes a copied environment.
STOPPED = """
import os, signal, time
from raycluster_cli.supervisor.keeper import in_child
from raycluster_cli.system.proctree import read_stat

def call():
    os.kill(os.getppid(), signal.SIGSTOP)
    while read_stat(os.getppid()).state != "T":
        time.sleep(0.01)

print(in_child(call, 600.0))
"""


def test_a_keeper_that_is_stopped_while_a_child_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
