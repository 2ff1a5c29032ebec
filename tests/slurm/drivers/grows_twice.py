"""Asks for three CPUs until a file is there, waits until one node is left, then asks for two."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ray

GO = Path(sys.argv[1])


@ray.remote(num_cpus=1)
def wait() -> str:
    while not GO.exists():
        time.sleep(0.1)
    return str(ray.get_runtime_context().get_node_id())


def nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


ray.init(address="auto", log_to_driver=False)
first = [wait.remote() for _ in range(3)]
print("FIRST", len(set(ray.get(first))), flush=True)
deadline = time.monotonic() + 100
while nodes() > 1 and time.monotonic() < deadline:
    time.sleep(0.2)
print("SHRUNK", nodes(), flush=True)
GO.unlink()
second = [wait.remote() for _ in range(2)]
print("ASKED", flush=True)
print("SECOND", len(set(ray.get(second))), flush=True)
