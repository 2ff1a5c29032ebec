"""A driver that takes all it was told of: fills the object store, then allocates what Ray calls memory.

Prints TOLD cpus, gpus, memory and object store in MiB, then FILLED, TASK and DRIVER; ends with 0.
"""

import time

import ray

MIB = 2**20
PIECE_BYTES = 64 * MIB


@ray.remote(max_retries=0)
def take(size: int) -> int:
    block = b"\1" * size
    time.sleep(1)
    return len(block)


ray.init(logging_level="ERROR")
told = ray.cluster_resources()
memory, store = int(told["memory"]), int(told["object_store_memory"])
print("TOLD", int(told["CPU"]), int(told.get("GPU", 0)), memory // MIB, store // MIB, flush=True)
# More than fits: Ray spills what is too much, by worker processes that need memory too.
kept = [ray.put(b"\1" * PIECE_BYTES) for _ in range(store // PIECE_BYTES + 2)]
print("FILLED", len(kept) * PIECE_BYTES // MIB, flush=True)
print("TASK", ray.get(take.options(memory=memory).remote(memory)) // MIB, flush=True)
block = b"\1" * memory
print("DRIVER", len(block) // MIB, flush=True)
