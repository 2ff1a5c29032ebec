"""The benchmark's driver: stamps its first line, may wait for the cluster's nodes, stamps its last.

    python driver.py DIRECTORY SECONDS [NODES]

With NODES it imports Ray, connects and waits until that many nodes are alive.  Stamps are files in DIRECTORY
with Unix seconds, written whole.
"""

from __future__ import annotations

import os
import sys
import time


def stamp(name: str) -> None:
    """Write the time now."""
    path = os.path.join(sys.argv[1], name)
    with open(f"{path}.part", "w", encoding="ascii") as file:
        file.write(f"{time.time():.6f}")
    os.rename(f"{path}.part", path)


def wait_for_nodes(count: int) -> None:
    """Connect and wait until ``count`` nodes are alive."""
    import ray

    recipe = os.environ.get("ip_head")  # noqa: SIM112 - as the guide's script names it
    ray.init(os.environ.get("RAY_ADDRESS") or recipe or "auto", log_to_driver=False)
    stamp("connected")
    while sum(node["Alive"] for node in ray.nodes()) < count:
        time.sleep(0.02)
    stamp("nodes")


if __name__ == "__main__":
    stamp("first")
    print("driver: first line", flush=True)
    if len(sys.argv) > 3:
        wait_for_nodes(int(sys.argv[3]))
    time.sleep(float(sys.argv[2]))
    stamp("last")
