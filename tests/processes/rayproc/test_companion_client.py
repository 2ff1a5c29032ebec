"""The supervisor's side of the companion, against a small stand-in that speaks its protocol."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from raycluster_cli.rayproc.companion_client import CompanionClient
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.system.process import Reaper
from raycluster_cli.system.proctree import ProcessRef, identify, is_running
from tests.unit.rayproc.test_plan import HEAD

PRELUDE = """
import json, os, subprocess, sys, time
def say(**event): print(json.dumps(event), flush=True)
def commands():
    for line in sys.stdin: yield json.loads(line)
"""

READY = """
say(event="ready", ray_version="9.9", python_version="3.10.1", import_s=0.1, pid=os.getpid())
"""

STARTED = """
for c in commands():
    say(event="starting", pid=os.getpid(), id=c["id"])
    say(event="spawned", name="raylet", pid=77, id=c["id"])
    say(event="started", how="node", processes=[{"name": "raylet", "pid": 77}], session="s", session_dir="/s",
        node_id="n", cluster_id="c", gcs_address=c["plan"]["gcs_address"], phases={"begun": 1.0}, id=c["id"])
"""

HANGS = """
for c in commands():
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    say(event="starting", pid=child.pid, id=c["id"])
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    say(event="spawned", name="raylet", pid=other.pid, id=c["id"])
    time.sleep(60)
