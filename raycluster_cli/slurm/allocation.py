"""The allocation: what Slurm's environment variables say of the job, the step and this process.

Variables in, one value out.  Nothing here runs a command.  The facts about the variables come from srun(1),
sbatch(1), salloc(1) and from environments recorded on real Slurm (tests/data/slurm-env).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from ..model.errors import UsageError
from ..model.value import Value
from .hostlist import parse_hostlist
from .malformed import quoted
from .quantities import parse_counts, parse_gpu_count, parse_memory_mib

# Step ids that no srun has (slurm.h: SLURM_BATCH_SCRIPT and its neighbours): a number or a name.
# Slurm 26.05 sets SLURM_STEP_ID=-5 in the batch script, where older ones set none.
_INTERACTIVE_STEPS = frozenset({"4294967290", "-6", "interactive"})
_SPECIAL_STEPS = _INTERACTIVE_STEPS | {
    *("4294967291", "4294967292", "4294967293"),
    *("-5", "-4", "-3"),
    *("batch", "extern", "pending"),
}


def _whole_number(env: Mapping[str, str], name: str, *, least: int = 0) -> int | None:
    """The number in a variable; None when unset or empty.  Raises UsageError when it is not a number."""
    text = env.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) < least:
        raise UsageError(
            f"{name} cannot be read: found {quoted(env[name])}, needed a whole number of at least {least}.",
            "Slurm sets this variable; a job script or shell profile may have overwritten it.",
        )
    return int(text)


def _memory(env: Mapping[str, str], name: str) -> int | None:
    """MiB; None when unset or 0: Slurm then grants all memory, and only the cgroup has the amount."""
    text = env.get(name, "").strip()
    return (parse_memory_mib(text, source=name) or None) if text else None


def _hosts(env: Mapping[str, str], *names: str) -> tuple[str, ...] | None:
    for name in names:
        text = env.get(name, "").strip()
        if text and text != "(null)":
            return tuple(parse_hostlist(text, source=name))
    return None


def _counts(env: Mapping[str, str], *names: str) -> tuple[int, ...]:
    for name in names:
        text = env.get(name, "").strip()
        if text:
            return tuple(parse_counts(text, source=name))
    return ()


def _component_variable(env: Mapping[str, str], name: str, component: int) -> str:
    """The name of a component's own variable: HET since Slurm 20.02, PACK before (still set as well)."""
    new, old = f"{name}_HET_GROUP_{component}", f"{name}_PACK_GROUP_{component}"
    return new if new in env or old not in env else old


