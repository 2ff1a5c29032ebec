"""Ray Serve answers requests on every node; its replicas are on all of them."""

import json
import os
import socket
import time
import urllib.request

import ray
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ray.init()
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
cpus = min(node["Resources"].get("CPU", 0) for node in ray.nodes())


@serve.deployment(num_replicas=3, ray_actor_options={"num_cpus": cpus // 2 + 1})
class Where:
    """Says on which host it is; two do not fit on one node."""

    def __call__(self, request: object) -> dict[str, str]:
        return {"host": socket.gethostname()}


@ray.remote(num_cpus=0)
def ask() -> str:
    """The host that answers on this node: Serve prefers a replica on the proxy's own node."""
    deadline = time.monotonic() + 60
    while True:
        try:
            url = f"http://127.0.0.1:{os.environ['RAYCLUSTER_SERVE_HTTP_PORT']}/"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(json.load(answer)["host"])
        except OSError:  # this node's proxy starts after the first replica is there
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


serve.run(Where.bind())
on = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
hosts = set(ray.get([ask.options(scheduling_strategy=node).remote() for node in on]))
serve.shutdown()
print("LIBRARY serve", ray.__version__, "NODES", len(hosts))
