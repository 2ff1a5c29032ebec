"""A thousand workers' control path against real files and a stand-in for Ray.

    python -m benchmarks.scale [--workers 1000] [--processes 4]

Every worker runs raycluster's own code as far as it does not touch Ray: it opens the job's record, writes its
words, looks for the head in the record and knocks at its port with the back-off that real workers have, waits
for the end and writes its last word.  The head is a stand-in that says in the record that it is starting,
opens its port some seconds later, and reads all words as a head does.  Counted: operations on files by each
second, connects that reach the head's port, CPU time.  Everything runs on this machine: the times are those
of its file system, the counts are those of any.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycluster_cli.config import Settings
from raycluster_cli.lifecycle import Context
from raycluster_cli.record import EndWord, HeadInfo, Record
from raycluster_cli.slurm import Allocation, format_hostlist
from raycluster_cli.status import NodePhase, Role
from raycluster_cli.worker import Target, WorkerRun

HOST = "127.0.0.1"

#: Seconds after the first worker at which the head writes that it starts, opens its port, and ends.
HEAD_STARTS_S, PORT_OPENS_S, ENDS_S = 0.5, 10.0, 18.0

#: srun starts the tasks of a step within this time (a thousand workers need some of this machine's, too);
#: Ray's start on a node takes about that.
LAUNCH_S, RAY_S = 2.0, 0.5

#: What Python's audit events call the operations on files that reach a file server.
_OPERATIONS = {
    "open": "open",
    "os.rename": "rename",
    "os.mkdir": "mkdir",
    "os.scandir": "list",
    "os.listdir": "list",
}


@dataclass
class Count:
    """How often things happened, by (what, second)."""

    origin: float
    below: str
    """Only operations on files below this directory count."""
    happened: Counter[tuple[str, int]] = field(default_factory=Counter)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A hook for sys.addaudithook."""
        what = _OPERATIONS.get(event)
        if what and arguments and str(arguments[0]).startswith(self.below):
            if what == "open" and len(arguments) > 2 and int(arguments[2] or 0) & (os.O_WRONLY | os.O_CREAT):
                what = "create"
            self.add(what)

    def add(self, what: str) -> None:
        self.happened[what, int(time.time() - self.origin)] += 1


class SimulatedWorker(WorkerRun):
    """A worker without Ray and without a node of its own."""

    def _get_ready_for(self, target: Target) -> None:
        """A real worker measures its node and takes ports here: nothing that others notice."""

    async def life(self, end: asyncio.Event) -> float:
        """From launch to the last word; Unix seconds at which the head was found."""
        loop = asyncio.get_running_loop()
        from raycluster_cli.lifecycle import Word

        self.word = Word(None, self._first_word(), rest_s=self._word_rest_s())
        await self._open_record()
        self.word.phase(NodePhase.LAUNCHED)
        self._began = loop.time()
        self._deadline = self._began + 300
        self.word.phase(NodePhase.WAITING)
        target = await self._find_head(self._deadline)
        found = time.time()
        self.word.phase(NodePhase.FOUND, f"head at {target.address}")
        self.word.phase(NodePhase.STARTING)
        await asyncio.sleep(RAY_S * random.uniform(0.5, 1.5))
        self.word.phase(NodePhase.JOINED)
        await end.wait()
        ended = await self._reason(3.0)
        self.word.phase(NodePhase.STOPPING, ended.message if ended else "")
        self.word.phase(NodePhase.GONE, exit_code=0)
        await self.word.close()
        return found


def _context(state_dir: Path, hosts: list[str], number: int) -> Context:
    env = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NODELIST": format_hostlist(hosts),
        "SLURM_JOB_NUM_NODES": str(len(hosts)),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": format_hostlist(hosts),
        "SLURM_STEP_NUM_NODES": str(len(hosts)),
        "SLURM_STEP_NUM_TASKS": str(len(hosts)),
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{len(hosts)})",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(number),
        "SLURMD_NODENAME": hosts[number],
        "SLURM_CLUSTER_NAME": "scale",
    }
    allocation = Allocation.from_environ(env)
    assert allocation is not None
    return Context(
        settings=Settings(state_dir=str(state_dir)),
        env=env,
        allocation=allocation,
        role=Role.WORKER,
        key="1",
        slurm_cluster="scale",
        host=hosts[number],
        state_dir=state_dir,
        symmetric=True,
    )


def run_workers(
    state_dir: Path, hosts: list[str], numbers: range, everybody: Any, begin: Any, out: Path
) -> None:
    """A process with a share of the workers; writes what it counted to ``out``.

    ``everybody`` is a barrier, ``begin`` the Unix seconds that hold once all are there.
    """
    everybody.wait()
    everybody.wait()
    origin: float = begin.value
    count = Count(origin, str(state_dir))
    contexts = [_context(state_dir, hosts, number) for number in numbers]
    worker_module: Any = importlib.import_module("raycluster_cli.worker")
    probe = worker_module.tcp_probe

    async def counted_probe(*args: Any, **kwargs: Any) -> Any:
        count.add("knock")
        return await probe(*args, **kwargs)

    worker_module.tcp_probe = counted_probe
    sys.addaudithook(count.hear)
    before = time.process_time()

    async def everyone() -> list[float]:
        end = asyncio.Event()
        asyncio.get_running_loop().call_later(max(origin + ENDS_S - time.time(), 0), end.set)

        async def one(context: Context) -> float:
            await asyncio.sleep(max(origin - time.time(), 0) + random.uniform(0, LAUNCH_S))
            return await SimulatedWorker(context).life(end)

        return list(await asyncio.gather(*(one(context) for context in contexts)))

    found = asyncio.run(everyone())
    result = {
        "cpu_s": time.process_time() - before,
        "found": [when - origin for when in found],
        "happened": [[what, second, times] for (what, second), times in count.happened.items()],
    }
    out.write_text(json.dumps(result))


