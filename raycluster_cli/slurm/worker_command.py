"""One call of sbatch, squeue or scancel for worker jobs: on the head's node, or by a server elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from .answer import Run

#: How long a command may take; a busy controller answers late.
COMMAND_TIMEOUT_S = 60.0

#: Variables that change what these commands print or do.
_PREFIXES = {"squeue": "SQUEUE_", "scancel": "SCANCEL_"}


def run_for_workers(
    program: str, path: str, arguments: Sequence[str], env: Mapping[str, str], run: Run
) -> subprocess.CompletedProcess[str]:
    """Run a program that is at ``path``, with times as Unix seconds.

    Raises subprocess.TimeoutExpired after COMMAND_TIMEOUT_S, and OSError when it cannot be started.
    """
    prefix = _PREFIXES.get(program)
    plain = {name: value for name, value in env.items() if not prefix or not name.startswith(prefix)}
    if program == "squeue":
        plain["SLURM_TIME_FORMAT"] = "%s"
    return run(
        [path, *arguments],
        env=plain,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
