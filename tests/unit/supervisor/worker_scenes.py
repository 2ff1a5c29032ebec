"""A worker's whole run in this process: its record is real, its GCS a socket, and its Ray node is none."""

from __future__ import annotations

import asyncio
import ctypes
import io
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from raycluster_cli.model.record import HeadInfo, NodeReport
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import Role
from raycluster_cli.node.accelerators import Accelerators
from raycluster_cli.node.start_spec import StartSpec
from raycluster_cli.policy.values import Phase
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.plan import TlsFiles
from raycluster_cli.rayproc.started import Started
from raycluster_cli.rayproc.template import Template
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.context import Context
from raycluster_cli.supervisor.worker import WorkerRun
from raycluster_cli.system.network import NodeAddress
from raycluster_cli.system.process import Child
from raycluster_cli.system.proctree import ProcessRef
from tests.unit.loops import SkippingLoop, run_loop, skip
from tests.unit.rayproc.gcs import Gcs, running

TEMPLATE = {
    "identity": "the head's",
    "installation": "ray 2.60.0",
    "variables": "00000000",
    "agent_at_once": False,
    "ray_version": "2.60.0",
    "session": "session_1",
    "cluster_id": "ab",
    "gcs_address": "10.77.0.1:20480",
    "gpus": "NVIDIA H200",
    "accelerator_type": "H200",
    "spills": False,
    "node_id_bytes": 28,
    "launch": {"argv": ["/raylet", "--node_id=@{node_id}"], "variables": {}, "files": []},
}

#: Longer than any wait of a worker, whose time is skipped.
LIMIT_S = 3000.0


class Node:
    """As node.RayNode, of which nothing runs; it notes what it is asked to do."""

    tls_context = None
    keys = ()

    def __init__(
        self,
        root: Path,
        died: Callable[[Child, int], None],
        *,
        fails: Sequence[StartFailure | None],
        hangs: Sequence[int],
        dies_at_start: int | None,
        doubt: str,
        installed: str,
    ) -> None:
        """``fails``: the failure of each start, the first first; None, and those after them: it is up.

        ``hangs``: the numbers of starts that never end.  ``dies_at_start``: the code with which its raylet
        ends at once.  ``doubt``: about its accelerators.  ``installed``: its installation of Ray.
        """
        self.root = self
        self.path = root
        self.setup = self
        self.token = ""
        self.tls: TlsFiles | None = None
        self.address = NodeAddress("127.0.0.1", "lo", "test")
        self.templates = self
        self.started: Started | None = None
        self.children: dict[str, Child] = {}
        self.steps: Mapping[str, float] = {}
        self.drained: str | None = None
        """Why the head drained its raylet."""
        self.done: list[str] = []
        self._died, self._fails, self._hangs, self._doubt = died, list(fails), hangs, doubt
        self._dies_at_start, self._installed = dies_at_start, installed

    def __getattr__(self, name: str) -> Any:
        """A step of the node's life without a result."""
        if name.startswith("_"):
            raise AttributeError(name)

        def step(*_: object, **__: object) -> None:
            self.done.append(name)

        return step

    async def installation(self) -> str:
        return self._installed

    async def accelerators(self) -> Accelerators:
        return Accelerators(doubt=self._doubt)

    async def measure(self, *, route_to: str | None) -> None:
        self.done.append("measure")

    def port_map(self) -> dict[str, Any]:
        return {}

    def client_variables(self) -> dict[str, str]:
        return {"RAY_ADDRESS": "this node's"}

    async def start(self, timeout_s: float, spec: StartSpec, template: Template | None = None) -> Started:
        self.done.append("start")
        if self._fails and (failure := self._fails.pop(0)) is not None:
            raise failure
        if self.done.count("start") in self._hangs:
            await asyncio.Event().wait()
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self._dies_at_start is not None:
            exited.set_result(self._dies_at_start)
        self.children = {"raylet": Child("raylet", ProcessRef(2**30, 1), exited)}
        node_id = f"{len(self.done):02}"
        self.started = Started("node", {}, "s", str(self.path), node_id, "c", spec.gcs_address, {})
        return self.started

    def die(self, code: int) -> None:
        """Its raylet ends."""
        raylet = self.children["raylet"]
        raylet.exited.set_result(code)
        self._died(raylet, code)

    async def drain_message(self) -> str | None:
        return self.drained

    def log_of(self, name: str) -> str:
        return f"the log of the {name}"

    async def reset(self) -> None:
        self.done.append("reset")

    async def stop(self, hurry: asyncio.Event) -> None:
        self.done.append("stop")


