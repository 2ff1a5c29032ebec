"""The smallest driver: says on which nodes its tasks ran.  `raycluster run --local 2 -- python examples/minimal.py`"""

import ray

ray.init()  # RAY_ADDRESS, set by raycluster, names the cluster


@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
def node() -> str:
    return ray.get_runtime_context().get_node_id()


print(f"tasks ran on {len(set(ray.get([node.remote() for _ in range(100)])))} nodes")
