"""A driver beside other clusters: looks at its own whenever it is told to, until it is told to end.

Arguments: its name, a directory that all see.  There, for each file `look-N` that appears, it writes
`saw-N-NAME`: the nodes on which a task ran, and every named actor of the cluster.  It ends
with the code in `end-NAME`.
"""

import sys
import time
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

name, place = sys.argv[1], Path(sys.argv[2])


@ray.remote(num_cpus=0)
class Flag:
    def name(self) -> str:
        return name


@ray.remote(num_cpus=0)
def here() -> str:
    return str(ray.get_runtime_context().get_node_id())


def look() -> str:
    """What this cluster holds: names of its nodes, each proved by a task there, and its actors."""
    alive = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
    tasks = [here.options(scheduling_strategy=On(node, soft=False)).remote() for node in alive]
    nodes = sorted(alive[node] for node in ray.get(tasks, timeout=120))
    actors = sorted(each["name"] for each in ray.util.list_named_actors(all_namespaces=True))
    assert ray.get(flag.name.remote()) == name
    return f"nodes {' '.join(nodes)} actors {' '.join(actors)}"


ray.init(logging_level="ERROR", namespace="crowd")
flag = Flag.options(name=name, lifetime="detached").remote()
seen: set[str] = set()
while not (place / f"end-{name}").exists():
    for order in sorted(path.name for path in place.glob("look-*")):
        if order not in seen:
            seen.add(order)
            beside = place / f".{order}-{name}"
            beside.write_text(look())
            beside.rename(place / f"saw-{order.removeprefix('look-')}-{name}")
    time.sleep(0.1)
sys.exit(int((place / f"end-{name}").read_text()))