@dataclass
class Scene:
    """What a test can change while a worker runs."""

    run: WorkerRun
    gcs: Gcs
    record: Record
    told: io.StringIO

    @property
    def node(self) -> Node:
        return self.run.node  # type: ignore[return-value]

    @property
    def said(self) -> str:
        """The lines that it has printed so far."""
        return self.told.getvalue()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def pass_s(self, seconds: float) -> None:
        """Let so much time have passed."""
        skip(seconds)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0.01)

    async def joined(self) -> None:
        await self.until(lambda: self.run.state.phase is Phase.RUNNING and self.gcs.checks)


async def hasten() -> None:
    """Let time pass faster while a connection is open, when the loop skips none; not while a file is read."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    while True:
        await asyncio.sleep(0.001)
        if not loop.is_calling:
            loop.skip(0.1)


class Played(NamedTuple):
    """How a run ended."""

    code: int
    said: list[str]
    report: NodeReport
    node: Node | None
    run: WorkerRun
    took_s: float
    """By the loop's clock."""


def head_at(port: int, **facts: Any) -> HeadInfo:
    given = {"identity": "the head's", "state": "up", "started": 100.0, **facts}
    return HeadInfo("n1", "127.0.0.1", port, **given)


def play(
    directory: Path,
    act: Callable[[Scene], Awaitable[None]],
    *,
    head: Mapping[str, Any] | None = None,
    fails: Sequence[StartFailure | None] = (),
    hangs: Sequence[int] = (),
    dies_at_start: int | None = None,
    doubt: str = "",
    installed: str = "",
    before: Callable[[Record], None] = lambda record: None,
    kind: type[WorkerRun] = WorkerRun,
    allocation: Allocation | None = None,
    env: Mapping[str, str] | None = None,
    context: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Played:
    """A worker's run from its start to its end, while ``act`` does what happens to it.

    ``head``: facts of the head in the record; ``before``: writes more into the record.
    """

    class Run(kind):  # type: ignore[valid-type,misc]
        async def make_node(self) -> Node:
            self._node = Node(
                directory,
                self._process_died,
                fails=fails,
                hangs=hangs,
                dies_at_start=dies_at_start,
                doubt=doubt,
                installed=installed,
            )
            return self._node

    async def work() -> Played:
        record = Record.create(directory / "state", "bed", "7")
        record.make_token()
        gcs = Gcs()
        async with running(gcs) as port:
            record.write_head(head_at(port, **(head or {})))
            before(record)
            given = {"check_interval": 5.0, "retry_delay": 0.2, "max_retries": 3, "timeout": 60.0, **settings}
            run = Run(
                Context(
                    **{
                        "settings": Settings(**given),
                        "env": {"PATH": "/nowhere", **(env or {})},
                        "allocation": allocation,
                        "role": Role.WORKER,
                        "key": "7",
                        "slurm_cluster": "bed",
                        "host": "n2",
                        "state_dir": directory / "state",
                        "key_given": allocation is None,
                        **(context or {}),
                    }
                )
            )
            told = run.report.stream = io.StringIO()
            began = asyncio.get_running_loop().time()
            running_task = asyncio.ensure_future(run.run())
            acting = asyncio.ensure_future(act(Scene(run, gcs, record, told)))
            hastening = asyncio.ensure_future(hasten())
            await asyncio.wait({running_task}, timeout=LIMIT_S)
            took_s = asyncio.get_running_loop().time() - began
            assert running_task.done(), told.getvalue()
            if acting.done():
                acting.result()
            for task in (acting, hastening):
                task.cancel()
            own = run.record or record
            report = own.read_node(run.context.host) or run.reports.now
            node = run._node if run.has_node else None
            return Played(running_task.result(), told.getvalue().splitlines(), report, node, run, took_s)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    old = {number: signal.getsignal(number) for number in numbers}
    try:
        return run_loop(work())
    finally:
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: the tests' process stays as it was
        for number, handler in old.items():
            signal.signal(number, handler)
