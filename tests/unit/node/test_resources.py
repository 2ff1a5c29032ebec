"""The plan: what Ray is told, made of what a node grants and what the user wants."""

from __future__ import annotations

import doctest
import json
from typing import Any

import pytest

from raycluster_cli.model.custom import check_labels, check_resources
from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.settings import Settings
from raycluster_cli.node import resources
from raycluster_cli.node.figures import MIB, Grant
from raycluster_cli.node.grants import HostFacts
from raycluster_cli.node.resources import (
    OBJECT_STORE_MAX_BYTES,
    OBJECT_STORE_MIN_BYTES,
    object_store_size,
    plan_resources,
    reserve_size,
)

GIB = 1024 * MIB


def node(
    *,
    memory_mib: int = 16384,
    shm_mib: int = 65536,
    shm_free_mib: int | None = None,
    cpus: int = 2,
    gpus: int = 0,
    **more: Any,
) -> HostFacts:
    facts = HostFacts(
        cpus=Grant(cpus, "SLURM_CPUS_ON_NODE", warnings=("pinned",) if more.pop("pinned", False) else ()),
        memory_bytes=Grant(memory_mib * MIB, "SLURM_MEM_PER_NODE"),
        shm_bytes=Grant(shm_mib * MIB, "size of /dev/shm"),
        shm_free_bytes=(shm_mib if shm_free_mib is None else shm_free_mib) * MIB,
        gpus=Grant(gpus, "SLURM_GPUS_ON_NODE", warnings=("bound",) if more.pop("bound", False) else ()),
    )
    return facts.but(**more)


def test_docstring_examples() -> None:
    assert doctest.testmod(resources).failed == 0


@pytest.mark.parametrize(
    ("memory", "shm", "store"),
    [
        (100 * GIB, 100 * GIB, 30 * GIB),
        (100 * GIB, 10 * GIB, 10 * GIB),
        (2000 * GIB, 1000 * GIB, 200 * 1024**3),
        (0, 10 * GIB, 0),
    ],
)
def test_object_store_is_the_least_of_three(memory: int, shm: int, store: int) -> None:
    assert object_store_size(memory, shm) == store


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("dashboard", [True, False])
@pytest.mark.parametrize("memory_mib", [1300, 1500, 3000, 4000, 16384, 2_000_000])
@pytest.mark.parametrize("cpus", [1, 2])
def test_the_three_shares_are_never_more_than_granted(
    head: bool, dashboard: bool, memory_mib: int, cpus: int
) -> None:
    plan = plan_resources(node(memory_mib=memory_mib, cpus=cpus), head=head, dashboard=dashboard)
    assert plan.memory_bytes + plan.object_store_bytes + plan.reserve_bytes == memory_mib * MIB
    assert plan.reserve_bytes >= reserve_size(cpus, head=head, dashboard=dashboard)
    assert OBJECT_STORE_MIN_BYTES <= plan.object_store_bytes <= OBJECT_STORE_MAX_BYTES
    assert plan.memory_bytes >= resources.MEMORY_MIN_BYTES
    assert plan.warnings == ()


def test_a_job_of_one_cpu_and_3000_mib() -> None:
    plan = plan_resources(node(memory_mib=3000, cpus=1), head=True)
    assert (plan.num_cpus, plan.num_gpus) == (1, 0)
    assert plan.object_store_bytes == 900 * MIB
    assert plan.memory_bytes == (3000 - 900 - 640 - 64) * MIB
    assert plan.sources["object_store_bytes"] == "30 % of the memory granted"
    assert plan.sources["memory_bytes"].startswith("SLURM_MEM_PER_NODE, less object store and 704 MiB")


@pytest.mark.parametrize(
    ("facts", "source"),
    [
        (node(memory_mib=16384, shm_mib=1024), "size of /dev/shm"),
        (node(memory_mib=2_000_000, shm_mib=1_000_000), "200 GB at most"),
        (node(memory_mib=1000, cpus=1), "what the reserve for Ray leaves"),
    ],
)
def test_source_of_the_object_store(facts: HostFacts, source: str) -> None:
    assert plan_resources(facts).sources["object_store_bytes"] == source


def test_in_a_small_job_the_object_store_gives_way_first() -> None:
    plan = plan_resources(node(memory_mib=1000, cpus=1))
    assert plan.memory_bytes == 128 * MIB
    assert plan.object_store_bytes == (1000 - 704 - 128) * MIB


def test_too_little_memory_is_refused_with_what_to_ask_for() -> None:
    with pytest.raises(UsageError) as caught:
        plan_resources(node(memory_mib=800, cpus=1))
    assert str(caught.value) == (
        "too little memory on this node: found 800 MiB (SLURM_MEM_PER_NODE), needed 907 MiB: 704 MiB for Ray "
        "itself, 75 MiB object store, 128 MiB for tasks. Give the node more (sbatch --mem=907M or above), or "
        "set both --memory and --object-store-memory to take the risk."
    )
    plan_resources(node(memory_mib=907, cpus=1))


