"""Ray Serve with a proxy on every node: asks each node's proxy there, by HTTP and by gRPC.

    python serve_ports.py NAME OTHER DIRECTORY [HTTP_PORT]

NAME is what the application answers.  OTHER is the name of a cluster that runs at the same time on the same
nodes; DIRECTORY is where the two tell each other that they serve.  Without HTTP_PORT no port is given.
"""

import os
import pathlib
import sys
import time
import urllib.request

import ray
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

name, other, directory = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
port = int(sys.argv[4]) if len(sys.argv) > 4 else None
servicer = "ray.serve.generated.serve_pb2_grpc.add_UserDefinedServiceServicer_to_server"

ray.init()
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
cpus = min(node["Resources"].get("CPU", 0) for node in ray.nodes())


@serve.deployment(num_replicas=len(nodes), ray_actor_options={"num_cpus": cpus // 2 + 1})
class Answer:
    """One on each node, so that Serve starts a proxy there."""

    def __call__(self, request: object) -> str:
        return name


@ray.remote(num_cpus=0)
def ask(port: "int | None", times: int) -> "tuple[int, set[str], str]":
    """The port of the proxy on this node, its answers, and the applications that it names by gRPC."""
    import grpc
    from ray.serve.generated import serve_pb2, serve_pb2_grpc

    port = port or int(os.environ["RAYCLUSTER_SERVE_HTTP_PORT"])
    answers = set()
    deadline = time.monotonic() + 60
    while len(answers) < 1 or times > 0:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                answers.add(answer.read().decode())
            times -= 1
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    with grpc.insecure_channel(f"127.0.0.1:{os.environ['RAYCLUSTER_SERVE_GRPC_PORT']}") as channel:
        found = serve_pb2_grpc.RayServeAPIServiceStub(channel).ListApplications(
            serve_pb2.ListApplicationsRequest(), timeout=30
        )
    return port, answers, ",".join(found.application_names)


http = {"port": port} if port else {}
serve.start(http_options=http, grpc_options={"grpc_servicer_functions": [servicer]})
serve.run(Answer.bind(), name=f"app-{name}")
(directory / name).touch()
deadline = time.monotonic() + 150
while not (directory / other).exists():
    if time.monotonic() > deadline:
        sys.exit(f"the other cluster, {other}, does not serve")
    time.sleep(0.2)
asked = [
    ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(port, 50)
    for node in nodes
]
found = ray.get(asked)
assert all(answers == {name} and apps == f"app-{name}" for _, answers, apps in found), found
ports = sorted(port for port, _, _ in found)
print("PORTS", *ports, flush=True)
(directory / f"{name}.done").touch()
while not (directory / f"{other}.done").exists():
    if time.monotonic() > deadline + 60:
        sys.exit(f"the other cluster, {other}, did not get its answers")
    time.sleep(0.2)
serve.shutdown()
print("LIBRARY serve", ray.__version__, "NODES", len(found))
