"""A driver: names the nodes of its cluster, runs a task on each (--tasks), ends with the code it is given."""

import socket
import sys
import time

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On


@ray.remote(num_cpus=0)
def where() -> str:
    return socket.gethostname()


ray.init(logging_level="ERROR")
alive = [node for node in ray.nodes() if node["Alive"]]
print("NODES", *sorted(node["NodeName"] for node in alive), flush=True)
if "--tasks" in sys.argv:
    tasks = [where.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote() for node in alive]
    print("TASKS", *sorted(ray.get(tasks)), flush=True)
if "--sleep" in sys.argv:
    time.sleep(float(sys.argv[sys.argv.index("--sleep") + 1]))
sys.exit(int(sys.argv[1]))
