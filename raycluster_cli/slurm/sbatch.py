"""The sbatch that submits worker jobs: options in, a command line out.  Nothing here runs a command."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from ..model.sbatch_words import option_value
from ..model.value import Value
from ..model.worker_group import WorkerGroup

#: Most jobs of one array: MaxArraySize is 1001 by default.
MAX_ARRAY = 1000

#: What srun gets where a worker job has several nodes: as in the batch scripts (docs/decisions/0006).
_SRUN = (
    *("srun", "--ntasks-per-node=1", "--export=ALL", "--cpu-bind=none", "--mem=0"),
    *("--kill-on-bad-exit=0", "--wait=0"),
)


class HeadJob(Value):
    """What a cluster's worker jobs take over from the job of its head."""

    key: str
    """The name of the record's directory: the job id, with the restart and the name where there are any."""
    name: str
    """The job's name in Slurm."""
    record: Path
    """The directory of the cluster's record."""
    directory: str
    """The working directory of the job."""
    raycluster: tuple[str, ...]
    """The command that starts raycluster, such as ("/home/ada/venv/bin/raycluster",)."""
    options: tuple[str, ...] = ()
    """Options of `raycluster worker` for all worker jobs: settings of the head that hold for all nodes."""

    @property
    def mark(self) -> str:
        """By which squeue tells its worker jobs from other jobs."""
        return mark_of(self.key)


def mark_of(key: str) -> str:
    """The first word of the --comment of all worker jobs of a cluster; ``key``: its record's directory.

    >>> mark_of("4711.r1")
    'raycluster:4711.r1'
    """
    return f"raycluster:{key}"


def is_marked(comment: str, mark: str) -> bool:
    """Whether a job with this comment, as squeue shows it, is one with the mark.

    >>> is_marked("raycluster:4711 of project 7", "raycluster:4711"), is_marked("mine", "raycluster:4711")
    (True, False)
    """
    return comment.partition(" ")[0] == mark


def sbatch_arguments(
    head: HeadJob, group: WorkerGroup, jobs: int, *, outputs: Path | None, excluded: Collection[str] = ()
) -> list[str]:
    """The arguments of the sbatch that submits ``jobs`` jobs of a group: an array when there are several.

    Each job of one node runs the worker in its batch step; with several nodes srun starts one on each.
    ``outputs`` is the directory of the output files; None: they are not kept.  The options of the group can
    replace name, output file and working directory; what follows them they cannot, since sbatch takes the
    last.  A comment of theirs stands behind the mark.
    """
    worker = [*head.raycluster, "worker", "--cluster", str(head.record), "--group", group.name]
    worker += [*head.options, *_options_of(group)]
    start = worker if group.nodes_per_job == 1 else [*_SRUN, *worker]
    task = "%A_%a" if jobs > 1 else "%j"
    output = f"{str(outputs).replace('%', '%%')}/{task}.out" if outputs else "/dev/null"
    return [
        "--parsable",
        f"--job-name={head.name}-{group.name}",
        f"--chdir={head.directory}",
        f"--output={output}",
        *group.sbatch,
        *_exclusion(group.sbatch, excluded),
        *([f"--array=0-{jobs - 1}"] if jobs > 1 else []),
        f"--comment={' '.join(filter(None, (head.mark, option_value(group.sbatch, 'comment'))))}",
        f"--nodes={group.nodes_per_job}",
        "--ntasks-per-node=1",
        "--no-requeue",
        "--export=ALL",
        "--wrap",
        f"exec {shlex.join(start)}",
    ]


def _options_of(group: WorkerGroup) -> list[str]:
    """What no grant of Slurm's tells the workers of a group: labels, custom resources, when they leave.

    >>> _options_of(WorkerGroup("a", 1, resources={"CPU": 2.0, "licence": 1.0}, labels={"zone": "b"}))
    ['--drain-before=60', '--labels={"zone": "b"}', '--resources={"licence": 1}']
    """
    granted = ("CPU", "GPU", "memory", "object_store_memory")
    custom = {name: int(amount) for name, amount in group.resources.items() if name not in granted}
    labels = [f"--labels={json.dumps(dict(group.labels))}"] if group.labels else []
    drain = [f"--drain-before={group.drain_before_s:g}"] if group.drain_before_s else []
    return drain + labels + ([f"--resources={json.dumps(custom)}"] if custom else [])


def job_ids(answer: str, jobs: int) -> list[str]:
    """The jobs that sbatch --parsable has submitted; empty when it says none.

    The last line is "ID" or "ID;CLUSTER", after whatever a site's plugin prints.

    >>> job_ids("hello\\n4711;tux\\n", 1), job_ids("4712\\n", 2)
    (['4711'], ['4712_0', '4712_1'])
    """
    lines = answer.split("\n") if answer.strip() else [""]
    job = next((line for line in reversed(lines) if line.strip()), "").strip().partition(";")[0]
    if not re.fullmatch(r"\d+", job, re.ASCII):
        return []
    return [job] if jobs == 1 else [f"{job}_{task}" for task in range(jobs)]


def _exclusion(words: Sequence[str], excluded: Collection[str]) -> list[str]:
    """--exclude with the hosts of the group's own, since sbatch takes only the last."""
    if not excluded:
        return []
    own = option_value(words, "exclude")
    return [f"--exclude={','.join([*([own] if own else []), *sorted(excluded)])}"]
