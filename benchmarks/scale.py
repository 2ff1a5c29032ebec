"""A thousand workers' control path against real files and a stand-in for Ray.

    python -m benchmarks.scale [--workers 1000]

Every worker runs raycluster's own code as far as it does not touch Ray: it opens the job's record, writes its
words, looks for the head in the record and probes its port with the pauses that real workers make, waits
for the end and writes its last report.  The head is a stand-in that says in the record that it is starting,
opens its port some seconds later, and reads all words as a head does.  Files and connects are real; time is
not: it goes on when nobody has anything to do, so that a thousand workers fit on two busy cores and every run
counts the same.  Counted: operations on files and probes in each second, CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import selectors
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raycluster_cli.model.hostlist import format_hostlist
from raycluster_cli.model.record import EndReport, HeadInfo
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import NodePhase, Role
from raycluster_cli.rayproc.health import Probe, tcp_probe
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.context import Context
from raycluster_cli.supervisor.discovery import ClusterKey, Discovery, TcpProbe
from raycluster_cli.supervisor.own_record import report_rest_s
from raycluster_cli.supervisor.worker import WorkerRun

HOST = "127.0.0.1"

#: Seconds after the first worker at which the head writes that it starts, opens its port, and ends.
HEAD_STARTS_S, PORT_OPENS_S, ENDS_S = 0.5, 5.0, 12.0


def ends_s(workers: int) -> float:
    """When the head ends: after all have reported that they joined; many workers report less often.

    >>> ends_s(1000), ends_s(10_000)
    (12.0, 57.0)
    """
    return max(ENDS_S, PORT_OPENS_S + 2.0 + 2.5 * report_rest_s(workers))


#: srun starts the tasks of a step within this time; Ray's start on a node takes about that.
LAUNCH_S, RAY_S = 1.0, 0.5

#: How long the workers of a large cluster take to hear of the end: the head drains them one after the other.
DRAIN_S = 0.5

#: What Python's audit events call the operations on files that reach a file server.
_OPERATIONS = {"open": "open", "os.rename": "rename", "os.mkdir": "mkdir", "os.scandir": "list"}


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes on when there is nothing to do, and that does file work in line."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_SkippingSelector(self))

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _SkippingSelector(selectors.EpollSelector):
    """Looks at what is ready; instead of waiting it puts the loop's clock forward."""

    def __init__(self, loop: SkippingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self._loop.now += timeout
        return ready


@dataclass
class Count:
    """How often things happened, by (what, second)."""

    loop: SkippingLoop
    below: str
    """Only operations on files below this directory count."""
    counting: bool = True
    happened: Counter[tuple[str, int]] = field(default_factory=Counter)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A hook for sys.addaudithook."""
        what = _OPERATIONS.get(event)
        if what and self.counting and arguments and str(arguments[0]).startswith(self.below):
            if what == "open" and len(arguments) > 2 and int(arguments[2] or 0) & (os.O_WRONLY | os.O_CREAT):
                what = "create"
            self.add(what)

    def add(self, what: str) -> None:
        self.happened[what, int(self.loop.now)] += 1

    def __enter__(self) -> None:
        """What the head does is not the workers'."""
        self.counting = False

    def __exit__(self, *_: object) -> None:
        self.counting = True


class SimulatedWorker(WorkerRun):
    """A worker without Ray and without a node of its own."""

    def __init__(self, context: Context, probe: TcpProbe) -> None:
        super().__init__(context)
        self.probe = probe

    async def life(self, end: asyncio.Event) -> float:
        """From launch to the last report; the time at which the head was found."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(random.uniform(0, LAUNCH_S))
        await self.open_record()
        self.reports.phase(NodePhase.LAUNCHED)
        deadline = loop.time() + self.settings.timeout
        self.reports.phase(NodePhase.WAITING)
        head_record = self.make_head_record()
        discovery = Discovery(
            head_record,
            reports=self.reports,
            key=ClusterKey(self.context.slurm_cluster, self.context.key),
            allocation=self.context.allocation,
            state_dir=self.context.state_dir,
            probe=self.probe,
        )
        target = await discovery.find_head(deadline, deadline)
        head_record.close()
        found = loop.time()
        self.reports.phase(NodePhase.FOUND, f"head at {target.address}")
        self.reports.phase(NodePhase.STARTING)
        await asyncio.sleep(RAY_S * random.uniform(0.5, 1.5))
        self.reports.phase(NodePhase.JOINED)
        await end.wait()
        await asyncio.sleep(random.uniform(0, DRAIN_S))
        ended = await self.find_end(self.record, 3.0)
        self.reports.phase(NodePhase.STOPPING, ended.message if ended else "")
        self.reports.phase(NodePhase.GONE, exit_code=0)
        await self.reports.close()
        return found


def contexts(state_dir: Path, hosts: list[str]) -> list[Context]:
    """What each worker of one srun on these hosts is given; the first host is the head's."""
    listed = format_hostlist(hosts)
    first = Allocation.from_environ(
        {
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NODELIST": listed,
            "SLURM_JOB_NUM_NODES": str(len(hosts)),
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": listed,
            "SLURM_STEP_NUM_NODES": str(len(hosts)),
            "SLURM_STEP_NUM_TASKS": str(len(hosts)),
            "SLURM_STEP_TASKS_PER_NODE": f"1(x{len(hosts)})",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
            "SLURMD_NODENAME": hosts[0],
            "SLURM_CLUSTER_NAME": "scale",
        }
    )
    assert first is not None
    return [
        Context(
            settings=Settings(state_dir=str(state_dir)),
            env={},
            allocation=first.but(procid=number, nodeid=number, node_name=host),
            role=Role.WORKER,
            key="1",
            slurm_cluster="scale",
            host=host,
            state_dir=state_dir,
            symmetric=True,
        )
        for number, host in enumerate(hosts)
        if number
    ]


@dataclass
class Head:
    """The head's part, and what it saw."""

    record: Record
    hosts: list[str]
    count: Count
    accepted: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    """CPU seconds of each reading of all words."""
    joined_at: float | None = None

    async def life(self, end: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.accepted.append(loop.time())
            writer.close()

        await asyncio.sleep(HEAD_STARTS_S)
        free = await asyncio.start_server(accept, HOST, 0, start_serving=False)
        port = free.sockets[0].getsockname()[1]
        free.close()
        head = HeadInfo(host=self.hosts[0], address_ip=HOST, port=port, identity="x" * 32, auth=False)
        with self.count:
            self.record.take_lease(host=self.hosts[0])
            self.record.write_head(replace(head, state="starting", step="0", launch="0"))
        await asyncio.sleep(PORT_OPENS_S - loop.time())
        server = await asyncio.start_server(accept, HOST, port, backlog=4096)
        with self.count:
            self.record.write_head(replace(head, state="up", step="0", launch="0"))
        while loop.time() < ends_s(len(self.hosts) - 1):
            with self.count:
                began = time.process_time()
                words = self.record.read_nodes()
                self.passes.append(time.process_time() - began)
            joined = sum(word.phase == NodePhase.JOINED.value for word in words.values())
            if self.joined_at is None and joined == len(self.hosts) - 1:
                self.joined_at = loop.time()
            await asyncio.sleep(0.5 + len(self.hosts) / 1000)
        with self.count:
            self.record.write_end(EndReport(time.time(), 0, "driver", "", "the driver ended with code 0"))
        server.close()
        end.set()


@dataclass(frozen=True)
class Result:
    """What a simulation counted."""

    workers: int
    happened: Mapping[tuple[str, int], int]
    found: list[float]
    """Seconds after the head's port opened at which each worker found it, in order."""
    connects: int
    """The most within a tenth of a second."""
    joined_at: float | None
    passes: list[float]
    cpu_s: float
    """Of all workers and the head."""
    first_reading_s: float
    next_reading_s: float
    """CPU seconds of `raycluster status` for all words, and again when none has changed."""

    def total(self, what: str) -> int:
        return sum(times for (one, _), times in self.happened.items() if one == what)

    def most(self, what: str) -> int:
        """In one second."""
        return max((times for (one, _), times in self.happened.items() if one == what), default=0)


def simulate(workers: int, place: Path) -> Result:
    """A job of so many workers, with its record below ``place``."""
    hosts = [f"node{number:04d}" for number in range(workers + 1)]
    state_dir = place / "state"
    loop = SkippingLoop()
    count = Count(loop, str(state_dir))
    sys.addaudithook(count.hear)

    async def counted_probe(host: str, port: int, *, timeout_s: float) -> Probe:
        count.add("probe")
        return await tcp_probe(host, port, timeout_s=timeout_s)

    with count:
        record = Record.create(state_dir, "scale", "1")
    given = contexts(state_dir, hosts)
    head = Head(record, hosts, count)

    async def everyone() -> list[float]:
        end = asyncio.Event()
        the_head = asyncio.ensure_future(head.life(end))
        found = await asyncio.gather(*(SimulatedWorker(one, counted_probe).life(end) for one in given))
        await the_head
        return sorted(when - PORT_OPENS_S for when in found)

    began = time.process_time()
    try:
        found = loop.run_until_complete(everyone())
    finally:
        loop.close()
        count.counting = False
    cpu_s = time.process_time() - began
    fresh = Record.open(record.path)
    tenths = Counter(int(when * 10) for when in head.accepted)
    return Result(
        workers=workers,
        happened=count.happened,
        found=found,
        connects=max(tenths.values(), default=0),
        joined_at=head.joined_at,
        passes=head.passes,
        cpu_s=cpu_s,
        first_reading_s=_cpu_of(fresh.read_nodes),
        next_reading_s=_cpu_of(fresh.read_nodes),
    )


def _cpu_of(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


_NAMES = {
    "open": "files opened to read",
    "create": "files made (beside the old one, then renamed over it)",
    "mkdir": "directories made",
    "list": "directories listed",
    "probe": "probes of the head's port",
}


def table(result: Result) -> str:
    """As markdown."""
    lines = [
        f"| all {result.workers} workers together | in all | per worker | most in one second |",
        "|---|---|---|---|",
    ]
    for what, name in _NAMES.items():
        total = result.total(what)
        lines.append(f"| {name} | {total} | {total / result.workers:.1f} | {result.most(what)} |")
    found, workers = result.found, result.workers
    joined = f"{result.joined_at:.1f} s" if result.joined_at else "not within the time"
    lines += [
        "",
        f"- The head's port opened at {PORT_OPENS_S:g} s; the first worker found it {found[0]:.2f} s later, "
        f"half of them {found[len(found) // 2]:.2f} s, the last {found[-1]:.2f} s; at most "
        f"{result.connects} connects in a tenth of a second. All words said `joined` at {joined}.",
        f"- CPU of the control path from start to end: {1000 * result.cpu_s / workers:.1f} ms per worker.",
        f"- The head's reading of all words: {max(result.passes) * 1000:.0f} ms of CPU at most, "
        f"{min(result.passes) * 1000:.1f} ms when none had changed.",
        f"- `raycluster status`, reading all words for the first time: {1000 * result.first_reading_s:.0f} "
        f"ms; again, unchanged: {1000 * result.next_reading_s:.1f} ms.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory(prefix="raycluster-scale-") as place:
        print(table(simulate(options.workers, Path(place))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
