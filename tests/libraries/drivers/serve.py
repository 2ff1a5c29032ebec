"""Ray Serve answers requests; its replicas are on all nodes."""

import json
import os
import socket
import urllib.request

import ray
from ray import serve

ray.init()
cpus = min(node["Resources"].get("CPU", 0) for node in ray.nodes())


@serve.deployment(num_replicas=3, ray_actor_options={"num_cpus": cpus // 2 + 1})
class Where:
    """Says on which host it is; two do not fit on one node."""

    def __call__(self, request: object) -> dict[str, str]:
        return {"host": socket.gethostname()}


serve.run(Where.bind())
hosts = set()
for _ in range(200):
    url = f"http://127.0.0.1:{os.environ['RAYCLUSTER_SERVE_HTTP_PORT']}/"
    with urllib.request.urlopen(url, timeout=10) as answer:
        hosts.add(json.load(answer)["host"])
    if len(hosts) == 3:
        break
serve.shutdown()
print("LIBRARY serve", ray.__version__, "NODES", len(hosts))
