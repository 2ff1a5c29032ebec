"""A Slurm that gives nodes when the test says so: the autoscaler's process with it in place of WorkerJobs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from raycluster_cli.autoscale import engine
from raycluster_cli.autoscale.worker_jobs import LaunchRefusedError, RayNode
from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.model.worker_job import GroupState, WorkerJob, instance_id, job_of
from raycluster_cli.rayproc.protocol import Emit

#: While this file is in the record's directory, launches are refused.
REFUSING = "refusing"


class FakeJobs:
    """Says what it is asked for; a job lasts until it is cancelled or its nodes have left."""

    def __init__(self, record: Path, emit: Emit) -> None:
        self._record = record
        self._emit = emit
        self._numbers = itertools.count(1)
        self._jobs: dict[str, str] = {}
        self._joined: set[str] = set()

    def launch(self, group: WorkerGroup, count: int) -> list[str]:
        if (self._record / REFUSING).exists():
            self._said("refused", [])
            raise LaunchRefusedError("sbatch: error: no such partition")
        numbers = [next(self._numbers) for _ in range(-(-count // group.nodes_per_job))]
        jobs = [f"{group.name}_{number}" for number in numbers]
        names = [instance_id(job, node) for job in jobs for node in range(group.nodes_per_job)]
        self._jobs.update(dict.fromkeys(names, group.name))
        self._said("launch", names)
        return names

    def cancel(self, instances: Collection[str], why: str, *, now: bool = True) -> None:
        ended = {job_of(name) for name in instances}
        for name in [one for one in self._jobs if job_of(one) in ended]:
            del self._jobs[name]
        self._said("cancel", list(instances))

    def poll(self, nodes: Mapping[str, RayNode]) -> dict[str, WorkerJob]:
        self._said("poll", [])
        there = {job_of(name) for name in nodes}
        for name in [one for one in self._jobs if job_of(one) in self._joined - there]:
            del self._jobs[name]
        self._joined = there
        return {
            name: WorkerJob(name, group, "ready" if name in nodes else "pending", 0.0)
            for name, group in self._jobs.items()
        }

    def groups(self) -> dict[str, GroupState]:
        refusing = (self._record / REFUSING).exists()
        return {"small": GroupState("small", 2.0**40 if refusing else 0.0)}

    def resume(self, group: str) -> None:
        self._said("resume", [group])

    def _said(self, kind: str, names: list[str]) -> None:
        self._emit({"event": "said", "kind": kind, "names": names})


def main(request: Mapping[str, Any], emit: Emit) -> None:
    engine.main(request, emit, lambda head, files, env, report: FakeJobs(head.record, emit))
