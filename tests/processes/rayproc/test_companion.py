"""The companion itself, in a process of its own, with a stand-in for the package that imports Ray."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.rayproc.branch import Branch
from raycluster_cli.rayproc.companion import Companion
from raycluster_cli.rayproc.companion_client import CompanionClient
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.protocol import Lines
from raycluster_cli.system.process import Reaper
from raycluster_cli.system.proctree import descendants, identify, is_running
from tests.unit.rayproc.test_plan import HEAD

#: In place of raycluster_cli.rayproc.private.  A plan's node_name says what a start does; the cluster's nodes
#: are read from a file.
STAND_IN = """
import json, os, subprocess, sys, time
from raycluster_cli.rayproc.failure import StartFailure

if os.environ.get("BROKEN"):
    raise ImportError("no module named ray")
print("importing", flush=True)
RAY_VERSION, PYTHON_VERSION, IMPORTED_BY_A_START = "9.9.0", "3.10.1", ("ray.missing",)

class Missing(Exception): pass
NOT_AS_KNOWN = (Missing,)

def start(plan, report):
    print("starting", plan.node_name, flush=True)
    if plan.node_name == "hangs":
        daemon = subprocess.Popen(["sleep", "60"], start_new_session=True)
        report({"event": "spawned", "name": "gcs_server", "pid": daemon.pid})
        time.sleep(60)
    report({"event": "spawned", "name": "raylet", "pid": 77})
    if plan.node_name == "fails": raise StartFailure("ports", "a port is taken", "/the/log")
    if plan.node_name == "has a bug": raise ValueError("a bug")
    if plan.node_name == "dies": os._exit(5)
    return {"how": "node", "processes": [{"name": "raylet", "pid": 77}], "session": "s", "session_dir": "/s",
            "node_id": "n", "cluster_id": "c", "gcs_address": plan.gcs_address, "phases": {}}

def start_extra(what, plan, started, report):
    return {"command": ["python", what], "of": started["session"]}

def apply_settings(env):
    print("settings", sorted(name for name in env if name.startswith("RAY_")), flush=True)

class Cluster:
    def __init__(self, address):
        if os.environ.get("CHANGED"): raise Missing("GcsClient")
        self.address = address
    def nodes(self):
        with open(os.environ["NODES"]) as file: return json.load(file)
    def usage(self):
        if self.address == "broken:1": raise OSError("no answer")
        return {"nodes": [], "pending": 3}
    def had_driver(self): return self.address == "h:1"
    def unplaceable(self): return [("need 64 CPUs", "a task or an actor that needs 64 CPUs")]
    def drain(self, node_id, reason, message, deadline_s):
        if node_id == "silent": time.sleep(60)
        if node_id == "broken": raise OSError("unreachable")
        return node_id != "busy", "" if node_id != "busy" else f"busy with {reason}: {message}"

class PublicCluster(Cluster):
    def __init__(self, address): self.address = address
    def usage(self): return {"nodes": [], "pending": 4}
"""

#: Python runs this before anything else: the import of the private package finds the stand-in.
SITE = """
import importlib.util, os, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "raycluster_cli.rayproc.private":
            return importlib.util.spec_from_file_location(name, os.environ["STAND_IN"])
