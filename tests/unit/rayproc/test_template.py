"""The template of a worker's raylet: made of two examples, filled in, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from raycluster_cli.model.status import Role
from raycluster_cli.rayproc.plan import NodePlan
from raycluster_cli.rayproc.template import (
    EXAMPLE_CPUS,
    Example,
    File,
    Launch,
    NotATemplate,
    Template,
    accelerator_type_of,
    describes,
    example_plans,
    fill,
    make_template,
    resource_list,
    with_values,
)

HEAD = NodePlan(
    role=Role.HEAD,
    node_ip="10.17.2.9",
    gcs_address="10.17.2.9:20480",
    ports={"gcs": 20480, "node_manager": 20481, "worker_low": 20496, "worker_high": 21495},
    temp_dir="/tmp/rc-1-ab/r",
    num_cpus=4,
    memory_bytes=8 << 30,
    object_store_bytes=2 << 30,
    identity="the cluster's",
    auth_token_path="/tmp/rc-1-ab/token",
)

WORKER = replace(
    HEAD,
    role=Role.WORKER,
    node_ip="10.17.2.10",
    node_name="n2",
    ports={
        "node_manager": 20481,
        "object_manager": 20482,
        "dashboard_agent_listen": 20484,
        "dashboard_agent_grpc": 20485,
        "runtime_env_agent": 20486,
        "metrics_export": 20487,
        "worker_low": 20496,
        "worker_high": 21495,
    },
    temp_dir="/scratch/rc-1-cd/r",
)


DIRECTORIES = ("/tmp/rc-1-ab/e1", "/tmp/rc-1-ab/e2", "/tmp/rc-1-ab/e3")


def ray(
    plan: NodePlan, node_id: str, cpus: int, prestart: int = 0, kind: str = "", resource: str = ""
) -> Launch:
    """What Ray makes of a worker; ``prestart``: worker processes that this Ray starts besides.

    ``kind``, ``resource``: what it calls the GPUs, as label and as resource.
    """
    session = f"{plan.temp_dir}/session_2026-11-28_1"
    labels = dict(plan.labels)
    if kind:
        labels = {"ray.io/accelerator-type": kind} | labels
    argv = [
        "/env/python3.17/ray/raylet",
        f"--raylet_socket_name={session}/sockets/raylet",
        f"--node_id={node_id}",
        f"--node_manager_port={plan.ports['node_manager']}",
        f"--maximum_startup_concurrency={max(1, min(cpus, plan.num_cpus))}",
        f"--static_resource_list={resource_list(plan, resource or kind)}",
        f"--python_worker_command=python worker.py --node-ip-address={plan.node_ip} --gcs={plan.gcs_address}",
        f"--min_worker_port={plan.ports['worker_low']}",
        f"--labels={json.dumps(labels) if labels else ''}",
        f"--fallback_directory={plan.spill_dir or session}",
    ]
    if listed := plan.ports.get("worker_list"):
        argv.append(f"--worker_port_list={','.join(map(str, listed))}")
    argv.append(f"--num_prestart_python_workers={plan.num_cpus + prestart}")
    files = (
        File("session_2026-11-28_1", 0o777, "directory"),
        File(f"session_2026-11-28_1/ports_{node_id}.json", 0o644, "file", json.dumps({"ip": plan.node_ip})),
        File("session_latest", 0, "link", session),
    )
    return Launch(tuple(argv), {"RAY_CLIENT_MODE": "0"}, files)


def test_what_is_not_known_of_the_cluster_yet_is_filled_in_later() -> None:
    template = make_template(*before_the_gcs(SESSIONS, SESSIONS))
    assert "--session=@{session}" in template.argv
    whole = with_values(template, {"session": "session_2026-11-28_1", "cluster_id": "ff" * 28})
    assert fill(whole, WORKER, "cd" * 28, 64) == ray(WORKER, "cd" * 28, 64).but(
        argv=(*ray(WORKER, "cd" * 28, 64).argv, "--session=session_2026-11-28_1")
    )


def test_what_ray_derives_of_it_is_no_template() -> None:
    with pytest.raises(NotATemplate):
        make_template(*before_the_gcs(SESSIONS, ("7", "8")))


SESSIONS = ("session_1970-01-01_1", "session_1970-01-01_2")


def before_the_gcs(sessions: tuple[str, str], told: tuple[str, str]) -> tuple[Example, Example]:
    """Examples of clusters with other sessions; ``told``: what the raylets are given as such."""
    made, old = [], "session_2026-11-28_1"
    for one, session, number, mark in zip(examples(), sessions, told, ("aa", "bb"), strict=True):
        launch = one.launch.mapped(lambda text, new=session: text.replace(old, new))
        cluster = {"session": session, "cluster_id": mark * 28}
        made.append(one.but(launch=launch.but(argv=(*launch.argv, f"--session={number}")), cluster=cluster))
    return made[0], made[1]


def examples(prestart: tuple[int, int] = (0, 0), head: NodePlan = HEAD) -> tuple[Example, Example]:
    first, second, _ = example_plans(head, DIRECTORIES)
    ids = ("0a" * 28, "0b" * 28)
    return (
        Example(first, ids[0], EXAMPLE_CPUS[0], ray(first, ids[0], EXAMPLE_CPUS[0], prestart[0])),
        Example(second, ids[1], EXAMPLE_CPUS[1], ray(second, ids[1], EXAMPLE_CPUS[1], prestart[1])),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_cpus": 0},
        {"num_cpus": 512},
        {"resources": {"fast": 2.0}, "labels": {"slurm/node": "n2", "text": 'a "b"'}},
        {"ports": {**WORKER.ports, "worker_list": [20496, 20499]}},
        {"node_ip": "10.17.2.9"},  # a second node on the head's host
    ],
)
def test_a_filled_template_is_what_ray_makes_of_the_worker(changes: dict[str, Any]) -> None:
    worker = replace(WORKER, **changes)
    template = make_template(*examples())
    assert fill(template, worker, "cd" * 28, 64) == ray(worker, "cd" * 28, 64)


def test_a_directory_for_spilled_objects_is_the_workers_own() -> None:
    worker = replace(WORKER, spill_dir="/scratch/spilled")
    template = make_template(*examples(head=replace(HEAD, spill_dir="/local/spilled")))
    assert fill(template, worker, "cd" * 28, 64) == ray(worker, "cd" * 28, 64)


@pytest.mark.parametrize("kind", ["H200", "RTX-PRO-6000", ""])
def test_gpus_like_the_heads_are_described(kind: str) -> None:
    template = make_template(*examples())
    plan = example_plans(replace(HEAD, num_gpus=4), DIRECTORIES)[2]
    assert plan.num_gpus == 4
    third = Example(plan, "0c" * 28, 1013, ray(plan, "0c" * 28, 1013, kind=kind))
    assert accelerator_type_of(third) == kind
    assert describes(template, third)
    worker = replace(WORKER, num_gpus=8, labels={"rack": "b"})
    assert fill(template, worker, "cd" * 28, 64, kind) == ray(worker, "cd" * 28, 64, kind=kind)


def test_gpus_that_ray_describes_otherwise_are_not() -> None:
    template = make_template(*examples())
    plan = example_plans(replace(HEAD, num_gpus=4), DIRECTORIES)[2]
    launch = ray(plan, "0c" * 28, 1013, kind="H200", resource="H200-141GB")
    assert not describes(template, Example(plan, "0c" * 28, 1013, launch))


def test_it_goes_through_the_record() -> None:
    launch = make_template(*examples())
    assert Launch.from_json(json.loads(json.dumps(launch.as_json()))) == launch


@pytest.mark.parametrize("prestart", [(0, 1), (1, 1), (100, 0)])
def test_what_follows_another_rule_gives_no_template(prestart: tuple[int, int]) -> None:
    with pytest.raises(NotATemplate, match="num_prestart_python_workers"):
        make_template(*examples(prestart))


def test_another_file_gives_no_template() -> None:
    first, second = examples()
    more = (*second.launch.files, File("extra", 0o644, "file"))
    with pytest.raises(NotATemplate, match="files"):
        make_template(first, second.but(launch=second.launch.but(files=more)))


@pytest.mark.parametrize(
    ("changes", "resources"),
    [
        ({}, "node:10.17.2.10,1.0,CPU,4,memory,8589934592,object_store_memory,2147483648"),
        ({"num_cpus": 0}, "node:10.17.2.10,1.0,memory,8589934592,object_store_memory,2147483648"),
        (
            {"resources": {"fast": 2.0, "none": 0.0}},
            "fast,2.0,node:10.17.2.10,1.0,CPU,4,memory,8589934592,object_store_memory,2147483648",
        ),
    ],
)
def test_resources_as_ray_lists_them(changes: dict[str, Any], resources: str) -> None:
    assert resource_list(replace(WORKER, **changes)) == resources


TEMPLATE = Template(
    identity="the cluster's",
    installation="ray 2.60.0",
    variables="12345678",
    agent_at_once=False,
    ray_version="2.60.0",
    session="session_1",
    cluster_id="ab",
    gcs_address="10.17.2.9:20480",
    node_id_bytes=28,
    launch=Launch((), {}, ()),
    gpus="NVIDIA H200",
    accelerator_type="H200",
    spills=False,
)


@pytest.mark.parametrize(
    ("changes", "facts", "why"),
    [
        ({}, {}, ""),
        ({"identity": "another's"}, {}, "another cluster"),
        ({"gcs_address": "10.17.2.9:20481"}, {}, "another cluster"),
        ({}, {"installation": "ray 2.59.0"}, "installation"),
        ({}, {"variables": "87654321"}, "variables"),
        ({"node_ip": "fd00::7"}, {}, "address"),
        ({"num_gpus": 1}, {}, "GPUs"),
        ({"num_gpus": 1}, {"gpus": "NVIDIA A100"}, "GPUs"),
        ({"num_gpus": 1}, {"gpus": "NVIDIA H200"}, ""),
        ({}, {"gpus": "NVIDIA A100"}, ""),  # --num-gpus 0
        ({"resources": {"fast": 0.5}}, {}, "whole number"),
        ({"spill_dir": "/scratch"}, {}, "--spill-dir"),
        ({"ports": {**WORKER.ports, "runtime_env_agent": 0}}, {}, "port"),
        ({"agent_at_once": True}, {}, "agent"),
        ({}, {"shm_bytes": (2 << 30) - 1}, "/dev/shm"),
        ({"object_store_bytes": 70_000_000}, {}, "too small for Ray"),
    ],
)
def test_any_doubt_refuses_it(changes: dict[str, Any], facts: dict[str, Any], why: str) -> None:
    known: dict[str, Any] = {"installation": "ray 2.60.0", "variables": "12345678"}
    known |= {"gpus": "", "shm_bytes": 2 << 30}
    reason = TEMPLATE.refusal(replace(WORKER, **changes), **{**known, **facts})
    assert (why in reason) and bool(reason) == bool(why)


@pytest.mark.parametrize(
    "text", [None, b"", b"{", b"[]", b"{}", b'{"identity":"x"}', b'{"launch":{"argv":[]}}']
)
def test_an_incomplete_one_is_none(text: bytes | None) -> None:
    assert Template.from_json(text) is None
    assert Template.from_json(json.dumps(TEMPLATE.as_json()).encode()) == TEMPLATE


@pytest.mark.parametrize(("spills", "here"), [(True, None), (False, "/scratch")])
def test_a_directory_for_spilled_objects_is_given_on_all_nodes_or_none(
    spills: bool, here: str | None
) -> None:
    template = TEMPLATE.but(spills=spills)
    facts = {"installation": "ray 2.60.0", "variables": "12345678", "gpus": "", "shm_bytes": 2 << 30}
    assert "--spill-dir" in template.refusal(replace(WORKER, spill_dir=here), **facts)
    assert not template.refusal(replace(WORKER, spill_dir=None if here else "/scratch"), **facts)


def test_a_template_without_gpus_describes_none() -> None:
    facts = {"installation": "ray 2.60.0", "variables": "12345678", "gpus": "", "shm_bytes": 2 << 30}
    assert "GPUs" in TEMPLATE.but(gpus="").refusal(replace(WORKER, num_gpus=1), **facts)


def test_the_node_type_of_a_head_of_worker_groups_is_not_in_the_examples() -> None:
    env = {"RAY_enable_autoscaler_v2": "1", "RAY_NODE_TYPE_NAME": "head"}
    plans = example_plans(replace(HEAD, env=env), DIRECTORIES)
    assert [dict(plan.env) for plan in plans] == [{"RAY_enable_autoscaler_v2": "1"}] * 3
