"""Processes of a node: adopted, reported when they end, ended in order.  `sleep` stands in for Ray's."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raycluster_cli.node import processes as module
from raycluster_cli.node.processes import NodeProcesses
from raycluster_cli.node.stopped import LOOKS, continue_stopped
from raycluster_cli.system.process import Child, Reaper
from raycluster_cli.system.proctree import descendants, is_running, read_stat
from raycluster_cli.system.report import Report
from raycluster_cli.system.shared_memory import SHM
from tests.waiting import wait_until


@dataclass
class Scene:
    reaper: Reaper
    out: io.StringIO = field(default_factory=io.StringIO)
    noted: list[tuple[str, int]] = field(default_factory=list)
    died: list[tuple[str, int]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def processes(self, got: Collection[int] = ()) -> NodeProcesses:
        return NodeProcesses(
            host="n1",
            reaper=self.reaper,
            report=Report(stream=self.out),
            note=lambda name, pid: self.noted.append((name, pid)),
            on_death=lambda child, code: self.died.append((child.name, code)),
            got_signal=lambda number: number in got,
        )

    def spawn(self, *command: str) -> int:
        return self.reaper.spawn(command or ("sleep", "60"), "x").pid

    def adopt(self, processes: NodeProcesses, name: str, *command: str) -> Child:
        child = processes.adopt(name, self.spawn(*command))
        child.exited.add_done_callback(lambda _: self.ended.append(name))
        return child


def run(scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def within() -> None:
        reaper = Reaper()
        reaper.attach(asyncio.get_running_loop())
        await asyncio.wait_for(scene(Scene(reaper)), 30)

    asyncio.run(within())


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_end_of_a_process_that_the_node_needs_is_a_death(name: str) -> None:
    async def test(scene: Scene) -> None:
        child = scene.adopt(scene.processes(), name)
        assert scene.noted == [(name, child.pid)]
        os.kill(child.pid, signal.SIGKILL)
        while not scene.died:
            await asyncio.sleep(0.005)
        assert scene.died == [(name, -signal.SIGKILL)]

    run(test)


def test_without_the_others_the_cluster_continues() -> None:
    async def test(scene: Scene) -> None:
        child = scene.adopt(scene.processes(), "log_monitor")
        os.kill(child.pid, signal.SIGTERM)
        while not scene.out.getvalue():
            await asyncio.sleep(0.005)
        assert scene.died == []
        assert "log_monitor on n1 was killed by SIGTERM; the cluster continues" in scene.out.getvalue()

    run(test)


@pytest.mark.parametrize("how", ["all got it", "the node ends"])
def test_one_that_was_told_to_end_as_all_are_is_no_news(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster_cli.node.processes.SIGNAL_SPREAD_S", 0.05)

    async def test(scene: Scene) -> None:
        processes = scene.processes(got={signal.SIGTERM} if how == "all got it" else set())
        child = scene.adopt(processes, "log_monitor")
        os.kill(child.pid, signal.SIGTERM)
        await child.exited
        if how == "the node ends":
            processes.expect_end()
        await asyncio.sleep(0.2)
        assert "the cluster continues" not in scene.out.getvalue()

    run(test)


def test_the_end_of_a_process_that_has_a_successor_is_none() -> None:
    async def test(scene: Scene) -> None:
        processes = scene.processes()
        first, second = scene.adopt(processes, "raylet"), scene.adopt(processes, "raylet")
        await first.stop(0)
        await asyncio.sleep(0)
        assert scene.died == []
        await second.stop(0)
        await asyncio.sleep(0)
        assert scene.died == [("raylet", -signal.SIGKILL)]

    run(test)


@pytest.mark.parametrize("hurried", [False, True])
def test_the_raylet_ends_first_and_the_gcs_is_killed(hurried: bool) -> None:
    async def test(scene: Scene) -> None:
        processes = scene.processes()
        gcs = scene.adopt(processes, "gcs_server")
        raylet, monitor = (scene.adopt(processes, name) for name in ("raylet", "log_monitor"))
        orphan = scene.adopt(processes, "agent")
        hurry = asyncio.Event()
        if hurried:
            hurry.set()
        await processes.end(hurry)
        assert scene.ended[0] == "raylet"
        assert not any(is_running(child.ref) for child in (gcs, raylet, monitor, orphan))
        assert raylet.exited.result() == -(signal.SIGKILL if hurried else signal.SIGTERM)
        assert await gcs.exited == -signal.SIGKILL  # it was never asked
        assert scene.died == []
        assert scene.out.getvalue() == ""
        processes.start_again()
        again = scene.adopt(processes, "raylet")
        await again.stop(0)
        await asyncio.sleep(0)
        assert scene.died == [("raylet", -signal.SIGKILL)]

    run(test)


MAPS = """
import mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    held = mmap.mmap(file.fileno(), 0)
open(sys.argv[1] + ".mapped", "x").close()
time.sleep(60)
"""


def test_shared_memory_of_the_processes_is_removed_at_the_end() -> None:
    name = f"psm_{os.getpid()}"
    ours, other = SHM / name, SHM / f"{name}-other"
    mapped = Path(f"{ours}.mapped")
    try:
        for path in (ours, other):
            path.touch(mode=0o600)
            path.write_bytes(b"\0" * 4096)

        async def test(scene: Scene) -> None:
            processes = scene.processes()
            scene.adopt(processes, "raylet", sys.executable, "-c", MAPS, str(ours))
            await asyncio.to_thread(wait_until, mapped.exists, timeout_s=20, what="a mapping")
            await processes.end(asyncio.Event())

        run(test)
        assert not ours.exists()
        assert other.exists()
    finally:
        for path in (ours, other, mapped):
            path.unlink(missing_ok=True)


def test_what_was_stopped_while_ray_starts_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below a child; and not what was stopped once Ray runs."""
    look = continue_stopped
    monkeypatch.setattr(module, "continue_stopped", lambda tell: look(tell, look_s=0.02))

    def is_stopped(pid: int) -> bool:
        stat = read_stat(pid)
        return stat is not None and stat.state == "T"

    async def test(scene: Scene) -> None:
        shell = scene.spawn("sh", "-c", "sleep 60 & wait")
        while not (below := descendants(shell)):
            await asyncio.sleep(0.005)
        pid = below[0].pid
        async with scene.processes().continued():
            os.kill(pid, signal.SIGSTOP)
            while f"sleep (process {pid}) on n1 was stopped" not in scene.out.getvalue():
                await asyncio.sleep(0.005)
            while is_stopped(pid):
                await asyncio.sleep(0.005)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.02 * (LOOKS + 2))
        assert is_stopped(pid)
        for one in (pid, shell):
            os.kill(one, signal.SIGKILL)

    run(test)
