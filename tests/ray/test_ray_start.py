"""Ray nodes started by the companion: quickly, as meant, and failures of every kind told apart."""

from __future__ import annotations

import asyncio
import doctest
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.lazy_agent import wake
from raycluster_cli.rayproc.plan import TlsFiles, ports_for_restart
from raycluster_cli.rayproc.raylet_log import read_drain_reason
from raycluster_cli.rayproc.started import Started
from raycluster_cli.system.proctree import descendants, is_running
from tests.ray.nodes import Nodes, nodes, ray_version, run

ON_EACH = """
import os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=1)
def where():
    print("printed by a task")
    return os.environ.get("MARK"), ray.get_runtime_context().get_node_id()
here = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
on = [NodeAffinitySchedulingStrategy(id, False) for id in here]
found = ray.get([where.options(scheduling_strategy=one).remote() for one in on])
assert sorted(id for _, id in found) == sorted(here)
print(len(here), "nodes")
"""


@pytest.mark.parametrize("quick", ["node", "ray-start"])
def test_head_and_worker(quick: Any) -> None:
    async def test() -> None:
        async with nodes() as cluster:
            head = await cluster.start(0, quick=quick)
            assert head.how == quick
            assert {"gcs_server", "raylet"} <= set(head.processes)
            began = time.monotonic()
            spilled = cluster.base / "spilled"
            spilled.mkdir(mode=0o700)
            worker = await cluster.start(1, quick=quick, spill_dir=str(spilled))
            assert spilled.stat().st_mode & 0o7777 == 0o700  # Ray opens it to all users
            assert worker.session == head.session
            assert Path(worker.session_dir).parent == cluster.base / "n1"  # its own directory, not the head's
            client = cluster.companions[0]
            await client.watch(
                head.gcs_address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": cluster.token or ""}
            )
            by_name = {node["name"]: node for node in client.nodes.values()}
            assert by_name["node0"]["is_head"] and not by_name["node1"]["is_head"]
            assert by_name["node1"]["ip"] == f"{cluster.host}.2"
            assert by_name["node1"]["resources"]["CPU"] == 1
            assert by_name["node1"]["node_id"] == worker.node_id
            assert "2 nodes" in await cluster.driver(ON_EACH)
            # Daemons belong to us, and hold neither our pipes nor the companion's.
            for started in (head, worker):
                for name in ("gcs_server", "raylet"):
                    if pid := started.processes.get(name):
                        assert _parent(pid) == os.getpid()
                        assert not any(fd.startswith("pipe:") for fd in _standard(pid))
            if quick == "node":
                assert time.monotonic() - began < 30

    run(test)


def _parent(pid: int) -> int:
    return next(stat.parent for stat in descendants(os.getpid()) if stat.pid == pid)


def _standard(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)]


def test_a_drained_worker_leaves_in_order_with_the_reason() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            head, worker = await cluster.start(0), await cluster.start(1)
            raylet = cluster.child(worker, "raylet")
            client = cluster.companions[0]
            await client.watch(head.gcs_address, _auth(cluster.token), expected=9)
            results = await client.drain(
                [worker.node_id], reason="preemption", message="the driver has ended"
            )
            assert results[worker.node_id]["accepted"]
            assert await asyncio.wait_for(asyncio.shield(raylet.exited), 30) == 0
            assert read_drain_reason(f"{worker.session_dir}/logs/raylet.out") == "the driver has ended"
            while client.nodes[worker.node_id]["alive"]:
                await asyncio.sleep(0.02)
            assert client.nodes[worker.node_id]["death"]["message"] == "the driver has ended"

    run(test)


def test_a_node_that_does_not_answer_keeps_no_other_from_being_told() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            head, silent, well = await cluster.start(0), await cluster.start(1), await cluster.start(2)
            stopped, raylet = cluster.child(silent, "raylet"), cluster.child(well, "raylet")
            client = cluster.companions[0]
            await client.watch(head.gcs_address, _auth(cluster.token), expected=9)
            stopped.send(signal.SIGSTOP)
            results = await client.drain([silent.node_id, well.node_id], timeout_s=30)
            assert results[silent.node_id]["refusal"].startswith("no answer")
            assert await asyncio.wait_for(asyncio.shield(raylet.exited), 30) == 0

    run(test)


