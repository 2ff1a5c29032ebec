"""A head's Ray node that runs nothing: it answers as a test says, and remembers what was asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raycluster_cli.node.start_spec import StartSpec
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.listed_node import ListedNode
from raycluster_cli.rayproc.started import Started

SESSION = "session_2026-11-29_14-00-00_7"


class FakeNode:
    """What a head needs of node.ray_node.RayNode."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[str] = []
        """What was asked of it, in order."""
        self.steps: dict[str, float] = {"raylet": 5.0}
        self.root = SimpleNamespace(path=directory / "node", ray_dir=directory / "node" / "r")
        self.address = SimpleNamespace(ip="10.0.0.1")
        self.gcs_port = 20480
        self.tls_context = None
        self.token = ""
        self.plan = SimpleNamespace()
        self.ray_version = "2.60.0"
        self.setup = SimpleNamespace(worker_hosts=())
        self.dashboard = SimpleNamespace(on_up=None, address="127.0.0.1:20483")
        self.started: Started | None = None
        self.children: dict[str, Any] = {}
        self.companion: Any = None
        self.failure: StartFailure | None = None
        """With which the next start fails."""
        self.specs: list[StartSpec] = []
        """Of each start."""
        self.on_starting: Callable[[], object] = lambda: None
        self.templates = self

    def _did(self, step: str) -> None:
        self.asked.append(step)

    # -- templates -------------------------------------------------------------------------------

    async def installation(self) -> str:
        return "ray-2.60"

    async def accelerators(self) -> Any:
        return SimpleNamespace(gpus="H200", doubt="")

    async def make_early(self, plan: object, identity: str) -> dict[str, str]:
        return {"made": "early", "identity": identity}

    async def make(self, plan: object, identity: str) -> dict[str, str]:
        return {"made": "late", "identity": identity}

    # -- the start -------------------------------------------------------------------------------

    def begin_import(self) -> None:
        self._did("import")

    async def measure(self, *, route_to: str | None) -> None:
        self._did(f"measure the route to {route_to}")

    def claim_ports(self, given: Mapping[str, int]) -> None:
        self._did(f"claim {dict(given)}")

    def port_map(self) -> dict[str, Any]:
        return {"gcs": self.gcs_port}

    async def make_authority(self) -> str:
        return "authority"

    async def certify(self, authority: str) -> None:
        self._did(f"certify by {authority}")

    async def version(self, timeout_s: float) -> str:
        return self.ray_version

    async def start(self, timeout_s: float, spec: StartSpec) -> Started:
        self._did("start")
        self.specs.append(spec)
        self.on_starting()
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        session = spec.session_name or SESSION
        address = f"{self.address.ip}:{self.gcs_port}"
        self.started = Started("node", {}, session, f"/tmp/{session}", "aa", "cluster", address, {})
        return self.started

    async def reset(self) -> None:
        self._did("reset")
        self.started = None

    # -- while it runs ---------------------------------------------------------------------------

    def log_of(self, name: str) -> str:
        return f"/logs/{name}.err"

    def has(self, name: str) -> Any:
        """One of its processes, which runs."""
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.children[name] = SimpleNamespace(name=name, running=True, exited=exited)
        return self.children[name]


class WatchedNode(FakeNode):
    """One whose list of nodes a test writes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.listener: Callable[[Sequence[ListedNode]], object]
        self.watches: list[asyncio.Future[None]] = []
        """Of each subscription, when it has ended."""
        self.refusals: list[Exception] = []
        """With which the next subscriptions fail."""

    async def watch(self, listener: Any, expected_nodes: int) -> asyncio.Future[None]:
        if self.refusals:
            raise self.refusals.pop(0)
        self.listener = listener
        self.watches.append(asyncio.get_running_loop().create_future())
        return self.watches[-1]
