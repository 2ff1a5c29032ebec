"""Submitted jobs: what `raycluster submit` remembers of a job until its cluster has a record.

A small file for each job, ``<state dir>/submitted/<job id>``: with it `raycluster status` shows a pending
job and `raycluster logs` finds its output.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

KEEP_S = 30 * 86400.0


def remember(state_dir: Path, job_id: str, output: str, driver: Sequence[str]) -> str:
    """Write a job's file, and remove those older than KEEP_S.

    Returns why that failed, '' when it did not: the job is submitted all the same.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        where = state_dir / "submitted"
        where.mkdir(mode=0o700, exist_ok=True)
        text = json.dumps({"schema": 1, "when": time.time(), "output": output, "driver": [*driver]})
        fd = os.open(where / job_id, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
        for entry in os.scandir(where):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > KEEP_S:
                os.unlink(entry.path)
    except OSError as error:
        return f"{error.filename or state_dir}: {error.strerror}"
    return ""


def output_of(state_dir: Path, job_id: str) -> str:
    """The job's output file, as Slurm named it when the job was submitted; empty when unknown."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        output = json.loads((state_dir / "submitted" / job_id).read_text())["output"]
        return output if isinstance(output, str) else ""
    return ""
