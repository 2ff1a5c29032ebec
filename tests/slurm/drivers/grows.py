"""Waits until the cluster has so many nodes (its argument), runs a task on each, prints what it found."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray
from ray._private.worker import global_worker
from ray.core.generated import autoscaler_pb2

WANTED = int(sys.argv[1])
KEEPS_RUNNING_S = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0


def alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


@ray.remote(num_cpus=1)
def where() -> str:
    return str(ray.get_runtime_context().get_node_id())


def answers(node: dict[str, Any]) -> bool:
    """A task runs on this node; False when the node has left meanwhile."""
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    try:
        return bool(ray.get(where.options(scheduling_strategy=place).remote(), timeout=60) == node["NodeID"])
    except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
        return False


ray.init(address="auto", log_to_driver=False)
deadline = time.monotonic() + 100
while len(nodes := alive()) < WANTED or not all(map(answers, nodes)):
    if time.monotonic() > deadline:
        sys.exit(f"{len(nodes)} of {WANTED} nodes")
    time.sleep(0.1)
for node in nodes:
    labels = {
        key: text for key, text in node["Labels"].items() if key.startswith(("slurm/", "ray.io/node-g"))
    }
    print("NODE", node["NodeName"], json.dumps(labels, sort_keys=True), flush=True)
state = autoscaler_pb2.GetClusterResourceStateReply()
state.ParseFromString(global_worker.gcs_client.get_cluster_resource_state())
for node in state.cluster_resource_state.node_states:
    print("INSTANCE", node.instance_id or "-", node.ray_node_type_name or "-", flush=True)
print("ALL", WANTED, flush=True)
time.sleep(KEEPS_RUNNING_S)