sys.meta_path.insert(0, Finder)
"""


def run(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))  # type: ignore[arg-type]


@asynccontextmanager
async def companion(tmp_path: Path, **env: str) -> AsyncIterator[CompanionClient]:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    set_nodes(tmp_path, ["a"])
    reaper = Reaper()
    reaper.attach(asyncio.get_running_loop())
    with (tmp_path / "printed").open("wb") as stderr:
        client = CompanionClient.spawn(
            reaper.spawn,
            {
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(tmp_path),
                "STAND_IN": str(tmp_path / "stand_in.py"),
                "NODES": str(tmp_path / "nodes.json"),
                **env,
            },
            stderr=stderr,
        )
    try:
        yield client
    finally:
        await client.close(30.0)
        assert client.child.exited.result() == 0  # it ends by itself when its stdin does


def set_nodes(tmp_path: Path, names: list[str], text: str = "") -> None:
    nodes = [{"node_id": name, "alive": True} for name in names]
    beside = tmp_path / "nodes.new"
    beside.write_text(text or json.dumps(nodes))
    beside.replace(tmp_path / "nodes.json")


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_it_reports_ray_once_it_is_imported(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            ready = await client.ready(30)
            assert (ready["ray_version"], ready["python_version"]) == ("9.9.0", "3.10.1")
            assert ready["pid"] == client.child.pid
        assert (tmp_path / "printed").read_text() == "importing\n"  # not in the protocol's pipe

    run(scene)


def test_a_ray_that_cannot_be_imported_is_reported(tmp_path: Path) -> None:
    async def scene() -> None:
        with pytest.raises(AssertionError):  # of `companion`: it has ended with 1
            async with companion(tmp_path, BROKEN="1") as client:
                with pytest.raises(StartFailure, match="Ray cannot be imported: ImportError: no module"):
                    await client.ready(30)
        assert "Traceback" in (tmp_path / "printed").read_text()

    run(scene)


def test_a_start_in_a_process_of_its_own(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            pids: list[int] = []
            client.listen(lambda e: pids.append(e["pid"]) if e["event"] == "starting" else None)
            plan = replace(HEAD, temp_dir=str(tmp_path / "new"))
            started = await client.start(plan, 30)
            assert (started.how, started.processes) == ("node", {"raylet": 77})
            assert pids != [client.child.pid]
            assert (tmp_path / "new" / "ray-start.log").read_text() == "starting gpu01\n"
            await until(lambda: identify(pids[0]) is None)
            done = await client.start_extra("dashboard", plan, started, 30)
            assert (done["command"], done["of"]) == (["python", "dashboard"], "s")

    run(scene)


def test_starts_that_fail(tmp_path: Path) -> None:
    """Each is told, and the next start is as good as the first."""

    async def scene() -> None:
        async with companion(tmp_path) as client:
            for name, kind, message, log in (
                ("fails", "ports", "a port is taken", "/the/log"),
                ("has a bug", "ray", "ValueError: a bug", ""),
                ("dies", "ray", "The process for 'start' ended with 5 and no answer.", ""),
            ):
                plan = replace(HEAD, node_name=name, temp_dir=str(tmp_path))
                with pytest.raises(StartFailure) as caught:
                    await client.start(plan, 30)
                assert (caught.value.kind, caught.value.message) == (kind, message)
                assert caught.value.log == (log or plan.log_path)
                assert (await client.start(replace(plan, node_name="works"), 30)).node_id == "n"

    run(scene)


def test_what_an_unfinished_start_has_spawned_ends_with_it(tmp_path: Path) -> None:
    """The supervisor may have been killed with its keeper: a GCS without a raylet has nobody that ends it."""

    async def scene() -> None:
        spawned: list[int] = []
        async with companion(tmp_path) as client:
            client.listen(lambda e: spawned.append(e["pid"]) if e["event"] == "spawned" else None)
            plan = replace(HEAD, node_name="hangs", temp_dir=str(tmp_path))
            starting = asyncio.ensure_future(client.start(plan, 30))
            await until(lambda: spawned)
            daemon = identify(spawned[0])
            assert daemon is not None
        await until(lambda: not is_running(daemon))
        await asyncio.gather(starting, return_exceptions=True)

    run(scene)


def test_a_process_that_has_the_id_of_what_a_start_spawned_is_left_alone() -> None:
    """The kernel gives ids again."""
    events, _ = os.pipe()
    working, other = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    try:
        earlier = identify(other.pid)
        assert earlier is not None
        branch = Branch(working.pid, events, None, {"do": "start"}, Lines())
        branch.spawned.append(earlier.but(start_ticks=earlier.start_ticks - 1))
        ends = Companion(events, lambda _: None)
        ends._branches[events] = branch
        ends.close()
        assert working.wait(30) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (working, other):
            process.kill()
            process.wait()


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            with pytest.raises(StartFailure, match="unknown command 'dance'"):
                await client.request("dance", 30)

    run(scene)


def test_the_watcher_reports_nodes_now_and_at_every_change(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            changes: list[list[str]] = []
            messages: list[str] = []

            def listener(event: dict[str, Any]) -> None:
                if event["event"] == "nodes":
                    changes.append([node["node_id"] for node in event["changed"]])
                elif event["event"] == "unreachable":
                    messages.append(event["message"])

            client.listen(listener)
            await client.watch("h:1", {"RAY_AUTH_MODE": "token", "HOME": "/"}, expected=3)
            assert changes == [["a"]]
            set_nodes(tmp_path, ["a", "b"])
            await until(lambda: len(changes) == 2)
            assert changes[1] == ["b"]
            assert (await client.usage())["pending"] == 3
            assert await client.had_driver()
            assert await client.unplaceable() == (("need 64 CPUs", "a task or an actor that needs 64 CPUs"),)
            set_nodes(tmp_path, [], text="not JSON")
            await until(lambda: messages)
            assert messages[0].startswith("JSONDecodeError")
            set_nodes(tmp_path, ["a", "b", "c"])
            await until(lambda: len(changes) == 3)
            assert len(messages) == 1
        printed = (tmp_path / "printed").read_text()
        assert "settings ['RAY_AUTH_MODE']" in printed
        assert "Traceback" in printed

    run(scene)


def test_before_it_watches_the_watcher_knows_no_address(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            with pytest.raises(StartFailure, match="not connected to the GCS"):
                await client.usage(30)

    run(scene)


def test_an_exception_of_the_watcher_is_the_answer(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            with pytest.raises(StartFailure, match="OSError: no answer"):
                await client.request("usage", 30, address="broken:1")
            await client.watch("h:1", {})
            assert (await client.usage())["pending"] == 3  # it is still there

    run(scene)


def test_each_node_answers_its_drain_for_itself(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            await client.watch("h:1", {})
            results = await client.drain(["idle", "busy", "broken", "silent"], reason="idle", message="over")
            assert results["idle"] == {"answered": True, "accepted": True, "refusal": ""}
            refused = {"answered": True, "accepted": False, "refusal": "busy with idle: over"}
            assert results["busy"] == refused
            failed = {"answered": False, "accepted": False, "refusal": "OSError: unreachable"}
            assert results["broken"] == failed
            assert not results["silent"]["answered"]
            assert results["silent"]["refusal"].startswith("no answer within")
            os.kill(watcher_of(client), signal.SIGKILL)  # its thread waits for the silent node

    run(scene)


def watcher_of(client: CompanionClient) -> int:
    (watcher,) = descendants(client.child.pid)
    return watcher.pid


def test_a_killed_watcher_fails_what_waits_and_the_next_command_starts_another(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            ended: list[int] = []
            client.listen(lambda e: ended.append(e["code"]) if e["event"] == "watcher_ended" else None)
            await client.watch("h:1", {})
            os.kill(watcher_of(client), signal.SIGSTOP)
            question = asyncio.ensure_future(client.usage(60))
            await asyncio.sleep(0)
            os.kill(watcher_of(client), signal.SIGKILL)
            with pytest.raises(StartFailure, match="connection to the GCS ended"):
                await question
            assert ended == [-signal.SIGKILL]
            await client.watch("h:1", {})
            assert (await client.usage(30))["pending"] == 3

    run(scene)


def test_where_rays_client_has_changed_the_watcher_uses_the_public_one(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path, CHANGED="1") as client:
            await client.watch("h:1", {})
            assert (await client.usage(30))["pending"] == 4
            assert "a" in client.nodes

    run(scene)


def test_its_output_moves_to_a_file_when_told(tmp_path: Path) -> None:
    async def scene() -> None:
        early = os.open(tmp_path / "early", os.O_RDWR | os.O_CREAT, 0o600)
        async with companion(tmp_path) as client:
            client.log_to(tmp_path / "node" / "companion.log", early)
            await client.watch("h:1", {})  # commands are obeyed in their order
            assert "settings" in (tmp_path / "node" / "companion.log").read_text()
            assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700

    run(scene)


def test_it_takes_its_forks_along(tmp_path: Path) -> None:
    async def scene() -> None:
        async with companion(tmp_path) as client:
            await client.watch("h:1", {})
            watcher = identify(watcher_of(client))
            assert watcher is not None
        await until(lambda: not is_running(watcher))

    run(scene)