def test_the_risk_can_be_taken() -> None:
    plan = plan_resources(node(memory_mib=800, cpus=1), memory_bytes=100 * MIB, object_store_bytes=100 * MIB)
    assert (plan.memory_bytes, plan.object_store_bytes) == (100 * MIB, 100 * MIB)
    assert "may be killed for memory" in plan.warnings[0]


def test_a_full_dev_shm_is_told_and_not_overrun() -> None:
    plan = plan_resources(node(memory_mib=16384, shm_mib=8192, shm_free_mib=500))
    assert plan.object_store_bytes == 500 * MIB
    assert plan.sources["object_store_bytes"] == "free in /dev/shm"
    assert plan.warnings[0].startswith("/dev/shm has 500 MiB free of 8192 MiB")


def test_a_little_that_is_taken_of_shared_memory_is_no_warning() -> None:
    plan = plan_resources(node(memory_mib=16384, shm_mib=3072, shm_free_mib=3071))
    assert (plan.object_store_bytes, plan.warnings) == (3071 * MIB, ())


@pytest.mark.parametrize("facts", [node(shm_mib=64), node(shm_mib=0), node(shm_mib=8192, shm_free_mib=10)])
def test_a_dev_shm_that_is_too_small_for_ray_is_refused(facts: HostFacts) -> None:
    with pytest.raises(UsageError, match=r"too little room for Ray's object store: found .* needed 75 MiB"):
        plan_resources(facts)


@pytest.mark.parametrize(
    ("options", "expected", "warning"),
    [
        ({"num_cpus": 1}, {"num_cpus": 1}, ""),
        ({"num_cpus": 0}, {"num_cpus": 0}, ""),
        (
            {"num_cpus": 4},
            {"num_cpus": 4},
            "--num-cpus 4 is more than the 2 granted here (SLURM_CPUS_ON_NODE)",
        ),
        ({"num_gpus": 1}, {"num_gpus": 1}, "--num-gpus 1 is more than the 0 granted"),
        ({"memory_bytes": GIB}, {"memory_bytes": GIB}, ""),
        ({"memory_bytes": 15 * GIB}, {"memory_bytes": 15 * GIB}, "may be killed for memory"),
        ({"object_store_bytes": GIB}, {"object_store_bytes": GIB}, ""),
        ({"object_store_bytes": GIB, "memory_bytes": 2 * GIB}, {"memory_bytes": 2 * GIB}, ""),
    ],
)
def test_what_the_user_gives_wins(options: dict[str, Any], expected: dict[str, int], warning: str) -> None:
    plan = plan_resources(node(), **options)
    assert {name: getattr(plan, name) for name in expected} == expected
    assert all(plan.sources[name].startswith("--") for name in options)
    assert len(plan.warnings) == bool(warning)
    assert warning in "".join(plan.warnings)


@pytest.mark.parametrize(
    ("facts", "options", "words"),
    [
        (
            node(),
            {"object_store_bytes": MIB},
            "--object-store-memory is too small: found 1 MiB, needed 75 MiB",
        ),
        (
            node(memory_mib=65536, shm_mib=1024),
            {"object_store_bytes": 20 * GIB},
            "does not fit: found 1024 MiB free in /dev/shm",
        ),
        (
            node(memory_mib=4000),
            {"object_store_bytes": 3900 * MIB},
            "leaves too little: found 4000 MiB granted",
        ),
        (
            node(gpus=2, visible_devices=("0", "1"), visible_devices_variable="CUDA_VISIBLE_DEVICES"),
            {"num_gpus": 4},
            "--num-gpus 4 cannot be had: found 2 visible (CUDA_VISIBLE_DEVICES), needed 4",
        ),
    ],
)
def test_what_ray_would_refuse_is_refused_here(facts: HostFacts, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_resources(facts, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "store", "words"),
    [
        (node(memory_mib=16384, shm_mib=1024), 2 * GIB, "Ray puts the object store on disk"),
        (
            node(memory_mib=65536, shm_mib=1024, slow_object_store_allowed=True),
            20 * GIB,
            "Ray puts the object store on disk",
        ),
        (node(memory_mib=4000), 5000 * MIB, "a full store gets the job killed"),
    ],
)
def test_a_risky_object_store_is_warned_of(facts: HostFacts, store: int, words: str) -> None:
    plan = plan_resources(facts, object_store_bytes=store, memory_bytes=500 * MIB)
    assert words in plan.warnings[0]


