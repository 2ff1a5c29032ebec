"""A driver that prints EXECUTABLE with a name and sys.executable, for itself and for each node."""

from __future__ import annotations

import os
import sys

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ray.init()


@ray.remote(num_cpus=1)
def executable() -> tuple[str, str]:
    return sys.executable, os.environ.get("VIRTUAL_ENV", "")


print("EXECUTABLE driver", sys.executable, ray.__file__)
for node in ray.nodes():
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    found = ray.get(executable.options(scheduling_strategy=strategy).remote())
    print("EXECUTABLE", node["NodeName"], *found)
