"""What `raycluster submit` remembers of a job until its cluster has a record: a small file a job.

``<state dir>/submitted/<job id>`` lets status show a job that still waits, and logs find its output.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

KEEP_S = 30 * 86400.0


def remember(state_dir: Path, job_id: str, output: str, driver: Sequence[str]) -> None:
    """Write it, and forget those of a month ago.  Never raises: the job is submitted all the same."""
    with contextlib.suppress(OSError):
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


def output_of(state_dir: Path, job_id: str) -> str:
    """The job's output file as Slurm named it at its submission; empty when not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((state_dir / "submitted" / job_id).read_text())["output"])
    return ""
