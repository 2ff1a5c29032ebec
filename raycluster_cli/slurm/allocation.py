"""Slurm's words read from text: hostlists, counts, memory, GPUs, and the allocation.

Everything here is text in, value out.  Nothing runs a command: ``scontrol`` is often
missing inside containers, and one call a node does not scale.  The facts about the
variables come from srun(1), sbatch(1), salloc(1) and from environments recorded on
real Slurm (tests/data/slurm-env).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..model.errors import UsageError

MAX_HOSTS = 65536
"""No hostlist or list of counts expands to more: Slurm's own limit for one range (MAX_RANGE)."""

_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)
_COUNT = re.compile(r"(\d{1,9})(?:\(x(\d{1,9})\))?", re.ASCII)
_MEMORY = re.compile(r"(\d{1,15})([KMGT]?)", re.ASCII | re.IGNORECASE)
_GPUS_OF_TYPE = re.compile(r"(?:[A-Za-z0-9._-]+:)?(\d{1,6})", re.ASCII)
_GPU_RESOURCE = re.compile(r"gpu(?::(?!\d+$)[A-Za-z0-9._-]+)?(?::(\d{1,6}))?", re.ASCII)
_NUMBERED = re.compile(r"(.*?)(\d{1,18})((?:\.\D*)?)", re.ASCII)
_NAME_CHARACTERS = re.compile(r"[A-Za-z0-9._-]*")
_HOSTLIST_TOKEN = re.compile(r"\[[^\[\]]*\]|[^\[\],\s]+|\s*,\s*|\s+|[\[\]]")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_PARENTHESES = re.compile(r"\([^()]*\)")

_HOSTLIST_NEEDED = "a Slurm host list such as tux[01-03,7],login1"
_COUNTS_NEEDED = "counts as Slurm writes them, such as 72(x2),36"

# Step ids that are not an srun's (slurm.h: SLURM_BATCH_SCRIPT and its neighbours), as number or by name.
_INTERACTIVE_STEPS = frozenset({"4294967290", "interactive"})
_SPECIAL_STEPS = _INTERACTIVE_STEPS | {"4294967291", "4294967292", "4294967293", "batch", "extern", "pending"}

_Fail = Callable[[str], UsageError]


def _malformed(source: str, text: str, why: str, needed: str) -> UsageError:
    return UsageError(f"{source} cannot be read: found {_quoted(text)} ({why}), needed {needed}.")


