"""What there is to know of a cluster's end: its record, its logs, the job's output, and what Slurm says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from ..model.errors import RayclusterError
from ..model.status import EndReason
from ..slurm.job_state import job_state
from ..slurm.queue import Job
from ..state.catalogue import record_of
from ..state.record import Record
from .log_search import output_paths
from .no_record import job_without_record
from .post_mortem import PostMortem, post_mortem
from .reader import read_cluster
from .verdict import GOOD, judge

Query = Callable[[], "Mapping[str, Job] | None"]
"""Asks for the jobs of the record's owner."""


def examine(record: Record, state_dir: Path, env: Mapping[str, str], query: Query) -> PostMortem:
    """What is known of a cluster; Slurm is asked for what the record does not say.

    Those are a cluster without an end, a signal that may be a preemption, the file of the job's output, and
    worker jobs that have not ended with their cluster.
    """
    end, head = record.read_end(), record.read_head()
    slurm = jobs = None
    if record.slurm_cluster != "local":
        unknown = end is not None and end.exit_code != 0 and (head is None or not head.output)
        if end is None or end.reason == EndReason.SIGNAL.value or unknown:
            slurm = job_state(record.job_id, env)
        if end is None or (head is not None and head.worker_groups):
            jobs = query()
    status = read_cluster(record, jobs)
    return post_mortem(record, status=status, slurm=slurm, outputs=output_paths(record, state_dir, slurm))


def cause_of(record: Record, state_dir: Path, env: Mapping[str, str], query: Query) -> str:
    """The likely cause of an end with another code than 0, as `why` tells it; empty for all others."""
    post = examine(record, state_dir, env, query)
    if not post.status.is_over or post.status.exit_code == 0:
        return ""
    return judge(post).verdict


def cause_of_job(job_id: str, state_dir: Path, env: Mapping[str, str], query: Query) -> str:
    """Why a job ended with another code than 0, also one without a record.  Empty when nothing is known."""
    with contextlib.suppress(RayclusterError):
        found = job_without_record(job_id, state_dir, env)
        if found is not None:
            return found.verdict
        post = examine(record_of(state_dir, job_id), state_dir, env, query)
        verdict = judge(post).verdict if post.status.is_over else ""
        if verdict == GOOD:
            return "The cluster completed: something else in the batch script ended with this code."
        return verdict
    return ""
