"""Shell completion: jobs and nodes from the records and a squeue that answers quickly; values of options."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

#: A person waits after Tab; a controller that is slower is left out.
SQUEUE_TIMEOUT_S = 1.5

#: Records that are offered.
MOST = 30


def complete_job(incomplete: str) -> Iterable[tuple[str, str]]:
    """(job, description), those that run first.  Never raises: the shell would show the traceback."""
    try:
        return _jobs(incomplete)
    except Exception:
        return []


def complete_live_job(incomplete: str) -> Iterable[tuple[str, str]]:
    """As complete_job, for commands that are of no use once the cluster has ended."""
    try:
        return _jobs(incomplete, only_live=True)
    except Exception:
        return []


def complete_node(ctx: Any, incomplete: str) -> Iterable[tuple[str, str]]:
    """(host, description) of the JOB on the line."""
    try:
        from ..model.text import printable
        from ..ops.clusters import find_record

        env = dict(os.environ)
        record = find_record(_state_dir(ctx.params.get("directory")), ctx.params.get("job") or "", env)
        found = [
            (printable(report.host), printable(f"{report.role}, {report.phase}"))
            for report in record.read_nodes().values()
            if report.host.startswith(incomplete)
        ]
        head = record.read_head()
        if head is not None and head.worker_groups:
            from ..ops.groups import read_groups

            jobs = [job for group in read_groups(record.path) for job in group.jobs]
            found += [
                (job.job_id, printable(f"worker job of {job.group}, {job.state}"))
                for job in jobs
                if job.job_id.startswith(incomplete)
            ]
        return found
    except Exception:
        return []


def complete_one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """A function that offers these words.

    >>> complete_one_of(("always", "on-failure", "never"))("n")
    ['never']
    """
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def complete_state(incomplete: str) -> list[str]:
    """States of clusters, after those that are on the line already: failed,lo."""
    from ..model.cluster_status import ClusterPhase

    before, comma, begun = incomplete.rpartition(",")
    states = (phase.value.replace(" ", "-") for phase in ClusterPhase)
    return [f"{before}{comma}{state}" for state in states if state.startswith(begun)]


def complete_profile(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """(profile, the file that has it), of the configuration files and that of --config."""
    try:
        from ..config.profiles import profile_names
        from ..state.location import configuration_files

        extra = str(ctx.params.get("config") or "")
        paths = [*configuration_files(os.environ), *([extra] if extra else [])]
        return [(name, path) for name, path in profile_names(paths).items() if name.startswith(incomplete)]
    except Exception:
        return []


complete_component = complete_one_of(("driver", "raycluster", "raylet", "gcs"))


def complete_change(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """What `raycluster scale` can set of the JOB on the line: GROUP= with the bounds that hold."""
    try:
        from ..model.wording import count
        from ..ops.clusters import find_record
        from ..ops.groups import read_groups

        record = find_record(
            _state_dir(ctx.params.get("directory")), ctx.params.get("job") or "", dict(os.environ)
        )
        return [
            (f"{group.name}={group.range}", f"{count(group.nodes, 'node')} now")
            for group in read_groups(record.path)
            if f"{group.name}=".startswith(incomplete) or f"{group.name}={group.range}".startswith(incomplete)
        ]
    except Exception:
        return []


def complete_sbatch_option(incomplete: str) -> list[tuple[str, str]]:
    """The common options of sbatch, for `raycluster submit`.

    >>> complete_sbatch_option("--par")
    [('--partition', 'sbatch: Partition.')]
    """
    from ..ops.sbatch_options import COMMON

    return [
        (option, f"sbatch: {text}")
        for name, short, _, text in COMMON
        for option in (name, short)
        if option.startswith(incomplete or "--")
    ]


def _jobs(incomplete: str, *, only_live: bool = False) -> list[tuple[str, str]]:
    from ..model.text import printable
    from ..slurm.queue import query_jobs
    from ..state.catalogue import list_records
    from ..system.report import command_text

    def quickly(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(*arguments, **{**options, "timeout": SQUEUE_TIMEOUT_S})

    where = _state_dir(None)
    records = [record for record in list_records(where) if record.path.name.startswith(incomplete)][:MOST]
    running: list[tuple[str, str]] = []
    ended: list[tuple[str, str]] = []
    for record in records:
        end, head = record.read_end(), record.read_head()
        driver = command_text(head.driver, 60) if head else ""
        if end is None:
            running.append((record.path.name, f"running: {driver}" if driver else "running"))
        else:
            ended.append((record.path.name, f"ended, exit code {end.exit_code}: {driver}"))
    known = {record.job_id for record in records}
    queue = query_jobs(os.environ, run=quickly)
    if only_live and queue is not None:
        live = {job.id for job in queue.values() if not job.is_ended}
        over = {
            record.path.name
            for record in records
            if record.slurm_cluster != "local" and record.job_id not in live
        }
        running = [one for one in running if one[0] not in over]
    for job in (queue or {}).values():
        is_mine = (where / "submitted" / job.id).exists()
        if job.is_waiting and job.id not in known and is_mine and job.id.startswith(incomplete):
            running.append((job.id, printable(f"in the queue: {job.name}")))
    return running if only_live else [*running, *ended]


def _state_dir(given: object) -> Path:
    text = str(given or os.environ.get("RAYCLUSTER_STATE_DIR") or "~/.raycluster")
    return Path(text).expanduser()
