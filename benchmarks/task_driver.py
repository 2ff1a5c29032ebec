"""A driver that runs a task on every node: stamps its first line and the moment of the last result.

    python task_driver.py DIRECTORY NODES

Stamps are files in DIRECTORY with Unix seconds, written whole.
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


def run_tasks(count: int) -> None:
    """A task on each of so many nodes."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    ray.init("auto", log_to_driver=False)
    while len(nodes := [node["NodeID"] for node in ray.nodes() if node["Alive"]]) < count:
        time.sleep(0.02)
    task = ray.remote(num_cpus=1)(lambda: os.uname().nodename)
    results = [task.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes]
    assert len(set(ray.get(results))) == count
    stamp("tasks")


if __name__ == "__main__":
    stamp("first")
    print("driver: first line", flush=True)
    run_tasks(int(sys.argv[2]))
    stamp("last")
