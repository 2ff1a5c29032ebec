"""Ray Serve answers requests; its replicas are on all nodes."""

import json
import socket
import urllib.request

import ray
from ray import serve


@serve.deployment(num_replicas=3, ray_actor_options={"num_cpus": 9})
class Where:
    """Says on which host it is; two do not fit on one node."""

    def __call__(self, request: object) -> dict[str, str]:
        return {"host": socket.gethostname()}


ray.init()
serve.run(Where.bind())
hosts = set()
for _ in range(200):
    with urllib.request.urlopen("http://127.0.0.1:8000/", timeout=10) as answer:
        hosts.add(json.load(answer)["host"])
    if len(hosts) == 3:
        break
serve.shutdown()
print("LIBRARY serve", ray.__version__, "NODES", len(hosts))
