"""The worker groups of a head: from --max-nodes, --worker-idle-timeout and the file of --config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..config.worker_groups import read_worker_groups, worker_options
from ..model.errors import UsageError
from ..model.settings import Settings, option_words, settings_of
from ..model.time_span import parse_span_s
from ..model.worker_group import DEFAULT_GROUP, GroupsReport, WorkerGroup
from ..slurm.worker_options import options_of_job
from ..state.worker_jobs import WorkerJobFiles

#: Settings of the head that say nothing of nodes in other jobs: what its node has, which cluster it is.
_OF_ONE_NODE = (
    *("num_cpus", "num_gpus", "memory", "object_store_memory", "resources", "labels"),
    *("name", "state_dir", "timeout", "master_ip", "master_port", "on_worker_loss", "max_restarts"),
)


def groups_of(settings: Settings, own_nodes: int, env: Mapping[str, str]) -> tuple[WorkerGroup, ...]:
    """The groups; none for a cluster of a fixed size.

    ``own_nodes``: nodes of the head's own job, which are in the cluster from the start, the head included.
    ``env``: of the head's job.  Blocks as long as the file system does.  Raises UsageError.
    """
    groups = read_worker_groups(Path(settings.config)) if settings.config else ()
    if settings.max_nodes is not None:
        if any(group.name == DEFAULT_GROUP for group in groups):
            raise UsageError(
                f"{settings.config} has a group {DEFAULT_GROUP!r}, and --max-nodes makes one of that name.",
                "Leave out --max-nodes, or give the group another name.",
            )
        groups = (*_default_group(settings, settings.max_nodes, own_nodes, env), *groups)
    if groups and not env.get("SLURM_JOB_ID"):
        raise UsageError(
            "worker groups need a Slurm job: their workers are jobs too.",
            "Use `raycluster submit`, or start the head in a batch script.",
        )
    return groups


def write_groups(record: Path, groups: tuple[WorkerGroup, ...], restart: int) -> None:
    """Say in the record which groups there are; nothing for a cluster of a fixed size."""
    if groups:
        WorkerJobFiles(record).write_groups(GroupsReport(groups, os.getpid(), restart))


def options_for_workers(settings: Settings) -> list[str]:
    """Settings of the head that hold for the nodes of worker jobs too, as options of `raycluster worker`.

    >>> options_for_workers(Settings(temp_dir="/local", log_monitor=False, num_cpus=2))
    ['--no-log-monitor', '--temp-dir=/local']
    """
    usual = Settings()
    return [
        word
        for one in settings_of("worker")
        if "head" in one.metadata["commands"] and one.name not in _OF_ONE_NODE
        if (value := getattr(settings, one.name)) != getattr(usual, one.name)
        for word in option_words(one.name, value)
    ]


def _default_group(
    settings: Settings, max_nodes: int, own_nodes: int, env: Mapping[str, str]
) -> tuple[WorkerGroup, ...]:
    """The group of --max-nodes; none when the job's own nodes are all."""
    if max_nodes < own_nodes:
        raise UsageError(
            f"--max-nodes is {max_nodes}, but the job itself has {own_nodes} nodes.",
            f"Give --max-nodes {own_nodes} or more.",
        )
    if max_nodes == own_nodes:
        return ()
    given = worker_options(settings.worker_sbatch)
    group = WorkerGroup(
        name=DEFAULT_GROUP,
        max_workers=max_nodes - own_nodes,
        sbatch=given or tuple(options_of_job(env)),
        idle_timeout_s=parse_span_s("--worker-idle-timeout", settings.worker_idle_timeout),
    )
    return (group,)