def _auth(token: str | None) -> dict[str, str]:
    return (
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token} if token else {"RAY_AUTH_MODE": "disabled"}
    )


def test_usage_tells_what_is_taken() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            head = await cluster.start(0)
            client = cluster.companions[0]
            await client.watch(head.gcs_address, _auth(cluster.token))
            answer = await client.usage()
            (node,) = answer["nodes"] if isinstance(answer, dict) else answer
            assert node["node_id"] == head.node_id
            assert node["total"]["CPU"] == node["available"]["CPU"] == 1

    run(test)


@pytest.mark.parametrize("quick", ["node", "ray-start"])
def test_nothing_at_the_address_is_said_at_once(quick: Any) -> None:
    async def test() -> None:
        async with nodes() as cluster:
            client = cluster.companion()
            await client.ready(60)
            began = time.monotonic()
            with pytest.raises(StartFailure) as caught:
                await client.start(cluster.plan(1, quick=quick), 60)
            assert caught.value.kind == "refused"
            assert cluster.plan(0).gcs_address in caught.value.message
            assert time.monotonic() - began < 60  # the start's own deadline was not waited for

    run(test)


def test_no_answer_from_the_address_is_said_in_time() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            client = cluster.companion()
            await client.ready(60)
            with socket.socket() as mute:  # takes connections, as far as the kernel goes, and never speaks
                mute.bind((cluster.plan(0).node_ip, cluster.plan(0).ports["gcs"]))
                mute.listen()
                began = time.monotonic()
                with pytest.raises(StartFailure) as caught:
                    await client.start(cluster.plan(1), 60)
            assert caught.value.kind == "timed out"
            assert time.monotonic() - began < 60  # nor was this one's

    run(test)


def test_another_cluster_is_not_joined() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            await cluster.start(0)
            with pytest.raises(StartFailure) as caught:
                await cluster.start(1, identity="another")
            assert caught.value.kind == "wrong cluster"

    run(test)


