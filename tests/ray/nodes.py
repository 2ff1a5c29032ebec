"""Real Ray nodes on loopback addresses of their own, started through companions, for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raycluster_cli.model.status import Role
from raycluster_cli.node.stand_ins import AgentStandIns
from raycluster_cli.rayproc.companion_client import CompanionClient
from raycluster_cli.rayproc.environment import client_environment
from raycluster_cli.rayproc.plan import NodePlan
from raycluster_cli.rayproc.started import Started
from raycluster_cli.system.ports import PortClaim, claim_ports
from raycluster_cli.system.process import Child, Reaper, end_tree
from raycluster_cli.system.proctree import PR_SET_CHILD_SUBREAPER, become_subreaper, descendants

_CLUSTERS = itertools.count(1)


def ray_version() -> tuple[int, int]:
    """Of the Ray that the tests run on, without importing it."""
    from importlib.metadata import version

    major, minor = version("ray").split(".")[:2]
    return int(major), int(minor)


@dataclass
class Nodes:
    """A cluster on addresses 127.A.B.1, .2 …, with ports of its own."""

    base: Path
    reaper: Reaper
    token: str | None = None
    host: str = field(default_factory=lambda: f"127.{100 + os.getpid() % 100}.{next(_CLUSTERS)}")
    companions: list[CompanionClient] = field(default_factory=list)
    claims: dict[int, PortClaim] = field(default_factory=dict)
    stand_ins: list[AgentStandIns] = field(default_factory=list)
    head: NodePlan | None = None

    def plan(self, number: int, **changes: Any) -> NodePlan:
        """Node 0 is the head."""
        directory = self.base / f"n{number}"
        directory.mkdir(mode=0o700, exist_ok=True)
        address = f"{self.host}.{number + 1}"
        if number not in self.claims:
            self.claims[number] = claim_ports(
                f"test-{self.host}-{number}", address=address, head=number == 0, worker_ports=100
            )
        if number:
            self.plan(0)  # which has the GCS's port
        plan = NodePlan(
            role=Role.WORKER if number else Role.HEAD,
            node_ip=address,
            gcs_address=f"{self.host}.1:{self.claims[0].ports.gcs}",
            ports=self.claims[number].ports.as_dict(),
            temp_dir=str(directory),
            num_cpus=1,
            memory_bytes=500_000_000,
            object_store_bytes=80_000_000,
            node_name=f"node{number}",
            identity="the cluster meant",
            auth_token_path=self.token,
            expected_nodes=2,
        )
        return replace(plan, **changes)

    def companion(self, **env: str) -> CompanionClient:
        log = self.base / f"companion{len(self.companions)}.log"
        with log.open("wb") as stderr:
            client = CompanionClient.spawn(
                self.reaper.spawn, environment() | env, python=sys.executable, stderr=stderr
            )
        self.companions.append(client)
        return client

    async def start(self, number: int = 0, **changes: Any) -> Started:
        """A node with a companion of its own."""
        plan = self.plan(number, **changes)
        if number == 0:
            self.head = plan
        client = self.companion()
        await client.ready(60)
        agents = AgentStandIns()
        self.stand_ins.append(agents)
        await agents.hold(plan)
        started = await client.start(plan, 60)
        if started.agents_wait:
            agents.listen()
        else:
            agents.close()
        return started

    def child(self, started: Started, name: str) -> Child:
        """A daemon, which is ours since its starter has ended."""
        return self.reaper.adopt(name, started.processes[name])

    async def driver(
        self, text: str, *, timeout_s: float = 90, plan: NodePlan | None = None, **env: str
    ) -> str:
        """Run a driver; what it prints.  A failed one raises AssertionError with its words."""
        plan = plan or self.head
        assert plan is not None
        path = self.base / "driver.py"
        path.write_text(text)
        output = self.base / "driver.out"
        with output.open("wb") as file:
            child = self.reaper.spawn(
                [sys.executable, str(path)],
                "driver",
                stdout=file,
                stderr=file,
                env=client_environment(plan, environment()) | env,
                start_new_session=True,
            )
        try:
            code = await asyncio.wait_for(asyncio.shield(child.exited), timeout_s)
        except asyncio.TimeoutError:
            code = await child.stop(0)
        printed = output.read_text()
        assert code == 0, f"driver: {code}\n{printed}"
        return printed


def environment() -> dict[str, str]:
    """A plain environment: nothing of a Ray that the tester may be using."""
    repository = str(Path(__file__).resolve().parents[2])
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": repository,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
    }


# Waits for a word or the end of its stdin; ends what the tests started when they were killed without a word.
_GUARD = """
import os, pathlib, shutil, signal, sys
base = sys.argv[1]
if not sys.stdin.readline():
    for _ in range(3):
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if f"{base}/".encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)
            except OSError:
                pass
    shutil.rmtree(base, ignore_errors=True)
"""


@asynccontextmanager
async def nodes(*, token: bool = True) -> AsyncIterator[Nodes]:
    """An empty cluster; in the end not one process of it is left."""
    with _subreaper():
        async with _nodes(token) as cluster:
            yield cluster


@contextlib.contextmanager
def _subreaper() -> Iterator[None]:
    """While it lasts only: a test process that stays one collects orphans that it never reaps."""
    become_subreaper()
    try:
        yield
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@asynccontextmanager
async def _nodes(token: bool) -> AsyncIterator[Nodes]:
    base = Path(tempfile.mkdtemp(prefix="rct", dir="/tmp"))
    token_path = base / "token"
    token_path.write_text("0123456789abcdef" * 2)
    reaper = Reaper()
    reaper.attach(asyncio.get_running_loop())
    guard = reaper.spawn(
        [sys.executable, "-c", _GUARD, str(base)], "guard", stdin=subprocess.PIPE, start_new_session=True
    )
    before = {stat.pid for stat in descendants(os.getpid())}
    cluster = Nodes(base, reaper, str(token_path) if token else None)
    try:
        yield cluster
    finally:
        for agents in cluster.stand_ins:
            agents.close()
        for client in cluster.companions:
            with contextlib.suppress(Exception):
                await client.close()
        assert not await end_tree(os.getpid(), skip=tuple(before), grace_s=0)
        for claim in cluster.claims.values():
            claim.close()
        assert guard.stdin is not None
        guard.stdin.write(b"all is ended\n")
        guard.stdin.close()
        await guard.exited
        shutil.rmtree(base)


def run(test: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 120) -> None:
    """Run an async test under a deadline."""

    async def within() -> None:
        await asyncio.wait_for(test(), timeout_s)

    asyncio.run(within())
