"""sbatch's options that people give to `raycluster submit`: for help, completion and suggestions.

All others are passed to sbatch too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

#: (option, short form, value, help): sbatch(1), those that matter to a Ray cluster.
COMMON = (
    ("--nodes", "-N", "N", "Number of nodes; the first is the head."),
    ("--time", "-t", "TIME", "Time limit: minutes, HH:MM:SS or D-HH:MM:SS."),
    ("--partition", "-p", "NAME", "Partition."),
    ("--account", "-A", "NAME", "Account that is charged."),
    ("--qos", "-q", "NAME", "Quality of service."),
    ("--exclusive", "", "", "Whole nodes: all CPUs, no other jobs."),
    ("--cpus-per-task", "-c", "N", "CPUs on each node."),
    ("--mem", "", "SIZE", "Memory on each node, such as 64G; 0 is all of it."),
    ("--gpus-per-node", "", "N", "GPUs on each node, also as TYPE:N."),
    ("--gres", "", "LIST", "Other resources on each node, such as gpu:2."),
    ("--constraint", "-C", "LIST", "Features that the nodes must have."),
    ("--nodelist", "-w", "LIST", "Nodes to use."),
    ("--exclude", "-x", "LIST", "Nodes not to use."),
    ("--job-name", "-J", "NAME", "Name of the job (default: the driver's)."),
    ("--output", "-o", "FILE", "Output file (default: NAME-JOB.out)."),
    ("--error", "-e", "FILE", "File for stderr (default: the output file)."),
    ("--chdir", "-D", "DIR", "Working directory of the job."),
    ("--dependency", "-d", "LIST", "Start after other jobs, such as afterok:4711."),
    ("--begin", "-b", "TIME", "Start no earlier than TIME."),
    ("--reservation", "", "NAME", "Reservation to use."),
    ("--export", "", "LIST", "Environment variables that the job gets."),
    ("--signal", "", "SIG@SECS", "Signal before the time limit."),
    ("--requeue", "", "", "Slurm may requeue the job."),
    ("--mail-type", "", "LIST", "When to send mail: BEGIN, END, FAIL, ALL."),
)

#: Further long options, for suggestions.
_OTHERS = (
    *("--acctg-freq", "--array", "--batch", "--bb", "--cluster-constraint", "--clusters", "--comment"),
    *("--contiguous", "--core-spec", "--cores-per-socket", "--cpu-freq", "--cpus-per-gpu", "--deadline"),
    *("--delay-boot", "--distribution", "--exclude-user", "--export-file", "--extra-node-info", "--gid"),
    *("--gpu-bind", "--gpu-freq", "--gpus", "--gpus-per-socket", "--gpus-per-task", "--gres-flags", "--hint"),
    *(
        "--hold",
        "--ignore-pbs",
        "--input",
        "--kill-on-invalid-dep",
        "--licenses",
        "--mail-user",
        "--mcs-label",
    ),
    *("--mem-bind", "--mem-per-cpu", "--mem-per-gpu", "--mincpus", "--network", "--nice", "--no-kill"),
    *("--no-requeue", "--nodefile", "--ntasks", "--ntasks-per-core", "--ntasks-per-gpu", "--ntasks-per-node"),
    *("--ntasks-per-socket", "--open-mode", "--overcommit", "--oversubscribe", "--prefer", "--priority"),
    *("--profile", "--propagate", "--reboot", "--sockets-per-node", "--spread-job", "--switches"),
    *(
        "--test-only",
        "--thread-spec",
        "--threads-per-core",
        "--time-min",
        "--tmp",
        "--uid",
        "--use-min-nodes",
    ),
    *("--verbose", "--wait-all-nodes", "--wckey", "--wrap"),
)

KNOWN = (*(name for name, *_ in COMMON), *_OTHERS)


def suggestion(refusal: str, own: Iterable[str]) -> str:
    """What was meant by the option that sbatch refused in these words; '' when nothing is like it.

    >>> suggestion("sbatch: unrecognized option '--folow'", ["--follow"])
    'Did you mean --follow?'
    """
    match = re.search(r"unrecognized option '?(--[\w-]+)", refusal)
    near = get_close_matches(match[1], sorted({*own, *KNOWN}), 1, 0.75) if match else []
    return f"Did you mean {near[0]}?" if near else ""
