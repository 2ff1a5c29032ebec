"""A greeting from every node.  Try it: raycluster run --local 2 -- python examples/minimal.py"""

import socket

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On


@ray.remote
def greeting(name: str) -> str:
    return f"{name}: hello from {socket.gethostname()}"


ray.init()  # RAY_ADDRESS, set by raycluster, names the cluster
nodes = [node for node in ray.nodes() if node["Alive"]]
spread = [greeting.options(scheduling_strategy=On(node["NodeID"], soft=False)) for node in nodes]
for task, node in zip(spread, nodes, strict=True):
    print(ray.get(task.remote(node["NodeName"])))
