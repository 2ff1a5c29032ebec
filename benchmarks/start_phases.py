"""Where the time of one node's start goes, for each way to start it.

    python -m benchmarks.start_phases [--rounds 5]

Ways, in turns:

* ``companion``  what raycluster does: import Ray in a companion, Node in a fork of it
* ``ray-start``  the fallback: the same companion calls `ray start` with the same plan
* ``exec``       gcs_server and raylet executed with the argument lists of the first way, no Ray imported;
                 not a way that raycluster has: it shows the floor

Prints medians in seconds from the spawn of the first process, and CPU seconds of all processes at the
moment at which the raylet is registered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from raycluster_cli.model.status import Role
from raycluster_cli.rayproc.companion_client import CompanionClient
from raycluster_cli.rayproc.plan import NodePlan
from raycluster_cli.system.ports import claim_ports
from raycluster_cli.system.process import Reaper, end_tree
from raycluster_cli.system.proctree import all_stats, become_subreaper, descendants

ADDRESS = "127.83.0.1"
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s() -> float:
    """CPU seconds of all that was started: the dead and reaped, and what lives."""
    times = os.times()
    total = times.children_user + times.children_system
    for stat in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{stat.pid}/stat").read_text().rpartition(") ")[2].split()
            total += sum(int(field) for field in fields[11:15]) / TICKS
    return total


class Bench:
    """One head at a time, started and ended."""

    def __init__(self, base: Path, reaper: Reaper, env: Mapping[str, str]) -> None:
        self.base = base
        self.reaper = reaper
        self.env = dict(env)
        self.argv: dict[str, list[str]] = {}
        self.rows: dict[str, list[dict[str, float]]] = {}
        self._asker = subprocess.Popen(
            [sys.executable, "-c", ASK],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._asker.stdout.readline()  # type: ignore[union-attr]

    async def measure(self, way: str, number: int) -> None:
        directory = self.base / f"{way}{number}"
        directory.mkdir()
        claim = claim_ports(f"bench{os.getpid()}", address=ADDRESS, head=True, worker_ports=100)
        plan = NodePlan(
            role=Role.HEAD,
            node_ip=ADDRESS,
            gcs_address=f"{ADDRESS}:{claim.ports.gcs}",
            ports=claim.ports.as_dict(),
            temp_dir=str(directory),
            num_cpus=1,
            memory_bytes=500_000_000,
            object_store_bytes=80_000_000,
            quick="ray-start" if way == "ray-start" else "node",
        )
        await asyncio.sleep(0.2)  # what the last one started is reaped, and counted, by now
        cpu, began = cpu_s(), time.time()
        row = await (self._execute(plan) if way == "exec" else self._start(plan))
        row = {name: when - began for name, when in row.items()}
        row["CPU"] = cpu_s() - cpu
        self.rows.setdefault(way, []).append(row)
        await end_tree(os.getpid(), skip=[self._asker.pid], grace_s=0)
        claim.close()
        shutil.rmtree(directory)

    def _ask_cluster_id(self, address: str) -> str:
        assert self._asker.stdin is not None and self._asker.stdout is not None
        self._asker.stdin.write(f"{address}\n")
        self._asker.stdin.flush()
        return self._asker.stdout.readline().strip()

    async def _start(self, plan: NodePlan) -> dict[str, float]:
        with (self.base / "companion.log").open("ab") as log:
            client = CompanionClient.spawn(self.reaper.spawn, self.env, stderr=log)
        await client.ready(60)
        ready = time.time()
        started = await client.start(plan, 120)
        if started.how == "node" and not self.argv:
            for name, pid in started.processes.items():
                self.argv[name] = [part.replace(plan.temp_dir, "@DIR@") for part in _command_line(pid)]
            self.session = started.session
        return {"Ray imported": ready, **started.phases, "known to the supervisor": time.time()}

    async def _execute(self, plan: NodePlan) -> dict[str, float]:
        for part in ("logs/old", "sockets", "runtime_resources"):
            (Path(plan.temp_dir) / self.session / part).mkdir(parents=True)
        env = self.env | {"RAY_raylet_client_connect_timeout_milliseconds": "50"}
        row: dict[str, float] = {}
        cluster_id = ""
        for name in ("gcs_server", "raylet"):
            argv = [part.replace("@DIR@", plan.temp_dir) for part in self.argv[name]]
            argv = [
                f"--cluster-id={cluster_id}" if part.startswith("--cluster-id=") else part for part in argv
            ]
            self.reaper.spawn(argv, name, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            row[f"{name} spawned"] = time.time()
            if name == "gcs_server":
                await _listening(plan.gcs_address)
                row["gcs listening"] = time.time()
                cluster_id = self._ask_cluster_id(plan.gcs_address)
        log = Path(plan.temp_dir) / self.session / "logs" / "raylet.out"
        node_id = next(part for part in self.argv["raylet"] if part.startswith("--node_id=")).partition("=")[
            2
        ]
        pattern = re.compile(f"IsAlive = 1 node_id={node_id}")
        deadline = time.time() + 20
        while not (log.exists() and pattern.search(log.read_text(errors="replace"))):
            if time.time() > deadline:
                return row
            await asyncio.sleep(0.002)
        row["registered"] = time.time()
        return row


def _command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


# The raylet must be told the cluster's id, which the GCS makes up: asked by a Python that is warm.
ASK = """
import sys
from ray._raylet import GcsClient
print(flush=True)
for address in sys.stdin:
    print(GcsClient(address=address.strip()).cluster_id.hex(), flush=True)
"""


async def _listening(address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.002)
        else:
            writer.close()
            return


def table(rows: Mapping[str, list[dict[str, float]]]) -> str:
    """Medians, a row a phase and a column a way."""
    names = list(
        dict.fromkeys(name for each in rows.values() for row in each for name in row if name != "CPU")
    )
    lines = ["| seconds after the first spawn | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for name in [*names, "CPU"]:
        cells = [[row[name] for row in each if name in row] for each in rows.values()]
        texts = [f"{statistics.median(cell):.2f}" if cell else "" for cell in cells]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


async def main(rounds: int) -> None:
    become_subreaper()
    reaper = Reaper()
    reaper.attach(asyncio.get_running_loop())
    base = Path(tempfile.mkdtemp(prefix="rcb", dir="/tmp"))
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    bench = Bench(base, reaper, env)
    try:
        for number in range(rounds + 1):
            for way in ("companion", "exec", "ray-start"):
                await bench.measure(way, number)
            if number == 0:
                bench.rows.clear()  # the first round warms the page cache
        running = sum(1 for stat in all_stats() if stat.state == "R")
        print(
            f"{rounds} rounds, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {running} running now\n"
        )
        print(table(bench.rows))
    finally:
        await end_tree(os.getpid(), grace_s=0)
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args().rounds))
