"""A worker whose raylet is executed by the head's template: Ray is not imported on it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.node.raylet_launch import start_by_template
from raycluster_cli.rayproc.environment import start_environment
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.installation import find_installation, ray_variables
from raycluster_cli.rayproc.plan import NodePlan
from raycluster_cli.rayproc.protocol import Event
from raycluster_cli.rayproc.started import Started
from raycluster_cli.rayproc.template import Launch, Template, fill, with_values
from raycluster_cli.system.process import Child

from .nodes import Nodes, environment, nodes, run

_FACTS = ("ray_version", "session", "cluster_id", "gcs_address", "node_id_bytes", "accelerator_type")

TASKS = """
import os, ray
ray.init(logging_level="ERROR")
@ray.remote(resources={"fast": 1}, label_selector={"rack": "b"})
def where():
    return ray.get_runtime_context().get_node_id(), os.getpid(), bytes(200_000_000 // 8)
id, pid, data = ray.get(where.remote())
node = next(one for one in ray.nodes() if one["NodeID"] == id)
print("found", id, len(data), node["NodeName"], node["Resources"]["CPU"], node["Labels"]["rack"])
"""


async def template_of(cluster: Nodes, gpus: str = "", made: Event | None = None) -> Template:
    """As a head makes it.  ``gpus``: what its GPUs are; ``made``: before its GCS ran."""
    assert cluster.head is not None
    of_cluster = {}
    if made is not None:
        known = cluster.companions[0].cluster.result()
        of_cluster = {name: known[name] for name in ("session", "cluster_id")}
    else:
        made = await cluster.companions[0].template(cluster.head)
    made, launch = made | of_cluster, with_values(Launch.from_json(made["launch"]), of_cluster)
    return Template(
        identity=cluster.head.identity,
        installation=find_installation(environment()),
        variables=ray_variables(environment()),
        agent_at_once=False,
        gpus=gpus if made["describes_gpus"] else "",
        spills=bool(cluster.head.spill_dir),
        launch=launch,
        **{name: made[name] for name in _FACTS},
    )


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        ({}, {}),
        ({}, {"num_cpus": 0}),
        ({}, {"num_cpus": 3, "resources": {"fast": 2.0}, "labels": {"rack": "b"}}),
        ({"spill_dir": "/tmp/rct-spilled-head"}, {"spill_dir": "/tmp/rct-spilled"}),
        ({"system_config": {"automatic_object_spilling_enabled": False}}, {}),
        # No driver shows them, so Ray knows no type; of which types there are is a unit test.
        ({"num_gpus": 2}, {"num_gpus": 3, "labels": {"rack": "b"}}),
    ],
)
def test_the_template_is_what_ray_itself_executes(head: dict[str, Any], changes: dict[str, Any]) -> None:
    async def test() -> None:
        async with nodes() as cluster:
            await cluster.start(0, **head)
            template = await template_of(cluster, "no driver")
            # The one that is made without the GCS, so that workers need not wait for it.
            assert cluster.head is not None
            early = await cluster.companions[0].template(cluster.head, early=True)
            assert await template_of(cluster, "no driver", early) == template
            assert template.gpus == ("no driver" if "num_gpus" in head else "")
            assert "0123456789abcdef" not in str(template.as_json())  # no secret goes into the record
            plan = replace(cluster.plan(1), **changes)
            client = cluster.companion()
            await client.ready(60)
            worker = await client.start(plan, 60)
            raylet = Path(f"/proc/{worker.processes['raylet']}")
            kind = template.accelerator_type
            launch = fill(template.launch, plan, worker.node_id, os.cpu_count() or 1, kind)
            assert raylet.joinpath("cmdline").read_text().split("\0")[:-1] == list(launch.argv)
            pairs = (pair.partition("=") for pair in raylet.joinpath("environ").read_text().split("\0")[:-1])
            env = {name: text for name, _, text in pairs}
            assert env == start_environment(plan, environment()) | dict(launch.variables)

    run(test)


def test_a_worker_joins_by_it() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            head, client = cluster.plan(0), cluster.companion()
            await client.ready(60)
            made = await client.template(head, early=True)  # there is no GCS yet
            with pytest.raises(StartFailure, match="where objects are spilled"):
                elsewhere = replace(head, system_config={"object_spilling_config": "{}"})
                await client.template(elsewhere, early=True)
            cluster.head = head
            await client.start(head, 60)
            plan = cluster.plan(
                1, num_cpus=3, resources={"fast": 2.0}, labels={"rack": "b"}, object_store_bytes=90 << 20
            )
            started, raylet = await join(cluster, await template_of(cluster, made=made), plan)
            assert raylet.running
            signals = dict(line.split(":\t") for line in status(raylet).splitlines() if line[:3] == "Sig")
            assert int(signals["SigBlk"], 16) == 0b10  # SIGINT alone, as Ray itself starts it
            printed = (await cluster.driver(TASKS)).splitlines()  # Ray 2.52 prints more
            said = next(line.split()[1:] for line in printed if line.startswith("found "))
            assert said == [started.node_id, "25000000", "node1", "3.0", "b"]

    run(test)


def test_the_head_of_worker_groups_has_one_too() -> None:
    async def test() -> None:
        async with nodes() as cluster:
            await cluster.start(0, env={"RAY_enable_autoscaler_v2": "1", "RAY_NODE_TYPE_NAME": "head"})
            labels = {"ray.io/node-group": "gpu"}
            env = {"RAY_NODE_TYPE_NAME": "gpu", "RAY_CLOUD_INSTANCE_ID": "4711_0"}
            plan = cluster.plan(1, labels=labels, env=env, object_store_bytes=90 << 20)
            started, raylet = await join(cluster, await template_of(cluster), plan)
            assert raylet.running
            assert started.node_id

    run(test)


def status(child: Child) -> str:
    return Path(f"/proc/{child.pid}/status").read_text()


async def join(cluster: Nodes, template: Template, plan: NodePlan) -> tuple[Started, Child]:
    return await start_by_template(
        template,
        plan,
        installation=template.installation,
        gpus="",
        given=environment(),
        reaper=cluster.reaper,
        timeout_s=60.0,
    )