def test_warnings_of_the_node_go_where_an_option_settles_them() -> None:
    facts = node(pinned=True, bound=True)
    assert plan_resources(facts).warnings == ("pinned", "bound")
    assert plan_resources(facts, num_cpus=1).warnings == ("bound",)
    assert plan_resources(facts, num_cpus=1, num_gpus=0).warnings == ()


# --- AMD --------------------------------------------------------------------------------------------


def test_amds_list_is_renamed() -> None:
    plan = plan_resources(node(gpus=2, gpu_vendor="amd", rocr_visible_devices="2,3"))
    assert plan.environment == {"HIP_VISIBLE_DEVICES": "2,3"}
    assert plan.unset == ("ROCR_VISIBLE_DEVICES",)


@pytest.mark.parametrize(
    "facts", [node(gpu_vendor="nvidia", rocr_visible_devices="0,1"), node(gpu_vendor="amd"), node()]
)
def test_and_left_alone_elsewhere(facts: HostFacts) -> None:
    plan = plan_resources(facts)
    assert (plan.environment, plan.unset) == ({}, ())


# --- custom resources and labels --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "taken"),
    [({"slots": "2"}, {"slots": 2.0}), ({"a": 1, "b-c": 0}, {"a": 1.0, "b-c": 0.0}), ({}, {})],
)
def test_resources(given: dict[str, float | str], taken: dict[str, float]) -> None:
    assert check_resources(given) == taken
    assert plan_resources(node(), resources=given).resources == taken


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"CPU": 2}, "Use --num-cpus."),
        ({"GPU": 2}, "Use --num-gpus."),
        ({"memory": 2}, "Use --memory."),
        ({"object_store_memory": 2}, "Use --object-store-memory."),
        ({"slots": "two"}, "found slots=two, needed a whole number"),
        ({"slots": 0.5}, "found slots=0.5, needed a whole number"),
        ({"slots": -1}, "found slots=-1"),
        ({"slots": "nan"}, "found slots=nan"),
        ({"slots": "1e20"}, "found slots=1e20"),
        ({"": 1}, "found the name ''"),
        ({"node:10.0.0.1": 1}, "one that Ray does not keep for itself"),
    ],
)
def test_resources_that_ray_would_refuse(given: dict[str, float | str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_resources(given)
    assert words in str(caught.value)


def test_the_users_labels_win_over_slurms() -> None:
    facts = node(labels=(("slurm/node", "n1"), ("slurm/partition", "main")))
    plan = plan_resources(facts, labels={"slurm/partition": "fast", "disk": "nvme"})
    assert plan.labels == {"slurm/node": "n1", "slurm/partition": "fast", "disk": "nvme"}


@pytest.mark.parametrize(
    "labels",
    [{"a": "b"}, {"a": ""}, {"site.org/rack": "r_1.2-3"}, {"ray.io/node-group": "gpu"}, {"A" * 63: "9" * 63}],
)
def test_labels(labels: dict[str, str]) -> None:
    assert check_labels(labels) == labels


@pytest.mark.parametrize(
    "labels",
    [
        {"": "x"},
        {"-a": "x"},
        {"a-": "x"},
        {"a": "-x"},
        {"a": "x y"},
        {"a b": "x"},
        {"A" * 64: "x"},
        {"a": "9" * 64},
        {"a//b": "x"},
        {"/b": "x"},
        {"under_/b": "x"},
        {"a": "x\n"},
        {"a": "é"},
        {"sub..domain/a": "x"},
        {f"{'a' * 64}.org/b": "x"},
        {"ray.io/node-id": "x"},
    ],
)
def test_labels_that_ray_would_refuse(labels: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"^--labels: found .* needed "):
        check_labels(labels)


def test_no_spilling_from_memory_to_memory() -> None:
    plan = plan_resources(node(), spill_in_memory=True)
    assert plan.system_config == {"automatic_object_spilling_enabled": False}
    assert plan.sources["spilling"].startswith("off")
    assert plan_resources(node()).system_config == {}


def test_the_plan_in_json() -> None:
    plan = plan_resources(node(), resources={"slots": 1}, labels={"a": "b"})
    data = json.loads(json.dumps(plan.as_dict()))
    assert data["resources"] == {"slots": 1.0} and data["labels"] == {"a": "b"}
    assert data["memory_bytes"] == plan.memory_bytes and data["sources"]["num_cpus"] == "SLURM_CPUS_ON_NODE"


@pytest.mark.parametrize(
    ("option", "text"), [("labels", "ray.io/node-id=x"), ("labels", "a b=c"), ("resources", "CPU=2")]
)
def test_they_are_refused_where_options_are_read(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^--{option}"):
        Settings(**{option: text})  # type: ignore[arg-type]