"""


CANNOT_IMPORT = """
say(event="failed", kind="ray", message="Ray cannot be imported: no module")
sys.exit(1)
"""


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


@asynccontextmanager
async def companion(tmp_path: Path, script: str, ready: str = READY) -> AsyncIterator[CompanionClient]:
    """A stand-in at the place of the real module, so that the real spawn is used."""
    package = tmp_path / "raycluster_cli" / "rayproc"
    package.mkdir(parents=True, exist_ok=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "companion.py").write_text(textwrap.dedent(PRELUDE + ready + script))
    reaper = Reaper()
    reaper.attach(asyncio.get_running_loop())
    with (tmp_path / "stderr").open("wb") as stderr:
        env = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
        client = CompanionClient.spawn(reaper.spawn, env, python=sys.executable, stderr=stderr)
    try:
        yield client
    finally:
        await client.close()
        assert client.child.exited.done()


def test_a_start(tmp_path: Path) -> None:
    async def test() -> None:
        async with companion(tmp_path, STARTED) as client:
            heard: list[str] = []
            client.listen(lambda event: heard.append(event["event"]))
            assert (await client.ready(5))["ray_version"] == "9.9"
            started = await client.start(HEAD, 5)
            assert started.processes == {"raylet": 77}
            assert started.gcs_address == HEAD.gcs_address
            assert client.spawned == {"raylet": 77}
            assert heard == ["ready", "starting", "spawned", "started"]

    run(test)


def test_at_the_deadline_all_that_a_start_began_is_killed(tmp_path: Path) -> None:
    async def test() -> None:
        async with companion(tmp_path, HANGS) as client:
            await client.ready(5)
            begun: list[ProcessRef | None] = []
            client.listen(lambda event: begun.append(identify(event["pid"])))
            with pytest.raises(StartFailure) as caught:
                await client.start(replace(HEAD, temp_dir="/x"), 0.5)
            assert caught.value.kind == "timed out"
            assert caught.value.log == "/x/ray-start.log"
            await client.child.exited
            processes = [ref for ref in begun if ref]
            assert len(processes) == 2
            while any(is_running(ref) for ref in processes):
                await asyncio.sleep(0.01)

    run(test)


def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with companion(tmp_path, HANGS) as client:
            await client.ready(5)
            task = asyncio.ensure_future(client.start(HEAD, 30))
            while "raylet" not in client.spawned:
                await asyncio.sleep(0.01)
            raylet = identify(client.spawned["raylet"])
            assert raylet is not None
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while is_running(raylet):
                await asyncio.sleep(0.01)

    run(test)


def test_a_failed_start_says_of_which_kind(tmp_path: Path) -> None:
    script = """
    for c in commands():
        say(event="failed", kind="wrong cluster", message="not ours", log="/l", id=c["id"])
    """

    async def test() -> None:
        async with companion(tmp_path, textwrap.dedent(script)) as client:
            with pytest.raises(StartFailure) as caught:
                await client.start(HEAD, 5)
            assert (caught.value.kind, caught.value.message, caught.value.log) == (
                "wrong cluster",
                "not ours",
                "/l",
            )
            assert not client.child.exited.done()  # it can be asked again

    run(test)


def test_a_companion_that_dies_answers_every_question(tmp_path: Path) -> None:
    async def test() -> None:
        async with companion(tmp_path, "for c in commands(): os._exit(9)") as client:
            await client.ready(5)
            for _ in range(2):
                with pytest.raises(StartFailure, match="ended"):
                    await client.request("usage", 5)

    run(test)


def test_ray_that_cannot_be_imported_is_said(tmp_path: Path) -> None:
    async def test() -> None:
        async with companion(tmp_path, CANNOT_IMPORT, ready="") as client:
            with pytest.raises(StartFailure, match="cannot be imported") as caught:
                await client.ready(5)
            assert caught.value.kind == "ray"

    run(test)


def test_what_was_printed_before_there_was_a_log_is_kept_when_the_import_fails(tmp_path: Path) -> None:
    async def test() -> None:
        early = os.open(tmp_path / "early", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(early, b"Traceback ...\n")
        async with companion(tmp_path, CANNOT_IMPORT, ready="") as client:
            client.log_to(tmp_path / "companion.log", early)
            with pytest.raises(StartFailure):
                await client.ready(5)
        assert (tmp_path / "companion.log").read_text() == "Traceback ...\n"

    run(test)


def test_a_companion_that_reads_nothing_holds_nobody_up(tmp_path: Path) -> None:
    script = """
    for c in commands():
        say(event="answer", size=len(c["filler"]), id=c["id"])
    """

    async def test() -> None:
        async with companion(tmp_path, textwrap.dedent(script)) as client:
            await client.ready(5)
            os.kill(client.child.pid, signal.SIGSTOP)
            filler = "x" * (1 << 20)  # more than a pipe holds
            with pytest.raises(StartFailure) as caught:
                await client.request("usage", 0.01, filler=filler)
            assert caught.value.kind == "timed out"
            questions = [asyncio.ensure_future(client.request("usage", 15, filler=filler)) for _ in range(2)]
            await asyncio.sleep(0)
            os.kill(client.child.pid, signal.SIGCONT)
            assert [(await question)["size"] for question in questions] == [1 << 20] * 2

    run(test)


def test_a_stopped_companion_is_killed_in_the_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with companion(tmp_path, "time.sleep(60)") as client:
            await client.ready(5)
            os.kill(client.child.pid, signal.SIGSTOP)
            await client.close(0.01)
            assert client.child.exited.result() == -signal.SIGKILL
            with pytest.raises(StartFailure, match="has ended"):
                await client.request("usage", 5)

    run(test)


def test_nodes_are_kept_from_what_changed(tmp_path: Path) -> None:
    script = """
    for c in commands():
        a, b = {"node_id": "a", "alive": True}, {"node_id": "b", "alive": True}
        say(event="nodes", changed=[a, b], total=2, id=c["id"])
        say(event="nodes", changed=[{"node_id": "b", "alive": False}], total=2, id=c["id"])
    """

    async def test() -> None:
        async with companion(tmp_path, textwrap.dedent(script)) as client:
            await client.watch("h:1", {"RAY_AUTH_MODE": "token", "HOME": "/"}, expected=2)
            while client.nodes["b"]["alive"]:
                await asyncio.sleep(0.01)
            assert client.nodes["a"]["alive"]

    run(test)