class Allocation(Value):
    """What Slurm says of the job and, in a task, of the step and of this process's place in the step."""

    job_id: str
    """SLURM_JOB_ID; of a heterogeneous job that of its first component, so that all tasks agree."""
    job_nodes: tuple[str, ...]
    """The job's nodes, of all components of a heterogeneous job in order; empty when unknown."""
    array_job_id: str | None = None
    array_task_id: str | None = None
    restart_count: int = 0
    """How often the job was requeued; it keeps its id."""
    cluster_name: str = ""
    job_name: str = ""
    user: str = ""
    partition: str = ""
    job_cpus_per_node: tuple[int, ...] = ()
    """The job's CPUs on each of ``job_nodes``; empty when unknown."""
    step_id: str | None = None
    """The srun step in which this process is a task; None in batch scripts and salloc's shells."""
    step_nodes: tuple[str, ...] | None = None
    procid: int | None = None
    """Rank in the step; None outside a task."""
    localid: int | None = None
    """Rank among the step's tasks on this node; None outside a task."""
    nodeid: int | None = None
    """Index of this node in the step (not in the job); None outside a task."""
    step_tasks: int | None = None
    tasks_per_node: tuple[int, ...] = ()
    """Tasks on each node of the step, or, outside a task, of the job; empty when unknown."""
    node_name: str | None = None
    """This node's name in Slurm (SLURMD_NODENAME); None outside slurmd, as in salloc's shell."""
    is_interactive_step: bool = False
    """True in the shell that salloc starts on the first node (LaunchParameters=use_interactive_step)."""
    cpus_on_node: int | None = None
    """CPUs of this step (in the batch script, of the job) on this node."""
    mem_per_node_mib: int | None = None
    mem_per_cpu_mib: int | None = None
    mem_per_gpu_mib: int | None = None
    gpus_on_node: int | None = None
    het_size: int = 1
    """Number of components of a heterogeneous job; 1 for any other job."""
    component_ids: tuple[str, ...] = ()
    """The job ids of a heterogeneous job's components; empty for any other job."""
    het_component: int | None = None
    """The component that this node belongs to; None when unknown, and when the job has only one."""
    start_time: int | None = None
    """When the job started, in Unix seconds; Slurm sets it since 23.02."""
    launcher_port: int | None = None
    """The port on which this step's srun listens: the same in all tasks of one component."""
    launcher_ip: str = ""
    """The address of the host on which this step's srun runs."""
    end_time: float | None = None
    """When the time limit ends the job, in Unix seconds; Slurm sets it since 23.02."""
    topology_addr: str | None = None
    topology_addr_pattern: str | None = None

    @classmethod
    def from_environ(cls, env: Mapping[str, str]) -> Allocation | None:
        """Read the environment that Slurm set; None outside a job.  Raises UsageError.

        In a task, a missing or malformed rank is an error and never 0, since every process would then take
        itself for the first.
        """
        job_id = env.get("SLURM_JOB_ID", "").strip() or env.get("SLURM_JOBID", "").strip()
        if not job_id:
            return None
        _check_job_id(job_id)
        het_size = _whole_number(env, "SLURM_HET_SIZE") or _whole_number(env, "SLURM_PACK_SIZE") or 1
        components = _component_nodes(env, het_size)
        if components:
            names = [_component_variable(env, "SLURM_JOB_ID", number) for number in range(het_size)]
            component_ids = tuple(env.get(name, "").strip() for name in names)
            job_id = component_ids[0] or job_id
            job_nodes: tuple[str, ...] = tuple(dict.fromkeys(itertools.chain.from_iterable(components)))
            per_component = (
                _counts(env, _component_variable(env, "SLURM_JOB_CPUS_PER_NODE", n)) for n in range(het_size)
            )
            job_cpus = tuple(itertools.chain.from_iterable(per_component))
        else:
            component_ids = ()
            job_nodes = _hosts(env, "SLURM_JOB_NODELIST", "SLURM_NODELIST") or ()
            job_cpus = _counts(env, "SLURM_JOB_CPUS_PER_NODE")

        step_id = env.get("SLURM_STEP_ID", "").strip() or env.get("SLURM_STEPID", "").strip() or None
        interactive = step_id in _INTERACTIVE_STEPS
        if step_id in _SPECIAL_STEPS or (step_id and _is_of_another_job(env, job_nodes)):
            step_id = None
        ranks = {name: _rank(env, name) if step_id else None for name in _RANKS}
        step_nodes = _hosts(env, "SLURM_STEP_NODELIST") if step_id else None
        nodeid = ranks["SLURM_NODEID"]
        node_name = env.get("SLURMD_NODENAME", "").strip() or None
        if node_name is None and step_nodes and nodeid is not None and nodeid < len(step_nodes):
            node_name = step_nodes[nodeid]

        component = _component_of(node_name, components)

        def own(name: str) -> str:
            """This node's component's own variable: the plain one is the first component's on every node."""
            return name if component is None else _component_variable(env, name, component)

        def memory(name: str) -> int | None:
            if components and component is None and len(components) > 1:
                return None  # the plain variable may be another component's; the cgroup has the limit
            return _memory(env, own(name))

        gpus_on_node = env.get("SLURM_GPUS_ON_NODE", "").strip()
        end_time = _whole_number(env, "SLURM_JOB_END_TIME")
        return cls(
            job_id=job_id,
            job_nodes=job_nodes,
            array_job_id=env.get("SLURM_ARRAY_JOB_ID") or None,
            array_task_id=env.get("SLURM_ARRAY_TASK_ID") or None,
            restart_count=_whole_number(env, "SLURM_RESTART_COUNT") or 0,
            cluster_name=env.get("SLURM_CLUSTER_NAME", ""),
            job_name=env.get("SLURM_JOB_NAME", ""),
            user=env.get("SLURM_JOB_USER", ""),
            partition=env.get(own("SLURM_JOB_PARTITION"), env.get("SLURM_JOB_PARTITION", "")),
            job_cpus_per_node=job_cpus if len(job_cpus) == len(job_nodes) else (),
            step_id=step_id,
            step_nodes=step_nodes,
            procid=ranks["SLURM_PROCID"],
            localid=ranks["SLURM_LOCALID"],
            nodeid=nodeid,
            step_tasks=_whole_number(env, "SLURM_STEP_NUM_TASKS", least=1) if step_id else None,
            tasks_per_node=_counts(
                env, *(["SLURM_STEP_TASKS_PER_NODE"] if step_id else []), "SLURM_TASKS_PER_NODE"
            ),
            node_name=node_name,
            is_interactive_step=interactive,
            cpus_on_node=_whole_number(env, "SLURM_CPUS_ON_NODE", least=1),
            mem_per_node_mib=memory("SLURM_MEM_PER_NODE"),
            mem_per_cpu_mib=memory("SLURM_MEM_PER_CPU"),
            mem_per_gpu_mib=memory("SLURM_MEM_PER_GPU"),
            gpus_on_node=parse_gpu_count(gpus_on_node, source="SLURM_GPUS_ON_NODE") if gpus_on_node else None,
            het_size=het_size,
            component_ids=component_ids,
            het_component=component,
            start_time=_whole_number(env, "SLURM_JOB_START_TIME"),
            launcher_port=_whole_number(env, "SLURM_STEP_LAUNCHER_PORT") if step_id else None,
            launcher_ip=env.get("SLURM_LAUNCH_NODE_IPADDR", "") if step_id else "",
            end_time=float(end_time) if end_time else None,
            topology_addr=env.get("SLURM_TOPOLOGY_ADDR", "").strip() or None,
            topology_addr_pattern=env.get("SLURM_TOPOLOGY_ADDR_PATTERN", "").strip() or None,
        )

    @property
    def in_task(self) -> bool:
        """True in a task of an srun step."""
        return self.step_id is not None

    @property
    def launch(self) -> str:
        """Which launch of a step this is: the same text in all of its tasks; empty outside a task.

        Step ids begin at 0 in each job, and job ids come again when a controller is set up anew.  srun's port
        tells two launches apart without a clock, and from Slurm 23.02 the start of the job.

        >>> Allocation("7", ("n1",), step_id="0", launcher_port=42657).launch
        '0-42657'
        """
        if self.step_id is None or self.het_size > 1:  # each component has a port of its own
            return self.step_id or ""
        parts = (self.step_id, self.launcher_port, self.start_time)
        return "-".join(str(part) for part in parts if part is not None)

    @property
    def is_batch(self) -> bool:
        """True in the batch script, which runs on the job's first node only."""
        return not self.in_task and not self.is_interactive_step and self.node_name is not None

    @property
    def key(self) -> str:
        """Identifies this run of the job: its id, and for a requeued job the number of restarts.

        Each task of a job array has a job id of its own.
        """
        return f"{self.job_id}.r{self.restart_count}" if self.restart_count else self.job_id

    @property
    def shown_id(self) -> str:
        """The job's id as Slurm shows it: ARRAY_TASK for a task of an array.

        >>> Allocation("4714", (), array_job_id="4711", array_task_id="3").shown_id
        '4711_3'
        """
        array = self.array_job_id and self.array_task_id
        return f"{self.array_job_id}_{self.array_task_id}" if array else self.job_id

    @property
    def own_id(self) -> str:
        """The id that means this job and no other, for Slurm's commands.

        The last task of an array has the array's id, which means all of its tasks to scancel and `scontrol
        requeue`.  The array's variables alone are no proof: a job that a task submits inherits them.

        >>> Allocation("4711", (), array_job_id="4711", array_task_id="3").own_id
        '4711_3'
        >>> Allocation("4714", (), array_job_id="4711", array_task_id="3").own_id
        '4714'
        """
        return self.shown_id if self.array_job_id == self.job_id else self.job_id

    @property
    def number_of_node(self) -> int:
        """The place of this node among the job's, from 0."""
        return self.job_nodes.index(self.node_name) if self.node_name in self.job_nodes else self.nodeid or 0

    @property
    def first_job_node(self) -> str:
        """The job's first node, where the batch script runs."""
        if not self.job_nodes:
            raise UsageError(
                f"the nodes of job {self.job_id} are unknown: SLURM_JOB_NODELIST is not set.",
                "Pass the SLURM_* variables into the container, or give --master-ip.",
            )
        return self.job_nodes[0]

    @property
    def head_node(self) -> str:
        """The node of the head: the step's first node if the step has several, else the job's first."""
        if self.procid == 0 and self.node_name and self.step_nodes and len(self.step_nodes) > 1:
            return self.node_name  # with --distribution=arbitrary, rank 0 can be on any node
        if self.step_nodes and len(self.step_nodes) > 1:
            # The nodes of a heterogeneous step can be sorted; rank 0 is in the first component.
            first = self.job_nodes[0] if self.job_nodes else self.step_nodes[0]
            return first if self.het_size > 1 and first in self.step_nodes else self.step_nodes[0]
        return self.first_job_node

    @property
    def nodes_without_task(self) -> tuple[str, ...]:
        """The job's nodes that this step does not have; empty outside a task, and when unknown."""
        return tuple(node for node in self.job_nodes if node not in (self.step_nodes or self.job_nodes))

    @property
    def is_first_task_on_node(self) -> bool:
        """False only in a task that is not the first of its step on this node."""
        return not self.localid

    @property
    def job_cpus_here(self) -> int | None:
        """The job's CPUs on this node, of which a step or task can have fewer; None when unknown."""
        if self.node_name in self.job_nodes and self.job_cpus_per_node:
            return self.job_cpus_per_node[self.job_nodes.index(self.node_name)]
        return None

    @property
    def tasks_here(self) -> int | None:
        """The step's tasks on this node; None outside a task, and when unknown."""
        if self.nodeid is not None and self.nodeid < len(self.tasks_per_node):
            return self.tasks_per_node[self.nodeid]
        return None


