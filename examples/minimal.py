"""Says on how many nodes its tasks ran.  raycluster run --local 2 -- python examples/minimal.py"""

import ray


@ray.remote(scheduling_strategy="SPREAD")
def where() -> str:
    return str(ray.get_runtime_context().get_node_id())


ray.init()  # RAY_ADDRESS, set by raycluster, names the cluster
print(f"tasks ran on {len(set(ray.get([where.remote() for _ in range(20)])))} nodes")
