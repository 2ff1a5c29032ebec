"""What the shell offers for JOB and --node: from the records, and a squeue that must be quick."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: A person waits after Tab; a controller that is slower is left out.
SQUEUE_TIMEOUT_S = 1.5

MOST = 30


def complete_job(incomplete: str) -> Iterable[tuple[str, str]]:
    """(job, what it is), those that run first.  Never raises: the shell would show the traceback."""
    try:
        return _jobs(incomplete)
    except Exception:
        return []


def complete_node(ctx: Any, incomplete: str) -> Iterable[tuple[str, str]]:
    """(host, what it is) of the JOB on the line."""
    try:
        from ..ops.reader import find_record

        env = dict(os.environ)
        record = find_record(_state_dir(ctx.params.get("directory")), ctx.params.get("job") or "", env)
        words = record.read_nodes().values()
        return [
            (word.host, f"{word.role}, {word.phase}") for word in words if word.host.startswith(incomplete)
        ]
    except Exception:
        return []


def complete_component(incomplete: str) -> list[str]:
    return [name for name in ("driver", "raycluster", "raylet", "gcs") if name.startswith(incomplete)]


def _jobs(incomplete: str) -> list[tuple[str, str]]:
    from ..slurm.queue import query_jobs
    from ..state.catalogue import list_records
    from ..system.report import command_text

    def quickly(*words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(*words, **{**options, "timeout": SQUEUE_TIMEOUT_S})

    where = _state_dir(None)
    records = [record for record in list_records(where) if record.path.name.startswith(incomplete)][:MOST]
    running: list[tuple[str, str]] = []
    ended: list[tuple[str, str]] = []
    for record in records:
        end, head = record.read_end(), record.read_head()
        driver = command_text(head.driver, 60) if head else ""
        if end is None:
            running.append((record.path.name, f"no end yet: {driver}" if driver else "no end yet"))
        else:
            ended.append((record.path.name, f"ended with {end.exit_code}: {driver}"))
    known = {record.job_id for record in records}
    for job in (query_jobs(os.environ, run=quickly) or {}).values():
        is_mine = (where / "submitted" / job.id).exists()
        if job.is_waiting and job.id not in known and is_mine and job.id.startswith(incomplete):
            running.append((job.id, f"waits: {job.name}"))
    return [*running, *ended]


def _state_dir(given: object) -> Path:
    text = str(given or os.environ.get("RAYCLUSTER_STATE_DIR") or "~/.raycluster")
    return Path(text).expanduser()
