"""The functions for programs that are a rank of a job: their child is a shell script, and Ray is none."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.functions import ray_cluster
from raycluster_cli.functions.ray_cluster import (
    cleanup_ray,
    init_ray_master,
    init_ray_worker,
    monitor_ray_cluster_health,
    monitor_ray_workers,
)
from raycluster_cli.model.errors import (
    ClusterUnhealthyError,
    HeadStartError,
    RayclusterError,
    UsageError,
    WorkersMissingError,
)
from tests.unit.rayproc.gcs import Gcs
from tests.waiting import wait_until

TELL, WAIT = ">&$RAYCLUSTER_PARENT_FD", "read said <&$RAYCLUSTER_PARENT_FD"
ENVIRONMENT = '{"RAY_ADDRESS": "n1:1", "A_NEW": "x"}'
READY = f"""echo '{{"event": "phase"}}' {TELL}
echo '{{"event": "ready", "address": "127.0.0.1:PORT", "environment": {ENVIRONMENT}}}' {TELL}
"""
Child = Callable[..., None]

#: A module in the place of Ray, which is imported once the node is up.
RAY = """
calls = []
def init(**given): calls.append(given)
def shutdown(): calls.append("shutdown")
def nodes():
    import time
    time.sleep(30)
"""


def ended(message: str, code: int) -> str:
    return f"""echo '{{"event": "ended", "code": {code}, "message": "{message}"}}' {TELL}; exit {code}"""


def within(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """Says what the child does; it writes its words and its process id into the test's directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "before")
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)

    def does(script: str, port: int = 1) -> None:
        whole = f'echo "$@" >words; echo $$ >pid\n{script.replace("PORT", str(port))}'
        monkeypatch.setattr(
            ray_cluster, "raycluster_command", lambda *words: ["bash", "-c", whole, "raycluster", *words]
        )

    yield does
    cleanup_ray()
    assert os.environ["RAY_ADDRESS"] == "before"
    assert "A_NEW" not in os.environ


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Says what Ray is."""
    before = sys.modules.pop("ray", None)

    def has(text: str) -> None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "ray.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "lib")

    yield has
    cleanup_ray()
    sys.modules.pop("ray", None)
    if before is not None:
        sys.modules["ray"] = before


def is_gone(tmp_path: Path) -> bool:
    try:
        os.kill(int((tmp_path / "pid").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_joins_and_leaves(child: Child, tmp_path: Path) -> None:
    child(f"{READY}{WAIT}; echo $said >end")
    within(init_ray_worker("n1", 6379, max_retries=2, retry_delay=0.5))
    words = "worker --master-ip n1 --master-port 6379 --max-retries 2 --retry-delay 0.5\n"
    assert (tmp_path / "words").read_text() == words
    assert (os.environ["RAY_ADDRESS"], os.environ["A_NEW"]) == ("n1:1", "x")
    with pytest.raises(UsageError, match="has started a Ray node already"):
        within(init_ray_worker("n1", 6379))
    cleanup_ray()
    assert (tmp_path / "end").read_text() == "done\n"  # it is told, and waited for
    assert is_gone(tmp_path)
    cleanup_ray()  # nothing is left to do


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (ended("no such option", 2), UsageError, "no such option"),
        (ended("no Ray", 3), HeadStartError, "no Ray"),
        (ended("no head", 4), WorkersMissingError, "no head"),
        (ended("it is lost", 5), ClusterUnhealthyError, "it is lost"),
        (ended("", 1), RayclusterError, "raycluster worker ended with code 1"),
        ("exit 0", RayclusterError, "raycluster worker ended with code 0"),
        ("kill -9 $$", RayclusterError, "raycluster worker ended with code -9"),
    ],
)
def test_a_start_that_fails(child: Child, script: str, kind: type[RayclusterError], message: str) -> None:
    child(script)
    with pytest.raises(kind, match=message) as found:
        within(init_ray_worker("n1", 6379))
    assert type(found.value) is kind


def test_a_start_that_is_cancelled_leaves_nothing(child: Child, tmp_path: Path) -> None:
    child(f"{WAIT}; echo $said >end")

    async def cancelled() -> None:
        start = asyncio.ensure_future(init_ray_worker("n1", 6379))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    within(cancelled())
    assert (tmp_path / "end").read_text() == "done\n"
    assert is_gone(tmp_path)


def test_a_child_that_does_not_end_is_killed(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "STOP_TIMEOUT_S", 0.3)
    child(f"trap '' TERM\n{READY}while :; do sleep 0.1; done")
    within(init_ray_worker("n1", 6379))
    cleanup_ray()
    assert is_gone(tmp_path)


#: A program whose node is a shell that writes down what it is told; it forks as multiprocessing does.
PROGRAM = f"""
import asyncio, os, sys, time
from raycluster_cli.functions import ray_cluster