_RANKS = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


def _is_of_another_job(env: Mapping[str, str], job_nodes: Sequence[str]) -> bool:
    """True when the step is another job's: sbatch and salloc, called in a task, pass its variables on."""
    step_nodes = _hosts(env, "SLURM_STEP_NODELIST")
    if not step_nodes:
        return False
    node_name = env.get("SLURMD_NODENAME", "").strip()
    return bool(job_nodes and not set(step_nodes) <= set(job_nodes)) or bool(
        node_name and node_name not in step_nodes
    )


def _rank(env: Mapping[str, str], name: str) -> int:
    rank = _whole_number(env, name)
    if rank is None:
        raise UsageError(
            f"{name} is not set although SLURM_STEP_ID is, so this task's place in its step is unknown.",
            "A container or `srun --export` may have dropped it: pass all SLURM_* variables on.",
        )
    return rank


def _check_job_id(job_id: str) -> None:
    # It becomes part of file names, so only what Slurm itself writes is accepted.
    if not re.fullmatch(r"[0-9]{1,18}", job_id):
        raise UsageError(f"SLURM_JOB_ID cannot be read: found {quoted(job_id)}, needed a job id.")


def _component_nodes(env: Mapping[str, str], het_size: int) -> list[tuple[str, ...]]:
    """The nodes of each component of a heterogeneous job; empty for any other job."""
    if het_size <= 1:
        return []
    components = []
    for n in range(het_size):
        hosts = _hosts(env, _component_variable(env, "SLURM_JOB_NODELIST", n))
        if hosts is None:
            return []
        components.append(hosts)
    return components


def _component_of(node_name: str | None, components: Sequence[Sequence[str]]) -> int | None:
    mine = [n for n, nodes in enumerate(components) if node_name in nodes]
    return mine[0] if len(mine) == 1 else None  # on a node of two components it is unknown