def _quoted(text: str) -> str:
    """The text as it may stand in a one-line message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


# --- hostlists -----------------------------------------------------------------------------------


def parse_hostlist(text: str, *, source: str = "node list") -> list[str]:
    """Expand a hostlist, as ``scontrol show hostnames`` does and in its order.

    >>> parse_hostlist("tux[001-003,07],login1")
    ['tux001', 'tux002', 'tux003', 'tux07', 'login1']
    >>> parse_hostlist("rack[0-1]_blade[0-1]")
    ['rack0_blade0', 'rack0_blade1', 'rack1_blade0', 'rack1_blade1']
    >>> parse_hostlist("gpu[9-10].example.org")
    ['gpu9.example.org', 'gpu10.example.org']

    Suffixes after the last bracket are read, although scontrol 22.05 refuses them.
    What scontrol reads by guessing (``n[1``, ``n[1-]``, ``n1,,n2``) is refused.
    Raises UsageError, in whose message ``source`` names the variable or option.
    """

    def fail(why: str) -> UsageError:
        return _malformed(source, text, why, _HOSTLIST_NEEDED)

    hosts: list[str] = []
    for word in _hostlist_words(text, fail):
        hosts.extend(_expand_word(word, MAX_HOSTS - len(hosts), fail))
    return hosts


def _hostlist_words(text: str, fail: _Fail) -> list[str]:
    """Split at the commas, blanks and line ends that stand outside of brackets."""
    words = [""]
    for token in _HOSTLIST_TOKEN.findall(text.strip()):
        if token in ("[", "]"):
            raise fail("a bracket without its partner, or one inside another")
        if token.strip() in ("", ","):
            words.append("")
        else:
            words[-1] += token
    if "" in words:
        raise fail("it is empty" if len(words) == 1 else "a name between commas is empty")
    return words


def _expand_word(word: str, room: int, fail: _Fail) -> Iterator[str]:
    """The hosts of one comma-free word: text and brackets in turns."""
    parts = _BRACKETS.split(word)
    texts, brackets = parts[0::2], parts[1::2]
    for piece in texts:
        if not _NAME_CHARACTERS.fullmatch(piece):
            raise fail("a host name has letters, digits, '.', '_' and '-' only")
    ranges = [_parse_bracket(bracket, fail) for bracket in brackets]
    if math.prod(sum(len(numbers) for numbers, _ in bracket) for bracket in ranges) > room:
        raise fail(f"more than {MAX_HOSTS} hosts")
    values = [[f"{n:0{width}d}" for numbers, width in bracket for n in numbers] for bracket in ranges]
    # Slurm's order: the last bracket turns fastest, then the first, the second and so on.
    for turn in itertools.product(*reversed(values[:-1]), *values[-1:]):
        chosen = (*reversed(turn[:-1]), *turn[-1:])
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(texts, chosen, fillvalue="")))


def _parse_bracket(bracket: str, fail: _Fail) -> list[tuple[range, int]]:
    """Ranges of numbers with the width to which they are padded: that of the low end, as in Slurm."""
    ranges = []
    for item in bracket.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise fail(f"{_quoted(bracket)} is not made of numbers and ranges")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise fail(f"the range {_quoted(item)} runs backwards")
        if high - low >= MAX_HOSTS:
            raise fail(f"more than {MAX_HOSTS} hosts")
        ranges.append((range(low, high + 1), len(match[1])))
    return ranges


def format_hostlist(hosts: Sequence[str]) -> str:
    """The shortest plain hostlist of these hosts in this order, for messages and for ``-w``.

    >>> format_hostlist(["n1", "n2", "n3", "n7", "login"])
    'n[1-3,7],login'
    >>> format_hostlist(["n08", "n09", "n10"])
    'n[08-10]'
    """
    words: list[str] = []
    for (prefix, suffix, numbered), group in itertools.groupby(
        map(_split_number, hosts), key=lambda n: n[:3]
    ):
        numbers = [number for *_, number in group]
        if numbered and len(numbers) > 1:
            words.append(f"{prefix}[{','.join(_number_ranges(numbers))}]{suffix}")
        else:
            words.extend(f"{prefix}{number}{suffix}" for number in numbers)
    return ",".join(words)


def _split_number(host: str) -> tuple[str, str, bool, str]:
    """Prefix, suffix, whether there is a number between them, and the number."""
    match = _NUMBERED.fullmatch(host)
    return (match[1], match[3], True, match[2]) if match else (host, "", False, "")


def _number_ranges(numbers: Sequence[str]) -> list[str]:
    ranges: list[list[str]] = []
    for number in numbers:
        if ranges and number == f"{int(ranges[-1][-1]) + 1:0{len(ranges[-1][0])}d}":
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return [r[0] if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ranges]


# --- counts, memory, GPUs -------------------------------------------------------------------------


def parse_counts(text: str, *, source: str = "count list") -> list[int]:
    """Expand counts per node, as in SLURM_JOB_CPUS_PER_NODE and SLURM_TASKS_PER_NODE.

    >>> parse_counts("72(x2),36")
    [72, 72, 36]
    """
    counts: list[int] = []
    for item in text.strip().split(","):
        match = _COUNT.fullmatch(item)
        if match is None:
            raise _malformed(source, text, f"{_quoted(item)} is not a count", _COUNTS_NEEDED)
        times = int(match[2] or 1)
        if times == 0:
            raise _malformed(source, text, f"{_quoted(item)} stands for no node", _COUNTS_NEEDED)
        if len(counts) + times > MAX_HOSTS:
            raise _malformed(source, text, f"more than {MAX_HOSTS} nodes", _COUNTS_NEEDED)
        counts.extend([int(match[1])] * times)
    return counts


def parse_memory_mib(text: str, *, source: str = "memory") -> int:
    """Memory in MiB: a plain number is MiB, K, M, G and T are binary, kibibytes are rounded up.

    >>> [parse_memory_mib(text) for text in ("4000", "4000M", "2G", "1T", "1500K")]
    [4000, 4000, 2048, 1048576, 2]
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise _malformed(source, text, "not a size", "MiB, or a number with K, M, G or T, such as 4000 or 4G")
    number, unit = int(match[1]), match[2].upper()
    if unit == "K":
        return -(-number // 1024)
    return number * {"": 1, "M": 1, "G": 1024, "T": 1024**2}[unit]


def parse_gpu_count(text: str, *, source: str = "GPU count") -> int:
    """How many GPUs a count, a typed count, a list of generic resources or of TRES names.

    >>> [parse_gpu_count(text) for text in ("2", "a100:4", "gpu:a100:4(S:0-1)", "gpu:2,gpu:v100:1")]
    [2, 4, 4, 3]
    >>> [parse_gpu_count(text) for text in ("gpu", "nvme:1,gpu:2", "cpu=1,gres/gpu=2", "(null)")]
    [1, 2, 2, 0]

    Where an item begins with ``gpu`` only such items count; else each is ``type:count``.
    ``cpu=4,gres/gpu:a100=2,gres/gpu=2`` (TRES) lists the same GPUs twice: the untyped item is the sum.
    """
    needed = "a number of GPUs such as 2, a100:4 or gpu:a100:4"
    if text.strip() in ("(null)", "N/A"):
        return 0
    items = _PARENTHESES.sub("", text.strip()).split(",")
    if any("=" in item for item in items):
        return _tres_gpu_count(items, source, text, needed)
    items = [re.sub(r"^gres[/:]", "", item) for item in items]
    only_gpus = any(re.match(r"gpu(:|$)", item) for item in items)
    total = 0
    for item in items:
        if only_gpus and item.partition(":")[0] != "gpu":
            continue
        match = (_GPU_RESOURCE if only_gpus else _GPUS_OF_TYPE).fullmatch(item)
        if match is None:
            raise _malformed(source, text, f"{_quoted(item)} is not a count of GPUs", needed)
        total += int(match[1] or 1)  # gpu, gpu:a100: one is meant
    return total


def _tres_gpu_count(items: Sequence[str], source: str, text: str, needed: str) -> int:
    """GPUs of ``gres/gpu:a100=2,gres/gpu=2``: the untyped item is the sum.  23.11 wrote ``gres:gpu:2``."""
    typed, untyped = 0, None
    for item in items:
        name, _, count = re.sub(r"^(gres:gpu(?::[^:=]+)?):(\d+)$", r"\1=\2", item).rpartition("=")
        name = name.replace("gres:", "gres/", 1)
        if name != "gres/gpu" and not name.startswith("gres/gpu:"):
            continue
        if not (count.isascii() and count.isdigit()):
            raise _malformed(source, text, f"{_quoted(item)} is not a count of GPUs", needed)
        if name == "gres/gpu":
            untyped = int(count[:9])
        else:
            typed += int(count[:9])
    return typed if untyped is None else untyped


# --- the allocation -------------------------------------------------------------------------------


def _whole_number(env: Mapping[str, str], name: str, *, least: int = 0) -> int | None:
    """The number in a variable, None where it is unset or empty; UsageError where it is no number."""
    text = env.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) < least:
        raise UsageError(
            f"{name} cannot be read: found {_quoted(env[name])}, needed a whole number of at least {least}.",
            "Slurm sets it; a job script or a profile may have overwritten it.",
        )
    return int(text)


def _memory(env: Mapping[str, str], name: str) -> int | None:
    """MiB, None where unset or 0: then Slurm grants all of the node and only the cgroup tells how much."""
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
    """The name of a component's own variable: HET since 20.02, PACK before (and beside it until today)."""
    new, old = f"{name}_HET_GROUP_{component}", f"{name}_PACK_GROUP_{component}"
    return new if new in env or old not in env else old


@dataclass(frozen=True)
class Allocation:
    """What Slurm says of the job and, in a task, of the step and of this process's place in it."""

    job_id: str
    """SLURM_JOB_ID; of a heterogeneous job that of its first component, so that all tasks agree."""
    job_nodes: tuple[str, ...]
    """The job's nodes, all components of a heterogeneous job in order; empty where Slurm does not tell."""
    array_job_id: str | None = None
    array_task_id: str | None = None
    restart_count: int = 0
    """How often the job was requeued: it keeps its id."""
    cluster_name: str = ""
    job_name: str = ""
    user: str = ""
    partition: str = ""
    submit_dir: str = ""
    job_cpus_per_node: tuple[int, ...] = ()
    """The job's CPUs on each of job_nodes; empty where unknown."""
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
    """Tasks on each node of the step, outside a task on each of the job's; empty where unknown."""
    node_name: str | None = None
    """This node's name in Slurm (SLURMD_NODENAME); None where no slurmd started us, as in salloc's shell."""
    is_interactive_step: bool = False
    """In the shell that salloc starts on the first node (LaunchParameters=use_interactive_step)."""
    cpus_on_node: int | None = None
    """CPUs of this step (in the batch script: of the job) on this node."""
    cpus_per_task: int | None = None
    mem_per_node_mib: int | None = None
    mem_per_cpu_mib: int | None = None
    mem_per_gpu_mib: int | None = None
    gpus_on_node: int | None = None
    gpus_per_task: int | None = None
    """GPUs asked for each task: each task then sees its own only."""
    het_size: int = 1
    """Components of a heterogeneous job; 1 for any other."""
    het_component: int | None = None
    """The component that this node belongs to; None where it cannot be told or the job has one only."""
    end_time: float | None = None
    """Unix seconds of the time limit; Slurm exports it since 23.02."""
    launch_node_ip: str | None = None
    """Address of the host that ran srun, as the nodes see it."""
    topology_addr: str | None = None
    topology_addr_pattern: str | None = None

    @classmethod
    def from_environ(cls, env: Mapping[str, str]) -> Allocation | None:
        """Read the environment that Slurm gave; None where there is no job.

        In a task, a rank that is missing or unreadable is a UsageError and never 0:
        every process would take itself for the first.
        """
        job_id = env.get("SLURM_JOB_ID", "").strip() or env.get("SLURM_JOBID", "").strip()
        if not job_id:
            return None
        _check_job_id(job_id)
        het_size = _whole_number(env, "SLURM_HET_SIZE") or _whole_number(env, "SLURM_PACK_SIZE") or 1
        components = _component_nodes(env, het_size)
        if components:
            leader = env.get(_component_variable(env, "SLURM_JOB_ID", 0), "").strip()
            job_id = leader or job_id
            job_nodes: tuple[str, ...] = tuple(dict.fromkeys(itertools.chain.from_iterable(components)))
            per_component = (
                _counts(env, _component_variable(env, "SLURM_JOB_CPUS_PER_NODE", n)) for n in range(het_size)
            )
            job_cpus = tuple(itertools.chain.from_iterable(per_component))
        else:
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
            """The variable of this node's component: the plain one is the first component's everywhere."""
            return name if component is None else _component_variable(env, name, component)

        def memory(name: str) -> int | None:
            if components and component is None and len(components) > 1:
                return None  # whose figure the plain variable holds cannot be told: the cgroup knows
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
            submit_dir=env.get("SLURM_SUBMIT_DIR", ""),
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
            cpus_per_task=_whole_number(env, own("SLURM_CPUS_PER_TASK"), least=1),
            mem_per_node_mib=memory("SLURM_MEM_PER_NODE"),
            mem_per_cpu_mib=memory("SLURM_MEM_PER_CPU"),
            mem_per_gpu_mib=memory("SLURM_MEM_PER_GPU"),
            gpus_on_node=parse_gpu_count(gpus_on_node, source="SLURM_GPUS_ON_NODE") if gpus_on_node else None,
            gpus_per_task=_gpus_per_task(env, own),
            het_size=het_size,
            het_component=component,
            end_time=float(end_time) if end_time else None,
            launch_node_ip=env.get("SLURM_LAUNCH_NODE_IPADDR", "").strip() or None,
            topology_addr=env.get("SLURM_TOPOLOGY_ADDR", "").strip() or None,
            topology_addr_pattern=env.get("SLURM_TOPOLOGY_ADDR_PATTERN", "").strip() or None,
        )

    @property
    def in_task(self) -> bool:
        """True in a task of an srun step."""
        return self.step_id is not None

    @property
    def is_batch(self) -> bool:
        """True in the batch script, which runs on the job's first node only."""
        return not self.in_task and not self.is_interactive_step and self.node_name is not None

    @property
    def key(self) -> str:
        """What tells this run of the job from all others: job id, and the restart of a requeued one.

        Each task of an array has a job id of its own.
        """
        return f"{self.job_id}.r{self.restart_count}" if self.restart_count else self.job_id

    @property
    def first_job_node(self) -> str:
        """The job's first node, where the batch script runs."""
        if not self.job_nodes:
            raise UsageError(
                f"the nodes of job {self.job_id} are not known: found no SLURM_JOB_NODELIST, needed it.",
                "Pass SLURM_* into the container, or give --master-ip.",
            )
        return self.job_nodes[0]

    @property
    def head_node(self) -> str:
        """Where the head is expected: on the first node of the step when it has several, else of the job."""
        if self.procid == 0 and self.node_name and self.step_nodes and len(self.step_nodes) > 1:
            return self.node_name  # with --distribution=arbitrary rank 0 may be on another than the first
        if self.step_nodes and len(self.step_nodes) > 1:
            # Of a heterogeneous step the nodes may be sorted; rank 0 is in the first component.
            first = self.job_nodes[0] if self.job_nodes else self.step_nodes[0]
            return first if self.het_size > 1 and first in self.step_nodes else self.step_nodes[0]
        return self.first_job_node

    @property
    def is_first_task_on_node(self) -> bool:
        """False only in a task that shares its node with another of the step and is not the first there."""
        return not self.localid

    @property
    def job_cpus_here(self) -> int | None:
        """The job's CPUs on this node, of which a step or a task may have fewer; None where unknown."""
        if self.node_name in self.job_nodes and self.job_cpus_per_node:
            return self.job_cpus_per_node[self.job_nodes.index(self.node_name)]
        return None

    @property
    def tasks_here(self) -> int | None:
        """The step's tasks on this node; None outside a task and where unknown."""
        if self.nodeid is not None and self.nodeid < len(self.tasks_per_node):
            return self.tasks_per_node[self.nodeid]
        return None


