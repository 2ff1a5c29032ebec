"""The six functions, called as datatrove's vLLM server calls its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster_cli.supervisor.local import LOOPBACK
from tests.ray.local import START_S, Local, local
from tests.waiting import wait_until

PORT = 31000 + os.getpid() % 1500

MASTER = """
import asyncio, os, sys
from raycluster_cli import cleanup_ray, init_ray_master, monitor_ray_workers, calculate_object_store_memory

async def main():
    assert calculate_object_store_memory() > 0
    await init_ray_master(int(sys.argv[1]), int(sys.argv[2]))
    import ray
    assert ray.is_initialized()
    @ray.remote(num_cpus=0)
    def f(): return 42
    assert ray.get(f.remote()) == 42
    print("MASTER", len(ray.nodes()), flush=True)
    watch = asyncio.create_task(monitor_ray_workers(int(sys.argv[2])))
    reading = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    done, _ = await asyncio.wait({watch, reading}, return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    if watch in done:
        print("LOST", watch.exception(), flush=True)
        raise SystemExit(9)

try:
    asyncio.run(main())
finally:
    cleanup_ray()
    cleanup_ray()
    print("ADDRESS", os.environ.get("RAY_ADDRESS"), flush=True)
"""

WORKER = """
import asyncio, sys
from raycluster_cli import cleanup_ray, init_ray_worker, monitor_ray_cluster_health

async def main():
    await init_ray_worker(sys.argv[1], int(sys.argv[2]), max_retries=int(sys.argv[3]), retry_delay=0.5)
    print("WORKER", flush=True)
    await monitor_ray_cluster_health(check_interval=1.0)
    print("HEAD GONE", flush=True)

try:
    asyncio.run(main())
except RuntimeError as error:
    print("ERROR", error, flush=True)
    raise SystemExit(4)
finally:
    cleanup_ray()
"""


@pytest.fixture
def place() -> Iterator[Local]:
    with local() as found:
        yield found


def start(place: Local, name: str, code: str, *arguments: object, ip: str) -> subprocess.Popen[str]:
    """A program of the user's on a node of its own, its output in a file of its name."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={
            **place.env,
            "RAYCLUSTER_KEY": "api",
            "RAYCLUSTER_NODE_NAME": name,
            "RAYCLUSTER_NODE_IP": ip,
            "RAYCLUSTER_NUM_CPUS": "1",
        },
        stdin=subprocess.PIPE,
        stdout=open(place.base / name, "w"),
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(path: Path, text: str) -> None:
    try:
        wait_until(lambda: text in path.read_text(), timeout_s=START_S, what=f"{text!r} from {path.name}")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{path.read_text()}") from None


def ip(number: int) -> str:
    return f"{LOOPBACK.rpartition('.')[0]}.{number}"


def test_head_and_worker_join_and_the_cleanup_ends_both(place: Local) -> None:
    worker = start(place, "worker", WORKER, LOOPBACK, PORT, 60, ip=ip(2))
    master = start(place, "master", MASTER, PORT, 1, ip=LOOPBACK)
    said(place.base / "master", "MASTER 2")
    said(place.base / "worker", "WORKER")
    assert master.stdin
    master.stdin.write("\n")
    master.stdin.flush()
    assert master.wait(60) == 0, (place.base / "master").read_text()
    said(place.base / "worker", "HEAD GONE")
    assert worker.wait(60) == 0
    assert "ADDRESS None" in (place.base / "master").read_text()
    # A program that cleans up has completed: it was not killed.
    end = json.loads(next((place.base / ".raycluster").rglob("end.json")).read_text())
    assert (end["exit_code"], end["reason"]) == (0, "stop")
    place.assert_nothing_left()


def test_a_lost_worker_is_told_and_a_killed_program_leaves_nothing(place: Local) -> None:
    worker = start(place, "worker", WORKER, LOOPBACK, PORT + 1, 60, ip=ip(2))
    master = start(place, "master", MASTER, PORT + 1, 1, ip=LOOPBACK)
    said(place.base / "master", "MASTER 2")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    said(place.base / "master", "LOST")
    assert master.stdin
    master.stdin.close()  # asyncio waits for the thread that reads it
    assert master.wait(60) == 9
    place.assert_nothing_left()


def test_without_a_head_the_worker_says_why(place: Local) -> None:
    worker = start(place, "worker", WORKER, LOOPBACK, PORT + 2, 2, ip=ip(2))
    assert worker.wait(60) == 4
    assert f"attempts 1 to 2 {LOOPBACK}:{PORT + 2}: refused" in (place.base / "worker").read_text()
    place.assert_nothing_left()


def test_without_workers_the_master_raises(place: Local) -> None:
    place.env["RAYCLUSTER_TIMEOUT"] = "4"
    master = start(place, "master", MASTER, PORT + 3, 1, ip=LOOPBACK)
    assert master.wait(60) != 0
    text = (place.base / "master").read_text()
    assert "WorkersMissingError: 1 of 1 worker did not join within 4 s" in text
    place.assert_nothing_left()