def test_a_wrong_token_is_refused_at_once(tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("fedcba9876543210" * 2)

    async def test() -> None:
        async with nodes() as cluster:
            await cluster.start(0)
            for token in (str(wrong), None):
                began = time.monotonic()
                with pytest.raises(StartFailure) as caught:
                    await cluster.start(1, auth_token_path=token)
                assert caught.value.kind == "auth"
                assert time.monotonic() - began < 60

    run(test)


def test_a_cluster_without_authentication() -> None:
    async def test() -> None:
        async with nodes(token=False) as cluster:
            await cluster.start(0)
            await cluster.start(1)
            assert "2 nodes" in await cluster.driver(ON_EACH)

    run(test)


def _certificates(directory: Path) -> TlsFiles:
    """A certificate authority and one certificate for every address of the tests' clusters."""
    ca, key, cert, request = (directory / name for name in ("ca.pem", "key.pem", "cert.pem", "request.pem"))
    names = directory / "names"
    names.write_text("subjectAltName=" + ",".join(f"IP:127.{a}.{b}.{c}" for a, b, c in _addresses()))
    for command in (
        f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=ca -keyout {directory}/ca.key -out {ca}",
        f"req -newkey rsa:2048 -nodes -subj /CN=node -keyout {key} -out {request}",
        f"x509 -req -days 1 -in {request} -CA {ca} -CAkey {directory}/ca.key -CAcreateserial -out {cert} "
        f"-extfile {names}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    return TlsFiles(str(cert), str(key), str(ca))


def _addresses() -> list[tuple[int, int, int]]:
    return [(100 + os.getpid() % 100, cluster, node) for cluster in range(1, 60) for node in (1, 2)]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
def test_tls_between_the_nodes(tmp_path: Path) -> None:
    tls = _certificates(tmp_path)

    async def test() -> None:
        async with nodes() as cluster:
            head = await cluster.start(0, tls=tls)
            worker = await cluster.start(1, tls=tls)
            env = {"RAY_USE_TLS": "1", "RAY_TLS_SERVER_CERT": tls.cert, "RAY_TLS_SERVER_KEY": tls.key}
            client = cluster.companions[0]
            await client.watch(head.gcs_address, _auth(cluster.token) | env | {"RAY_TLS_CA_CERT": tls.ca})
            assert client.nodes[worker.node_id]["alive"]
            assert "2 nodes" in await cluster.driver(ON_EACH)
            # Without the certificates nobody gets in.
            with pytest.raises(StartFailure):
                await cluster.start(1, tls=None)

    run(test)


def test_another_ray_at_the_head_is_not_joined() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            head = await cluster.start(0)
            put = f"""
from ray._raylet import GcsClient
GcsClient(address={head.gcs_address!r}).internal_kv_put(
    b"CLUSTER_METADATA", b'{{"ray_version": "2.1.0", "python_version": "3.7.2"}}', True, b"cluster")
"""
            await cluster.driver(put)
            with pytest.raises(StartFailure, match=r"2\.1\.0 on Python 3\.7") as caught:
                await cluster.start(1)
            assert caught.value.kind == "version mismatch"

    run(test)


@pytest.mark.parametrize("port", ["gcs", "node_manager", "object_manager"])
def test_a_taken_port_is_named_as_the_cause(port: str) -> None:
    async def test() -> None:
        async with nodes() as cluster:
            plan = cluster.plan(0)
            client = cluster.companion()
            await client.ready(60)
            with socket.socket() as other:
                other.bind((plan.node_ip, plan.ports[port]))
                other.listen()
                began = time.monotonic()
                with pytest.raises(StartFailure) as caught:
                    await client.start(plan, 60)
            assert caught.value.kind == "ports", caught.value.message
            assert time.monotonic() - began < 60
            assert not [one for one in descendants(os.getpid()) if one.name in ("gcs_server", "raylet")]
            # The port is free again, and so is the way.
            await client.start(plan, 60)

    run(test)


def test_at_the_deadline_nothing_is_left() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            client = cluster.companion()
            await client.ready(60)
            spawned = asyncio.Event()
            client.listen(lambda event: spawned.set() if event["event"] == "spawned" else None)
            task = asyncio.ensure_future(client.start(cluster.plan(0), 60))
            await spawned.wait()
            task.cancel()
            await asyncio.wait([task])
            await client.child.exited
            while any(one.name in ("gcs_server", "raylet") for one in descendants(os.getpid())):
                await asyncio.sleep(0.02)

    run(test)


SLOW_AGENTS = """
import sys, time
if any(part.endswith(("dashboard/agent.py", "runtime_env/agent/main.py")) for part in sys.orig_argv):
    time.sleep(600)
"""


def test_slow_agents_delay_nothing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENTS)

    async def test() -> None:
        async with nodes() as cluster:
            env = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
            began = time.monotonic()
            await cluster.start(0, env=env)
            await cluster.start(1, env=env)
            assert "2 nodes" in await cluster.driver(ON_EACH)
            assert time.monotonic() - began < 600

    run(test)


RUNTIME_ENV = """
import os, ray
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=1, runtime_env={"env_vars": {"MARK": "made by the agent"}})
def mark():
    return os.environ["MARK"]
print(ray.get(mark.remote()))
"""


@pytest.mark.parametrize("quick", ["node", "ray-start"])
def test_agents_start_when_they_are_wanted(quick: Any) -> None:
    async def test() -> None:
        async with nodes() as cluster:
            head = await cluster.start(0, quick=quick)
            # A raylet registers before it has them.
            while _waiting(head) != ["agent.gate", "runtime-env.gate"]:
                await asyncio.sleep(0.05)
            assert "made by the agent" in await cluster.driver(RUNTIME_ENV)
            assert _waiting(head) == ["agent.gate"]
            assert cluster.head is not None and wake(cluster.head.agent_gate)
            while _waiting(head):
                await asyncio.sleep(0.05)
            raylet = cluster.child(head, "raylet")
            await asyncio.sleep(2)
            assert raylet.running

    run(test)


def test_with_a_dashboard_agents_do_not_wait() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            for number in (0, 1):
                started = await cluster.start(number, agent_at_once=True)
                while _waiting(started) != ["runtime-env.gate"]:
                    await asyncio.sleep(0.05)

    run(test)


METRICS = """
import ray
from ray.util.metrics import Counter
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=1)
def count():
    Counter("counted").inc()
Counter("counted").inc()
ray.get(count.remote())
"""


@pytest.mark.skipif(ray_version() < (2, 55), reason="this Ray cannot be told that no agent takes metrics")
def test_nothing_tries_to_reach_an_agent_that_is_not_there() -> None:
    """What tries prints an error after 30 s: tests/slurm/test_long_drivers.py waits for that."""

    async def test() -> None:
        async with nodes() as cluster:
            started = [await cluster.start(number) for number in (0, 1)]
            await cluster.driver(METRICS)
            texts = {name: text for one in started for name, text in _logs(one).items()}
            assert [name for name, text in texts.items() if "Initializing exporter" in text] == []
            told = [name for name, text in texts.items() if "Metrics agent not available" in text]
            assert {"gcs_server.out", "raylet.out"} <= set(told)
            assert any(name.startswith("python-core-driver") for name in told)

    run(test)


def _logs(started: Started) -> dict[str, str]:
    logs = [path for path in Path(started.session_dir, "logs").iterdir() if path.is_file()]
    return {path.name: path.read_text(errors="replace") for path in logs}


def _waiting(started: Started) -> list[str]:
    """The gates at which shells below this node's raylet wait in the place of its agents."""
    found = []
    for stat in descendants(started.processes["raylet"]):
        parts = Path(f"/proc/{stat.pid}/cmdline").read_text().split("\0")
        if parts[0] == "/bin/sh" and parts[3].endswith(".gate"):
            found.append(Path(parts[3]).name)
    return sorted(found)


OTHER_RAY = """
import os, sys

class Change:
    \"\"\"Takes private parts of Ray away as soon as the companion wants them.\"\"\"
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "raycluster_cli.rayproc.private":
            import ray._private.services
            {change}

companion = any("raycluster_cli.rayproc.companion" in part for part in sys.orig_argv)
if companion and "RAYCLUSTER_PUBLIC_WATCH" not in os.environ:
    sys.meta_path.insert(0, Change)
"""


@pytest.mark.parametrize("version", ["9.9.0", None])
def test_on_an_untried_ray_a_failed_start_is_tried_the_public_way(
    tmp_path: Path, version: str | None
) -> None:
    change = "ray._private.services.RAYLET_EXECUTABLE = '/bin/false'"
    if version:
        change += f"; ray.__version__ = {version!r}"
    (tmp_path / "sitecustomize.py").write_text(OTHER_RAY.format(change=change))

    async def test() -> None:
        async with nodes() as cluster:
            client = cluster.companion(PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[2]}")
            await client.ready(60)
            if version:
                assert (await client.start(cluster.plan(0), 90)).how == "ray-start"
            else:
                with pytest.raises(StartFailure, match="raylet"):
                    await client.start(cluster.plan(0), 90)

    run(test, 180)


@pytest.mark.parametrize("part", ["Config", "GcsClient"])
def test_on_another_ray_the_public_way_is_taken(tmp_path: Path, part: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER_RAY.format(change=f"del ray._raylet.{part}"))

    async def test() -> None:
        async with nodes() as cluster:
            started = []
            for number in (0, 1):
                client = cluster.companion(PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[2]}")
                await client.ready(60)
                started.append(await client.start(cluster.plan(number), 90))
            cluster.head = cluster.plan(0)
            assert [one.how for one in started] == ["ray-start", "ray-start"]
            client = cluster.companions[0]
            await client.watch(started[0].gcs_address, _auth(cluster.token), expected=2, timeout_s=60)
            assert {node["name"] for node in client.nodes.values() if node["alive"]} == {"node0", "node1"}
            assert "2 nodes" in await cluster.driver(ON_EACH)

    run(test, 180)


def test_what_tasks_print_reaches_the_driver() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            started = [await cluster.start(0), await cluster.start(1)]
            for number, client in enumerate(cluster.companions):
                done = await client.start_extra("log_monitor", cluster.plan(number), started[number], 60)
                assert [one["name"] for one in done["processes"]] == ["log_monitor"]
            await cluster.companions[1].close()
            printed = await cluster.driver(ON_EACH + "\nimport time; time.sleep(2)")
            assert printed.count("printed by a task") == 2

    run(test)


@pytest.mark.parametrize("quick", ["node", "ray-start"])
def test_a_directory_of_the_users_shadows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: Any
) -> None:
    for name in ("random.py", "ray.py", "raycluster_cli.py"):
        (tmp_path / name).write_text("raise SystemExit('this is the user\\'s own')")
    monkeypatch.chdir(tmp_path)

    async def test() -> None:
        async with nodes() as cluster:
            client = cluster.companion(PYTHONPATH="")  # as with a checkout that is not installed
            assert (await client.ready(60))["ray_version"]
            await client.start(cluster.plan(0, quick=quick), 60)

    run(test)