_RANKS = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


def _is_of_another_job(env: Mapping[str, str], job_nodes: Sequence[str]) -> bool:
    """True where the step is another job's: sbatch and salloc, called in a task, hand its variables on."""
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
            f"{name} is missing in a task of an srun step: found SLURM_STEP_ID without it, "
            "needed this task's place in the step.",
            "A container or 'srun --export' may have dropped it: pass all of SLURM_* on.",
        )
    return rank


def _check_job_id(job_id: str) -> None:
    # It becomes part of file names, so nothing but what Slurm writes is let in.
    if not re.fullmatch(r"[0-9]{1,18}", job_id):
        raise UsageError(f"SLURM_JOB_ID cannot be read: found {_quoted(job_id)}, needed a job's number.")


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
    return mine[0] if len(mine) == 1 else None  # a node of two components: the variables cannot tell


def _gpus_per_task(env: Mapping[str, str], own: Callable[[str], str]) -> int | None:
    """From SLURM_GPUS_PER_TASK (until 23.02) or SLURM_TRES_PER_TASK (since 23.11)."""
    text = env.get(own("SLURM_GPUS_PER_TASK"), "").strip()
    if text:
        return parse_gpu_count(text, source=own("SLURM_GPUS_PER_TASK"))
    text = env.get(own("SLURM_TRES_PER_TASK"), "").strip()
    return (parse_gpu_count(text, source=own("SLURM_TRES_PER_TASK")) or None) if "gpu" in text else None