script = '''{READY.replace("PORT", "1")}{WAIT}; echo "told $said" >end'''
ray_cluster.raycluster_command = lambda *words: ["bash", "-c", script, "raycluster", *words]
asyncio.run(ray_cluster.init_ray_worker("n1", 6379))
child = os.fork()
"""


def run(program: str, tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "program.py").write_text(program)
    root = str(Path(ray_cluster.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )


def told(tmp_path: Path) -> str:
    path = tmp_path / "end"
    return path.read_text() if path.exists() else ""


def test_the_death_of_a_program_is_seen_though_a_process_that_it_forked_lives(tmp_path: Path) -> None:
    program = run(f"{PROGRAM}\nif child:\n    print(child, flush=True)\ntime.sleep(60)", tmp_path)
    assert program.stdout is not None
    forked = int(program.stdout.readline())
    try:
        program.kill()
        program.wait()
        wait_until(lambda: told(tmp_path), timeout_s=20, what="the end of the node")
        os.kill(forked, 0)
    finally:
        os.kill(forked, signal.SIGKILL)
    assert told(tmp_path) == "told \n"  # the end of the file, and no word


def test_a_forked_process_that_exits_does_not_end_the_node(tmp_path: Path) -> None:
    ends = "if not child:\n    ray_cluster.cleanup_ray()\n    sys.exit(0)\nos.waitpid(child, 0)"
    program = run(f"{PROGRAM}\n{ends}\ntime.sleep(0.3)\nprint(os.path.exists('end'))", tmp_path)
    assert program.communicate(timeout=60)[0] == "False\n"
    assert told(tmp_path) == "told done\n"  # by the program itself, at its exit


STEP = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_NUM_NODES": "3"}


@pytest.mark.parametrize(
    ("env", "expected", "workers"),
    [
        ({}, 3, 3),
        (STEP, 3, 2),  # the head is counted: of three nodes only two can be workers
        (STEP, 2, 2),
        (STEP, 4, 4),
    ],
)
def test_workers_besides_the_head(
    child: Child,
    tmp_path: Path,
    ray: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
    expected: int,
    workers: int,
) -> None:
    ray(RAY)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    child(f"{READY}{WAIT}", port=6379)
    within(init_ray_master(6379, expected))
    words = f"head --master-port 6379 --expected-workers {workers}\n"
    assert (tmp_path / "words").read_text() == words
    cleanup_ray()
    assert sys.modules["ray"].calls == [
        {"address": "127.0.0.1:6379", "ignore_reinit_error": True},
        "shutdown",
    ]


def test_a_head_to_which_this_program_cannot_connect_is_ended(
    child: Child, tmp_path: Path, ray: Callable[[str], None]
) -> None:
    ray("def init(**given): raise ConnectionError('refused')\ndef shutdown(): pass\n")
    child(f"{READY}{WAIT}")
    with pytest.raises(ConnectionError):
        within(init_ray_master(6379, 1))
    assert is_gone(tmp_path)


def test_a_ray_that_is_imported_and_cannot_be_set_up_leaves_no_node(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its private parts have changed, for example."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(shutdown=lambda: None))
    child(f"{READY}{WAIT}; echo $said >end")
    with pytest.raises(AttributeError):
        within(init_ray_worker("n1", 6379))
    assert (tmp_path / "end").read_text() == "done\n"
    assert is_gone(tmp_path)


def node(name: str, alive: bool = True) -> dict[str, Any]:
    return {"NodeName": name, "Alive": alive}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("n1"), node("n2"), node("n3", False)], "1 workers are alive, 2 are needed; lost: n3."),
        ([node("n1"), node("n2")], "1 workers are alive, 2 are needed; lost: unknown."),
        (OSError("the GCS is away"), "the workers could not be counted: the GCS is away"),
    ],
)
def test_a_lost_worker_is_an_error(monkeypatch: pytest.MonkeyPatch, nodes: Any, message: str) -> None:
    monkeypatch.setattr(ray_cluster, "WORKER_CHECK_INTERVAL_S", 0.01)
    answers = [[node("n1"), node("n2"), node("n3")]] * 2 + [nodes]

    def listed() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=listed))
    with pytest.raises(ClusterUnhealthyError, match=message):
        within(monitor_ray_workers(2))
    assert answers == []


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (f"{READY}sleep 0.2; {ended('the driver ended', 0)}", "the cluster has ended: the driver ended"),
        (f"{READY}sleep 0.2; exit 5", "the cluster has ended: raycluster ended with code 5"),
    ],
)
def test_the_end_of_the_cluster_is_known_while_ray_s_calls_hang(
    child: Child, ray: Callable[[str], None], script: str, message: str
) -> None:
    ray(RAY)
    child(script)

    async def work() -> None:
        await init_ray_worker("n1", 6379)
        await monitor_ray_workers(1)

    with pytest.raises(ClusterUnhealthyError, match=message):
        within(work())


@pytest.mark.parametrize("who", ["the GCS", "the child"])
def test_the_watch_over_the_gcs_returns_when_it_is_lost(child: Child, tmp_path: Path, who: str) -> None:
    async def work() -> None:
        gcs = Gcs()
        await gcs.start()
        child(f"{READY}while ! test -e leave; do sleep 0.02; done", port=gcs.port)
        await init_ray_worker("n1", 6379)
        watching = asyncio.ensure_future(monitor_ray_cluster_health(0.1))
        while not gcs.checks:
            await asyncio.sleep(0.01)
        assert not watching.done()
        if who == "the GCS":
            gcs.stop()
        else:
            (tmp_path / "leave").touch()
        await watching
        gcs.stop()
        (tmp_path / "leave").touch()

    within(work())


@pytest.mark.parametrize("address", ["", "auto", "ray://"])
def test_without_an_address_there_is_no_gcs_to_watch(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    within(monitor_ray_cluster_health(0.1))