@pytest.mark.skipif(ray_version() >= (2, 58), reason="this Ray has storage for its GCS")
def test_a_head_that_cannot_come_back_is_said(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes() as cluster:
            with pytest.raises(StartFailure, match=r"2\.58"):
                await cluster.start(0, gcs_storage_path=str(tmp_path))

    run(test)


@pytest.mark.skipif(ray_version() < (2, 58), reason="GCS storage in RocksDB came with Ray 2.58")
def test_a_head_comes_back_with_its_state() -> None:
    actor = """
import os, ray
ray.init(logging_level="ERROR", namespace="n")
@ray.remote(num_cpus=1, resources={"there": 1})
class Counter:
    def __init__(self): self.count = 0
    def add(self):
        self.count += 1
        return self.count, os.getpid()
counter = Counter.options(name="c", lifetime="detached", get_if_exists=True).remote()
print("COUNTS", *ray.get(counter.add.remote()))
"""

    async def counts(cluster: Nodes) -> list[str]:
        """The actor's count and process; Ray may print that the old head is dead, before or after."""
        printed = await cluster.driver(actor)
        return next(line.split()[1:] for line in printed.splitlines() if line.startswith("COUNTS "))

    async def test() -> None:
        async with nodes() as cluster:
            storage = str(cluster.base / "storage")
            head = await cluster.start(0, gcs_storage_path=storage)
            worker = await cluster.start(1, gcs_storage_path=storage, resources={"there": 1.0})
            count, pid = await counts(cluster)
            assert count == "1"
            agents = descendants(head.processes["raylet"])
            for name in ("raylet", "gcs_server"):
                child = cluster.child(head, name)
                await child.stop(0)
            cluster.stand_ins[0].close()  # as the supervisor does when it clears the node
            while any(is_running(agent.ref) for agent in agents):  # they have the ports of the next ones
                await asyncio.sleep(0.02)
            plan = cluster.plan(0, gcs_storage_path=storage)
            plan = replace(plan, ports=ports_for_restart(plan.ports, 1))
            again = await cluster.companions[0].start(plan, 60)
            assert again.session == head.session
            assert again.cluster_id == head.cluster_id
            client = cluster.companions[0]
            await client.watch(again.gcs_address, _auth(cluster.token), expected=2)
            deadline = time.monotonic() + 30
            while not client.nodes.get(worker.node_id, {}).get("alive"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            assert await counts(cluster) == ["2", pid]

    run(test)


def test_a_second_start_of_one_companion_after_a_loss() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            await cluster.start(0)
            worker = await cluster.start(1)
            await cluster.child(worker, "raylet").stop(0)
            client = cluster.companions[0]
            await client.watch(worker.gcs_address, _auth(cluster.token), expected=9)
            while client.nodes[worker.node_id]["alive"]:
                await asyncio.sleep(0.1)
            plan = cluster.plan(1)
            plan = replace(plan, ports=ports_for_restart(plan.ports, 1))
            again = await cluster.companions[1].start(plan, 60)
            assert again.node_id != worker.node_id
            raylet = cluster.child(again, "raylet")
            await asyncio.sleep(3)
            assert raylet.running
            assert "2 nodes" in await cluster.driver(ON_EACH)

    run(test)


def test_the_examples_of_the_module_that_imports_ray() -> None:
    from raycluster_cli.rayproc.private import known

    failed, tried = doctest.testmod(known)
    assert failed == 0 < tried
