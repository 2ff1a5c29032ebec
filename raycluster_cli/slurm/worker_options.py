"""sbatch's options for the worker jobs of --max-nodes: those of the head's job, less what is its alone.

A worker job has one node and one task, so what the head's job asks for each node in several tasks becomes
one task's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..model.sbatch_words import Pair, option_pairs, option_word
from .quantities import parse_counts

#: Options of the head's job that its worker jobs do not get, and why.
HEAD_ONLY = {
    # what the worker jobs have of their own
    **dict.fromkeys(
        (
            "job-name",
            "output",
            "error",
            "input",
            "open-mode",
            "chdir",
            "export",
            "export-file",
            "get-user-env",
        ),
        "raycluster sets it for each worker job",
    ),
    **dict.fromkeys(
        (
            *("nodes", "ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-socket", "ntasks-per-gpu"),
            *("array", "nodefile", "use-min-nodes", "spread-job", "switches", "contiguous", "tres-per-task"),
            *("segment", "spread-segments", "consolidate-segments"),
            *(
                "overcommit",
                "extra-node-info",
                "distribution",
                "no-kill",
                "gpus",
                "gpus-per-task",
                "gpu-bind",
            ),
        ),
        "a worker job has one node and one task",
    ),
    # hosts and times that were chosen for the head's job
    **dict.fromkeys(("nodelist", "batch", "reboot", "wait-all-nodes"), "it names hosts of the head's job"),
    **dict.fromkeys(
        (
            "dependency",
            "begin",
            "hold",
            "deadline",
            "delay-boot",
            "kill-on-invalid-dep",
            "signal",
            "clusters",
        ),
        "a worker job is submitted when it is needed",
    ),
    **dict.fromkeys(
        ("requeue", "no-requeue"), "a worker job that ended is submitted again when it is needed"
    ),
    # what only the person who submits wants
    **dict.fromkeys(
        (
            *("wrap", "wait", "parsable", "test-only", "quiet", "verbose", "help", "usage", "version"),
            *("mail-type", "mail-user", "bb", "bbf", "uid", "gid", "ignore-pbs", "profile", "acctg-freq"),
        ),
        "it is for the job that a person submits",
    ),
}

#: Variables that sbatch reads in place of an option (sbatch(1), INPUT ENVIRONMENT VARIABLES).
INPUT_VARIABLES = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_CORE_SPEC": "core-spec",
    "SBATCH_CPUS_PER_GPU": "cpus-per-gpu",
    "SBATCH_CPUS_PER_TASK": "cpus-per-task",
    "SBATCH_EXCLUSIVE": "exclusive",
    "SBATCH_GPUS": "gpus",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_GPUS_PER_TASK": "gpus-per-task",
    "SBATCH_GRES": "gres",
    "SBATCH_GRES_FLAGS": "gres-flags",
    "SBATCH_MEM_PER_CPU": "mem-per-cpu",
    "SBATCH_MEM_PER_GPU": "mem-per-gpu",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_THREAD_SPEC": "thread-spec",
    "SBATCH_THREADS_PER_CORE": "threads-per-core",
    "SBATCH_TIMELIMIT": "time",
}

#: Options of which sbatch takes one: an option that is given replaces the variable of another.
_ONE_OF = (frozenset(("mem", "mem-per-cpu", "mem-per-gpu")), frozenset(("core-spec", "thread-spec")))


def options_for_workers(words: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
    """The options of a worker job, each one word, for a job that is submitted with ``words``.

    ``env``: the environment of that sbatch, whose SBATCH_ variables stand for options that are not given.

    >>> options_for_workers(["-N", "1", "-p", "gpu", "--gpus-per-node", "4", "-t", "1:00:00", "-J", "a"])
    ['--partition=gpu', '--gpus-per-node=4', '--time=1:00:00']
    >>> options_for_workers(["-N2", "--ntasks-per-node=4", "-c2", "--gpus=8"])
    ['--cpus-per-task=8', '--gpus-per-node=4']
    """
    given: dict[str, str | None] = {}
    for name, value in option_pairs(words):
        given.pop(name, None)  # of an option given twice the last one counts, where it stands
        given[name] = value
    for variable, name in INPUT_VARIABLES.items():
        others = next((names for names in _ONE_OF if name in names), frozenset((name,)))
        if (value := (env or {}).get(variable)) and others.isdisjoint(given):
            given[name] = None if name == "exclusive" and value in ("exclusive", "1") else value
    nodes, tasks = _nodes(given), _tasks_per_node(given)
    kept: list[Pair] = [
        (name, _times(value, tasks) if name == "cpus-per-task" and value else value)
        for name, value in given.items()
        if name not in HEAD_ONLY
    ]
    if "cpus-per-task" not in given and tasks > 1:
        kept.append(("cpus-per-task", str(tasks)))
    if "gpus-per-node" not in given:
        if given.get("gpus"):
            kept.append(("gpus-per-node", _divided(given["gpus"] or "", nodes)))
        elif given.get("gpus-per-task"):
            kept.append(("gpus-per-node", _times(given["gpus-per-task"] or "", tasks)))
    return [option_word(name, value) for name, value in kept]


def options_of_job(env: Mapping[str, str]) -> list[str]:
    """The same from within the head's job, by the variables that Slurm sets there.

    They do not tell all: a constraint, for example, is not among them.

    >>> options_of_job({"SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
    ...     "SLURM_MEM_PER_NODE": "4096", "SLURM_GPUS_ON_NODE": "2",
    ...     "SLURM_JOB_START_TIME": "1000", "SLURM_JOB_END_TIME": "4600"})
    ['--partition=gpu', '--time=60', '--cpus-per-task=8', '--mem=4096', '--gres=gpu:2']
    """
    found: list[Pair] = [
        (name, env[variable])
        for name, variable in (
            ("partition", "SLURM_JOB_PARTITION"),
            ("account", "SLURM_JOB_ACCOUNT"),
            ("qos", "SLURM_JOB_QOS"),
            ("reservation", "SLURM_JOB_RESERVATION"),
        )
        if env.get(variable)
    ]
    begin, end = env.get("SLURM_JOB_START_TIME", ""), env.get("SLURM_JOB_END_TIME", "")
    if begin.isdigit() and end.isdigit() and 0 < int(end) - int(begin) < 366 * 86400:
        found.append(("time", str(math.ceil((int(end) - int(begin)) / 60))))
    if cpus := env.get("SLURM_JOB_CPUS_PER_NODE", ""):
        found.append(("cpus-per-task", str(parse_counts(cpus, source="SLURM_JOB_CPUS_PER_NODE")[0])))
    for name, variable in (
        ("mem", "SLURM_MEM_PER_NODE"),
        ("mem-per-cpu", "SLURM_MEM_PER_CPU"),
        ("mem-per-gpu", "SLURM_MEM_PER_GPU"),
    ):
        if (
            env.get(variable, "0") != "0"
        ):  # srun --mem=0 means all that the job has, sbatch --mem=0 the whole node
            found.append((name, env[variable]))
            break
    gpus = env.get("SLURM_GPUS_ON_NODE", "")
    if gpus.isdigit() and int(gpus):
        found.append(("gres", f"gpu:{gpus}"))
    return [option_word(name, value) for name, value in found]


def _number(text: str | None, default: int = 1) -> int:
    digits = (text or "").partition("-")[0]
    return int(digits) if digits.isdigit() and int(digits) else default


def _nodes(given: Mapping[str, str | None]) -> int:
    return _number(given.get("nodes"))


def _tasks_per_node(given: Mapping[str, str | None]) -> int:
    if given.get("ntasks-per-node"):
        return _number(given["ntasks-per-node"])
    return math.ceil(_number(given.get("ntasks")) / _nodes(given))


def _times(text: str, factor: int) -> str:
    """An amount, of a type or not, multiplied.

    >>> _times("a100:2", 4), _times("2", 1), _times("all", 2)
    ('a100:8', '2', 'all')
    """
    kind, colon, number = text.rpartition(":")
    return f"{kind}{colon}{int(number) * factor}" if number.isdigit() else text


def _divided(text: str, by: int) -> str:
    """An amount of all nodes as one node's, rounded up.

    >>> _divided("a100:8", 2), _divided("3", 2)
    ('a100:4', '2')
    """
    kind, colon, number = text.rpartition(":")
    return f"{kind}{colon}{math.ceil(int(number) / by)}" if number.isdigit() else text
