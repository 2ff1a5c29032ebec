"""The ways to run a driver on a Ray cluster in a Slurm job, each as the body of a batch script."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Way:
    """One way: its name in the tables, and the script's body for a driver on so many hosts."""

    name: str
    body: Callable[[Sequence[str], int], str]
    turns: int = 1
    """Runs in each round: the quick one can have several."""


def _raycluster(driver: Sequence[str], hosts: int, checkout: Path = REPOSITORY) -> str:
    command = shlex.join([*raycluster_command(checkout), "run", "--", *driver])
    return f"srun --nodes={hosts} --ntasks-per-node=1 {command}"


def raycluster_command(checkout: Path = REPOSITORY) -> list[str]:
    """`raycluster` of a checkout, whatever else is installed."""
    return ["env", f"PYTHONPATH={checkout}", sys.executable, "-m", "raycluster_cli"]


def another_build(checkout: Path) -> Way:
    """`raycluster` of another checkout, an earlier build for example, as often as this one's."""
    return Way(BESIDE, lambda driver, hosts: _raycluster(driver, hosts, checkout), turns=RAYCLUSTER.turns)


def of_environment(way: Way, environment: Path) -> Way:
    """A way with the programs of an environment in which raycluster was installed."""

    def body(driver: Sequence[str], hosts: int) -> str:
        command = [f"{environment}/bin/python", *driver[1:]]
        if way.name == SYMMETRIC.name:
            return _symmetric_run(command, hosts, f"{environment}/bin/ray")
        raycluster = shlex.join([f"{environment}/bin/raycluster", "run", "--", *command])
        return f"srun --nodes={hosts} --ntasks-per-node=1 {raycluster}"

    return Way(way.name, body, way.turns)


def _symmetric_run(driver: Sequence[str], hosts: int, ray: str = "ray") -> str:
    """`ray symmetric-run` as Ray's Slurm guide has it.

    It gives up after 30 s of waiting for nodes, too early for eight of them on two busy cores.
    """
    return f"""
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=200
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
srun --nodes={hosts} --ntasks-per-node=1 \\
    {ray} symmetric-run --address "${{nodes[0]}}:6379" --min-nodes {hosts} -- {shlex.join(driver)}
"""


def _recipe(driver: Sequence[str], hosts: int) -> str:
    """Ray's slurm-basic.sh: a step for the head, a sleep, a step and a sleep for each worker, the driver.

    As published, but for --num-gpus, which is left out where a job has none (its variable is then empty and
    `ray start` refuses it).
    """
    return f"""
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
nodes_array=($nodes)
head_node=${{nodes_array[0]}}
head_node_ip=$(srun --nodes=1 --ntasks=1 -w "$head_node" hostname --ip-address)
port=6379
ip_head=$head_node_ip:$port
export ip_head
srun --nodes=1 --ntasks=1 -w "$head_node" \\
    ray start --head --node-ip-address="$head_node_ip" --port=$port \\
    --num-cpus "${{SLURM_CPUS_PER_TASK}}" --block &
sleep 10
worker_num=$((SLURM_JOB_NUM_NODES - 1))
for ((i = 1; i <= worker_num; i++)); do
    node_i=${{nodes_array[$i]}}
    srun --nodes=1 --ntasks=1 -w "$node_i" \\
        ray start --address "$ip_head" --num-cpus "${{SLURM_CPUS_PER_TASK}}" --block &
    sleep 5
done
{shlex.join(driver)}
"""


#: The name of the other build in the tables.
BESIDE = "raycluster beside"

RAYCLUSTER = Way("raycluster", _raycluster, turns=2)
SYMMETRIC = Way("ray symmetric-run", _symmetric_run)
RECIPE = Way("guide's recipe", _recipe)
WAYS = (RAYCLUSTER, SYMMETRIC, RECIPE)
