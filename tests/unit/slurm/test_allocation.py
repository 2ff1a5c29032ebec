"""The allocation, read from environments that were recorded on real Slurm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.slurm.allocation import Allocation

DATA = Path(__file__).parents[2] / "data"
RECORDED = sorted(path.relative_to(DATA / "slurm-env") for path in (DATA / "slurm-env").glob("*/*.env"))


def environment(name: str) -> dict[str, str]:
    """A recorded environment, such as 22.05/het.task1."""
    lines = (DATA / "slurm-env" / f"{name}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def allocation(name: str, **changes: str | None) -> Allocation:
    """The allocation of a recorded environment, with variables changed or (None) taken out."""
    env: dict[str, str | None] = {**environment(name), **changes}
    read = Allocation.from_environ({key: value for key, value in env.items() if value is not None})
    assert read is not None
    return read


# --- the allocation, all recorded shapes -----------------------------------------------------------


@pytest.mark.parametrize("path", RECORDED, ids=str)
def test_every_recorded_environment_tells_where_it_is(path: Path) -> None:
    name = str(path).removesuffix(".env")
    read = allocation(name)
    rank = re.search(r"\.task(\d+)$", name)
    assert read.in_task == bool(rank)
    assert read.procid == (int(rank[1]) if rank else None)
    assert (read.localid is not None, read.nodeid is not None) == (bool(rank), bool(rank))
    assert read.is_batch == name.endswith(".batch")
    assert read.key == read.job_id + (".r2" if "requeued" in name else "")
    assert read.head_node in read.job_nodes
    assert read.cluster_name == "bed"
    if read.in_task:
        assert read.step_nodes is not None and read.step_tasks is not None and read.nodeid is not None
        assert read.node_name == read.step_nodes[read.nodeid]
        assert sum(read.tasks_per_node) == read.step_tasks
        assert read.tasks_here == read.tasks_per_node[read.nodeid]


VERSIONS = ("22.05", "24.11")
SHAPES: list[tuple[str, dict[str, Any]]] = [
    (
        "three-nodes.batch",
        {"job_nodes": ("n1", "n2", "n3"), "step_nodes": None, "cpus_on_node": 2, "mem_per_node_mib": 4000}
        | {"job_cpus_per_node": (2, 2, 2), "head_node": "n1", "node_name": "n1", "tasks_per_node": (1, 1, 1)},
    ),
    (
        "three-nodes.task2",
        {"step_id": "0", "step_nodes": ("n1", "n2", "n3"), "nodeid": 2, "localid": 0, "node_name": "n3"}
        | {"head_node": "n1", "topology_addr": "n3"},
    ),
    (
        # NODEID counts from the step's first node, which is the job's second.
        "workers-step.task0",
        {"job_nodes": ("n1", "n2", "n3"), "step_nodes": ("n2", "n3"), "nodeid": 0, "node_name": "n2"}
        | {"head_node": "n2", "first_job_node": "n1", "mem_per_node_mib": None},
    ),
    (
        "two-tasks-a-node.task3",
        {"procid": 3, "localid": 1, "nodeid": 1, "is_first_task_on_node": False, "tasks_here": 2}
        | {"step_tasks": 4, "cpus_on_node": 2},
    ),
    ("two-tasks-a-node.task2", {"localid": 0, "is_first_task_on_node": True}),
    (
        "gpus-gres.task1",
        {"gpus_on_node": 2, "mem_per_cpu_mib": 1500, "mem_per_node_mib": None},
    ),
    ("gpus-per-task.task1", {"gpus_on_node": 1}),
    ("array.task0", {"array_job_id": "6", "array_task_id": "0", "job_id": "7", "key": "7"}),
    (
        # The plain variables are the first component's on every node.
        "het.task1",
        {"het_size": 2, "het_component": 1, "mem_per_node_mib": 2000, "gpus_on_node": 1}
        | {"job_cpus_per_node": (1, 2, 2), "job_cpus_here": 2, "job_id": "8", "head_node": "n1"},
    ),
    ("het.task0", {"het_component": 0, "mem_per_node_mib": 1000, "gpus_on_node": None}),
    (
        # The batch script's own nodes are the first component's; the job has three.
        "het.batch",
        {"job_nodes": ("n1", "n2", "n3"), "het_component": 0, "head_node": "n1", "mem_per_node_mib": 1000},
    ),
    (
        "salloc.shell",
        {"node_name": None, "in_task": False, "is_batch": False, "job_nodes": ("n1", "n2"), "procid": None}
        | {"cpus_on_node": None, "job_cpus_here": None, "head_node": "n1", "is_first_task_on_node": True},
    ),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("shape", "expected"), SHAPES, ids=[shape for shape, _ in SHAPES])
def test_shapes_of_job(version: str, shape: str, expected: dict[str, Any]) -> None:
    read = allocation(f"{version}/{shape}")
    if shape == "array.task0" and version == "24.11":
        expected = {**expected, "job_id": read.job_id, "key": read.job_id}
    assert {name: getattr(read, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20.11/gpus-gres.task1", {"gpus_on_node": None, "end_time": None}),
        ("20.11/het.task1", {"het_component": 1, "mem_per_node_mib": 2000}),
        ("22.05/three-nodes.task1", {"end_time": None, "restart_count": 0}),
        ("23.11/three-nodes.task1", {"end_time": 1795405510.0}),
        ("23.11/gpus-per-task.task1", {"gpus_on_node": 1}),
        ("23.11/requeued.task1", {"restart_count": 2, "key": "1.r2", "job_id": "1"}),
        ("23.11/four-tasks-four-gpus.task0", {"gpus_on_node": 4, "tasks_here": 4}),
        ("24.11/gpus-per-task.task1", {"gpus_on_node": 1}),
        ("25.05/three-nodes.task1", {"topology_addr_pattern": "switch.switch.node"}),
        (
            "25.05/interactive-step.shell",
            {
                "in_task": False,
                "is_batch": False,
                "is_interactive_step": True,
                "node_name": "n1",
                "procid": None,
            },
        ),
        ("26.05/three-nodes.batch", {"in_task": False, "is_batch": True, "step_id": None, "procid": None}),
        ("26.05/three-nodes.task2", {"procid": 2, "node_name": "n3", "mem_per_node_mib": 3000}),
        ("26.05/two-tasks-a-node.task3", {"localid": 1, "tasks_here": 2, "is_first_task_on_node": False}),
        (
            "26.05/interactive-step.shell",
            {"in_task": False, "is_batch": False, "is_interactive_step": True, "job_nodes": ("n1", "n2")},
        ),
        ("25.05/container.task1", {"node_name": "n2", "nodeid": 1, "job_cpus_here": 2}),
        (
            "25.05/uneven.task2",
            {"job_cpus_here": 64, "cpus_on_node": 64, "mem_per_gpu_mib": 16000, "head_node": "n1"},
        ),
    ],
)
def test_versions_of_slurm(name: str, expected: dict[str, Any]) -> None:
    read = allocation(name)
    assert {field: getattr(read, field) for field in expected} == expected


# --- the allocation, what may be missing or wrong --------------------------------------------------

TASK = "22.05/three-nodes.task1"


def test_outside_of_slurm_there_is_none() -> None:
    assert Allocation.from_environ({}) is None
    assert Allocation.from_environ({"SLURM_JOB_ID": " ", "SLURM_CONF": "/etc/slurm/slurm.conf"}) is None


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"])
@pytest.mark.parametrize("value", [None, "", " "])
def test_a_missing_rank_is_never_taken_as_0(name: str, value: str | None) -> None:
    with pytest.raises(UsageError, match=f"{name} is not set although SLURM_STEP_ID is"):
        allocation(TASK, **{name: value})


@pytest.mark.parametrize(
    "name",
    [
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_NODEID",
        "SLURM_CPUS_ON_NODE",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_STEP_TASKS_PER_NODE",
        "SLURM_JOB_CPUS_PER_NODE",
        "SLURM_MEM_PER_NODE",
        "SLURM_MEM_PER_CPU",
        "SLURM_MEM_PER_GPU",
        "SLURM_GPUS_ON_NODE",
        "SLURM_RESTART_COUNT",
        "SLURM_HET_SIZE",
        "SLURM_JOB_END_TIME",
    ],
)
@pytest.mark.parametrize("value", ["abc", "1e3", "-1", "two\nlines", "9" * 400])
def test_an_unreadable_number_is_one_line_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        allocation(TASK, **{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} cannot be read: found ")
    assert "needed" in message
    assert "\n" not in message and len(message) < 400
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["SLURM_JOB_NODELIST", "SLURM_STEP_NODELIST"])
def test_an_unreadable_node_list_names_the_variable(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} cannot be read: found 'n\\[1-' "):
        allocation(TASK, **{name: "n[1-"})


@pytest.mark.parametrize("value", ["../../etc", "12;rm", "1_2", "x"])
def test_a_job_id_is_a_number(value: str) -> None:
    with pytest.raises(UsageError, match="SLURM_JOB_ID cannot be read"):
        allocation(TASK, SLURM_JOB_ID=value)


def test_step_variables_left_from_another_job_are_no_task() -> None:
    """Seen on 22.05: sbatch, called in a task on n3, hands SLURM_STEP_ID, SLURM_PROCID and more on."""
    left = {key: value for key, value in environment("22.05/workers-step.task1").items() if "STEP" in key}
    batch = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_CPUS_PER_NODE": "2(x2)"}
    read = allocation("22.05/three-nodes.batch", **left, **batch)
    assert (read.in_task, read.is_batch, read.procid, read.step_nodes) == (False, True, None, None)
    assert read.head_node == "n1"
    assert read.tasks_per_node == (1, 1, 1)
    elsewhere = allocation("22.05/three-nodes.batch", **left)
    assert (elsewhere.in_task, elsewhere.head_node) == (False, "n1")


def test_old_names_are_read_where_the_new_are_missing() -> None:
    read = allocation(TASK, SLURM_JOB_ID=None, SLURM_STEP_ID=None, SLURM_JOB_NODELIST=None)
    assert (read.job_id, read.step_id, read.job_nodes) == ("1", "0", ("n1", "n2", "n3"))


def test_without_a_node_list_the_head_node_is_an_error() -> None:
    read = allocation("22.05/salloc.shell", SLURM_JOB_NODELIST=None, SLURM_NODELIST=None)
    assert read.job_nodes == ()
    with pytest.raises(UsageError, match="SLURM_JOB_NODELIST is not set"):
        _ = read.head_node


@pytest.mark.parametrize("value", ["0", "", None])
def test_no_memory_limit_means_ask_the_cgroup(value: str | None) -> None:
    assert allocation(TASK, SLURM_MEM_PER_NODE=value).mem_per_node_mib is None


def test_rank_0_is_the_head_wherever_it_was_put() -> None:
    """srun --distribution=arbitrary with a hostfile that begins with another node than the first."""
    read = allocation(TASK, SLURM_PROCID="0")
    assert read.head_node == "n2"


def test_a_step_on_one_node_looks_for_the_head_on_the_first_of_the_job() -> None:
    read = allocation(TASK, SLURM_STEP_NODELIST="n2", SLURM_NODEID="0", SLURM_STEP_TASKS_PER_NODE="1")
    assert read.head_node == "n1"


def test_a_heterogeneous_head_is_in_the_first_component_also_when_it_sorts_last() -> None:
    nodes = {"SLURM_JOB_NODELIST_HET_GROUP_0": "n3", "SLURM_JOB_NODELIST_HET_GROUP_1": "n[1-2]"}
    read = allocation("22.05/het.task1", **nodes)
    assert read.job_nodes == ("n3", "n1", "n2")
    assert read.head_node == "n3"


def test_a_step_of_the_second_component_keeps_the_first_ones_job_id() -> None:
    """Head and workers must agree on the key, whichever component each is in."""
    read = allocation("22.05/het.task1", SLURM_JOB_ID="9")
    assert read.key == "8"


def test_a_node_of_two_components_trusts_only_the_cgroup() -> None:
    nodes = {"SLURM_JOB_NODELIST_HET_GROUP_0": "n2", "SLURM_JOB_NODELIST_HET_GROUP_1": "n[2-3]"}
    read = allocation("22.05/het.task1", **nodes)
    assert (read.het_component, read.mem_per_node_mib) == (None, None)


def test_names_of_slurm_19_for_heterogeneous_jobs() -> None:
    env = {key: value for key, value in environment("22.05/het.task1").items() if "HET" not in key}
    read = Allocation.from_environ(env)
    assert read is not None
    assert (read.het_size, read.het_component, read.mem_per_node_mib) == (2, 1, 2000)


def test_a_number_of_components_without_components_is_no_heterogeneous_job() -> None:
    read = allocation(TASK, SLURM_HET_SIZE="9" * 17)
    assert (read.het_component, read.job_nodes, read.mem_per_node_mib) == (None, ("n1", "n2", "n3"), 4000)


def test_counts_that_do_not_fit_the_nodes_are_left_out() -> None:
    assert allocation(TASK, SLURM_JOB_CPUS_PER_NODE="2").job_cpus_here is None


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("22.05/workers-step.task0", ("n1",)),
        ("24.11/workers-step.task0", ("n1",)),
        ("22.05/three-nodes.task1", ()),
        ("24.11/het.task0", ()),
        ("24.11/three-nodes.batch", ()),
        ("22.05/salloc.shell", ()),
    ],
)
def test_nodes_without_a_task_of_the_step(name: str, nodes: tuple[str, ...]) -> None:
    assert allocation(name).nodes_without_task == nodes
