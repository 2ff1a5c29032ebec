"""The name of a job's output file, where `scontrol show job` leaves patterns of sbatch's --output in it.

slurmctld fills in %A, %a, %j, %u and %x; slurmstepd fills in the others and those with a width (%5j) on the
node, when it opens the file (seen with Slurm 22.05; sbatch(1), "filename pattern").  Slurm 26.05 tells the
whole name, with "(null)" for the node of a job that has none yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Slurm pads numbers to this many digits at most.
_MOST_DIGITS = 10

#: What slurmctld tells of a job that is no part of an array: its %a (NO_VAL).
_NO_TASK = "4294967294"


def output_name(pattern: str, fields: Mapping[str, str]) -> str:
    """The file that the batch step writes; '' as long as it depends on the node and the job has none.

    ``pattern``: StdOut or StdErr of `scontrol show job`, ``fields``: its other fields by name.  A pattern
    that Slurm does not know stays.

    >>> job = {"JobId": "7", "BatchHost": "gpu01", "ArrayJobId": "5", "ArrayTaskId": "3"}
    >>> output_name("/a/%N-%t-%5j-%2a-%%.out", job)
    '/a/gpu01-0-00007-03-%.out'
    >>> output_name("/a/%N.out", {"JobId": "7"}), output_name("/a/7.out", {"JobId": "7"})
    ('', '/a/7.out')
    >>> output_name("/a/(null).out", {"JobId": "7"}), output_name("/a/n1.out", {"BatchHost": "n1"})
    ('', '/a/n1.out')
    """
    host = fields.get("BatchHost", "")
    if "(null)" in pattern and not host:
        return ""
    if "%" not in pattern:
        return pattern
    if re.search(r"(?<!%)(%%)*%\d*N", pattern) and not host:
        return ""
    job = fields.get("JobId", "")
    task = fields.get("ArrayTaskId", _NO_TASK)  # of several that wait: 2-3
    values = {
        "A": fields.get("ArrayJobId", job),
        "a": task if task.isdigit() else "",
        "b": str(int(task) % 10) if task.isdigit() and task != _NO_TASK else "",
        "J": job,
        "j": job,
        "N": host.partition(".")[0],
        "n": "0",
        "s": "batch",
        "t": "0",
        "u": fields.get("UserId", "").partition("(")[0],
        "x": fields.get("JobName", ""),
        "%": "%",
    }

    def fill(match: re.Match[str]) -> str:
        value = values.get(match[2], "")
        if not value:
            return match[0]
        width = min(int(match[1] or 0), _MOST_DIGITS)
        return value.zfill(width) if value.isdigit() else value

    return re.sub(r"%(\d*)([A-Za-z%])", fill, pattern)
