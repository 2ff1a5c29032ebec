"""Does what its arguments say, one after the other, on a cluster that grows; prints what it found.

tasks=N:SECONDS     N tasks of one CPU that run at once, so long: TASKS and the nodes on which they ran
gang=N              a placement group of N bundles on N nodes: GANG and the nodes
on=LABEL:VALUE      a task on a node with this label: ON and the node
need=RESOURCE       a task that needs one of this custom resource: NEED and the node
bursts=N:TASKS:REST N times so many tasks of a second, and a rest of so many seconds: BURST, node ids
nodes=N             wait until N nodes are alive: NODES and their names
seconds=N           sleep
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

DEADLINE_S = 150.0


@ray.remote(num_cpus=1, max_retries=5)
def where(seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


@ray.remote(num_cpus=1, max_retries=5)
def at_once(task: int, number: int, directory: str, seconds: float) -> str:
    """Ends when all have begun, so that no node does the work of two.

    Each has a file in a shared directory: a task that waits in ray.get would release its CPU.
    """
    Path(directory, str(task)).touch()
    deadline = time.monotonic() + DEADLINE_S
    while len(os.listdir(directory)) < number and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


def names(node_ids: list[str]) -> list[str]:
    known = {node["NodeID"]: node["NodeName"] for node in ray.nodes()}
    return sorted(str(known[one]) for one in node_ids)


def tell(what: str, found: object) -> None:
    print(what, json.dumps(found), flush=True)


def tasks(text: str) -> None:
    number, _, seconds = text.partition(":")
    with tempfile.TemporaryDirectory(dir=Path.home()) as directory:
        refs = [at_once.remote(task, int(number), directory, float(seconds)) for task in range(int(number))]
        found = names(ray.get(refs, timeout=DEADLINE_S))
    tell("TASKS", sorted(set(found)))


def gang(text: str) -> None:
    group = placement_group([{"CPU": 1}] * int(text), strategy="STRICT_SPREAD")
    ray.get(group.ready(), timeout=DEADLINE_S)
    options: Any = [PlacementGroupSchedulingStrategy(group, number) for number in range(int(text))]
    refs = [where.options(scheduling_strategy=each).remote() for each in options]
    tell("GANG", names(ray.get(refs, timeout=DEADLINE_S)))
    remove_placement_group(group)


def on(text: str) -> None:
    label, _, value = text.partition(":")
    ref = where.options(label_selector={label: value}).remote()
    tell("ON", names([ray.get(ref, timeout=DEADLINE_S)]))


def need(text: str) -> None:
    ref = where.options(resources={text: 1}).remote()
    tell("NEED", names([ray.get(ref, timeout=DEADLINE_S)]))


def bursts(text: str) -> None:
    number, count, rest_s = text.split(":")
    for _ in range(int(number)):
        ray.get([where.remote(1.0) for _ in range(int(count))], timeout=DEADLINE_S)
        tell("BURST", sorted(node["NodeID"] for node in ray.nodes() if node["Alive"]))
        time.sleep(float(rest_s))


def nodes(text: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while len(alive := [node["NodeID"] for node in ray.nodes() if node["Alive"]]) != int(text):
        if time.monotonic() > deadline:
            sys.exit(f"{len(alive)} nodes, not {text}")
        time.sleep(0.1)
    tell("NODES", names(alive))


def seconds(text: str) -> None:
    time.sleep(float(text))


VERBS: dict[str, Callable[[str], None]] = {
    one.__name__: one for one in (tasks, gang, on, need, bursts, nodes, seconds)
}

ray.init(address="auto", log_to_driver=False)
for argument in sys.argv[1:]:
    verb, _, value = argument.partition("=")
    VERBS[verb](value)