async def stand_in_head(record: Record, hosts: list[str], origin: float) -> dict[str, Any]:
    """The head's part: words into the record, a port that opens late, all words read twice a second."""
    accepted: list[float] = []
    passes: list[float] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(time.time() - origin)
        writer.close()

    await asyncio.sleep(max(origin + HEAD_STARTS_S - time.time(), 0))
    server = await asyncio.start_server(accept, HOST, 0, start_serving=False, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    server.close()
    head = HeadInfo(host=hosts[0], address_ip=HOST, port=port, identity="x" * 32, auth=False)
    record.claim_head(host=hosts[0])
    record.write_head(_with_state(head, "starting"))
    await asyncio.sleep(max(origin + PORT_OPENS_S - time.time(), 0))
    server = await asyncio.start_server(accept, HOST, port, backlog=4096)
    record.write_head(_with_state(head, "up"))
    joined_at = None
    while time.time() < origin + ENDS_S - 0.2:
        began = time.process_time()
        words = record.read_nodes()
        passes.append(time.process_time() - began)
        joined = sum(word.phase == NodePhase.JOINED.value for word in words.values())
        if joined_at is None and joined >= len(hosts) - 1:
            joined_at = time.time() - origin
        await asyncio.sleep(0.5)
    record.write_end(EndWord(time.time(), 0, "driver", "", "the driver ended with code 0"))
    server.close()
    return {"accepted": accepted, "passes": passes, "joined_at": joined_at}


def _with_state(head: HeadInfo, state: str) -> HeadInfo:
    from dataclasses import replace

    return replace(head, extra={"state": state, "step": "0"})


def simulate(workers: int, processes: int) -> str:
    """Run it and show what was counted, as markdown."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    hosts = [f"node{number:04d}" for number in range(workers + 1)]
    with tempfile.TemporaryDirectory(prefix="raycluster-scale-") as place:
        state_dir = Path(place) / "state"
        record = Record.create(state_dir, "scale", "1")
        make = multiprocessing.get_context("spawn")
        everybody, begin = make.Barrier(processes + 1), make.Value("d", 0.0)
        share = -(-workers // processes)
        outs, running = [], []
        for start in range(1, workers + 1, share):
            out = Path(place) / f"out{start}"
            numbers = range(start, min(start + share, workers + 1))
            process = make.Process(
                target=run_workers, args=(state_dir, hosts, numbers, everybody, begin, out)
            )
            process.start()
            outs.append(out)
            running.append(process)
        everybody.wait()
        origin = begin.value = time.time() + 1.0
        everybody.wait()
        head = asyncio.run(stand_in_head(record, hosts, origin))
        for process in running:
            process.join()
        results = [json.loads(out.read_text()) for out in outs]
        reading = _reading(record)
    return _table(workers, head, results, reading)


def _reading(record: Record) -> tuple[float, float]:
    """CPU seconds for all words: by somebody who has not read them yet, and by somebody who has."""
    fresh = Record.open(record.path)
    began = time.process_time()
    fresh.read_nodes()
    between = time.process_time()
    fresh.read_nodes()
    return between - began, time.process_time() - between


def _table(
    workers: int, head: Mapping[str, Any], results: list[dict[str, Any]], reading: tuple[float, float]
) -> str:
    happened: Counter[tuple[str, int]] = Counter()
    for result in results:
        for what, second, times in result["happened"]:
            happened[what, second] += times
    after = sorted(when - PORT_OPENS_S for result in results for when in result["found"])
    cpu_ms = sum(result["cpu_s"] for result in results) / workers * 1000
    lines = ["| all workers together | in all | per worker | most in one second |", "|---|---|---|---|"]
    names = {
        "open": "files opened to read",
        "create": "files made",
        "rename": "files renamed into place",
        "mkdir": "directories made (or found there)",
        "list": "directories listed",
        "knock": "knocks at the head's port",
    }
    for what, name in names.items():
        times = [n for (one, _), n in happened.items() if one == what]
        lines.append(f"| {name} | {sum(times)} | {sum(times) / workers:.1f} | {max(times, default=0)} |")
    per_tenth = Counter(int(when * 10) for when in head["accepted"])
    joined = f"{head['joined_at']:.1f} s" if head["joined_at"] else "not within the time"
    lines += [
        "",
        f"- The head's port opened at {PORT_OPENS_S:g} s; the first worker found it {after[0]:.2f} s later, "
        f"half of them {after[len(after) // 2]:.2f} s, the last {after[-1]:.2f} s; at most "
        f"{max(per_tenth.values(), default=0)} connects in a tenth of a second. All words said `joined` at "
        f"{joined}.",
        f"- CPU of a worker's control path, start to end: {cpu_ms:.1f} ms.",
        f"- The head's reading of all words: {max(head['passes']) * 1000:.0f} ms of CPU at most, "
        f"{min(head['passes']) * 1000:.1f} ms at least, twice a second until all have joined.",
        f"- `raycluster status`, reading {workers + 1} words for the first time: {reading[0] * 1000:.0f} ms; "
        f"again, unchanged: {reading[1] * 1000:.1f} ms.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    print(simulate(options.workers, options.processes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
