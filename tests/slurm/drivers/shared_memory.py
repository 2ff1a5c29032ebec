"""Actors on all nodes with memory in /dev/shm, each killed by Ray in another way, so that none removes it."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@ray.remote(num_cpus=0)
class Holder:
    """Has a segment."""

    def __init__(self) -> None:
        self.memory = SharedMemory(create=True, size=4096)

    def name(self) -> str:
        """The name of its file."""
        return self.memory.name

    def close(self) -> None:
        """Without unlink()."""
        self.memory.close()


ray.init()
places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()]
held, killed, closed = (
    [Holder.options(scheduling_strategy=place).remote() for place in places] for _ in range(3)
)
names = ray.get([holder.name.remote() for holder in (*held, *killed, *closed)], timeout=90)
ray.get([holder.close.remote() for holder in closed])
for holder in killed:
    ray.kill(holder)
print("SEGMENTS", len(set(names)), flush=True)
