"""A driver of the shape that many frameworks have: each process gets a copy of the driver's environment."""

from __future__ import annotations

import os
import socket
import tempfile

import ray


@ray.remote(num_cpus=0)
class Member:
    """One on each node."""

    def where(self) -> tuple[str, str, str]:
        """Host, TMPDIR as this node has it, address as vLLM would take it."""
        with tempfile.NamedTemporaryFile() as file:
            return socket.gethostname(), os.path.realpath(file.name), os.environ["VLLM_HOST_IP"]


ray.init(runtime_env={"env_vars": dict(os.environ)})
nodes = sorted((node["NodeName"], node["NodeID"]) for node in ray.nodes())
members = []
for _, node_id in nodes:
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
    members.append(Member.options(scheduling_strategy=place).remote())
found = ray.get([member.where.remote() for member in members], timeout=90)
print("COPIED", *(host for host, _, _ in found))
print("TEMPORARY", *(os.path.dirname(path) for _, path, _ in found))
print("SOCKETS", *{node["RayletSocketName"] for node in ray.nodes()})
print("ADDRESSES", *(address for _, _, address in found))
