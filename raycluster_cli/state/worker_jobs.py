"""A growing cluster's files in its record: groups, bounds and worker jobs.

======================  ==========================================================================
``groups.json``         GroupsReport: by the head at its start
``scale.json``          GroupBounds by group: by `raycluster scale`
``worker-jobs.json``    WorkerJobsReport: by the head's autoscaler, when something changed
``jobs/``               the output files of the worker jobs
======================  ==========================================================================

Only a cluster with worker groups has them, so :class:`.record.Record` does not import this module.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..model.dataclass import dataclass
from ..model.errors import UsageError
from ..model.record import encode, read_json, value_of
from ..model.worker_group import GroupBounds, GroupsReport, WorkerGroup
from ..model.worker_job import GroupState, WorkerJob, WorkerJobsReport
from .events import EventLog
from .files import read_bytes, stamp_of, write_whole
from .launches import LaunchFiles, made

#: A job takes 0.4 KB of worker-jobs.json, and a cluster may have had some ten thousand in the queue.
JOBS_MAX_BYTES = 64 << 20

#: How many output files of jobs that have ended are kept.
KEEP_OUTPUTS = 400

#: The name of an output file that sbatch was given: job, and task of an array.
_OUTPUT = re.compile(r"(\d+)(?:_(\d+))?\.out", re.ASCII)


class WorkerJobFiles(EventLog):
    """The files of one record, given its directory.  Writers raise RayclusterError; readers return None."""

    # ------------------------------------------------------------------ groups and their bounds

    def write_groups(self, report: GroupsReport) -> None:
        write_whole(self.path / "groups.json", self._encoded(report))

    def read_groups(self) -> GroupsReport | None:
        """The groups; those that cannot be read are left out."""
        values = read_json(read_bytes(self.path / "groups.json"))
        if not isinstance(values, dict) or not isinstance(values.get("groups"), list):
            return None
        head = value_of(_Head, values)
        groups = tuple(group for one in values["groups"] if (group := _group(one)) is not None)
        return GroupsReport(groups, head.pid, head.restart) if head else None

    def write_bounds(self, bounds: Mapping[str, GroupBounds]) -> None:
        """What holds for all groups from here on."""
        write_whole(self.path / "scale.json", self._encoded(_Bounds(dict(bounds))))

    def read_bounds(self) -> dict[str, GroupBounds]:
        """By group; empty when nobody has set any."""
        values = read_json(read_bytes(self.path / "scale.json"))
        groups = values.get("groups") if isinstance(values, dict) else None
        found = {}
        for name, one in groups.items() if isinstance(groups, dict) else ():
            bounds = value_of(GroupBounds, one)
            if bounds is not None and 0 <= bounds.min_workers <= bounds.max_workers:
                found[name] = bounds
        return found

    def bounds_stamp(self) -> int | None:
        """When the bounds were last set, in the file server's nanoseconds; None: never."""
        return stamp_of(self.path / "scale.json")

    # ------------------------------------------------------------------ worker jobs

    def write_jobs(self, report: WorkerJobsReport, texts: JobTexts | None = None) -> int:
        """Returns the size in bytes.  ``texts``: of a writer that writes again and again."""
        rest = encode(replace(report, jobs=())).replace('"jobs":[],', "", 1)
        jobs = ",".join((texts or JobTexts()).of(report.jobs))
        data = self.masked(f'{rest[:-1]},"jobs":[{jobs}]}}').encode()
        write_whole(self.path / "worker-jobs.json", data)
        return len(data)

    def read_jobs(self) -> WorkerJobsReport | None:
        """The jobs and groups; lines that cannot be read are left out."""
        values = read_json(read_bytes(self.path / "worker-jobs.json", JOBS_MAX_BYTES))
        when = value_of(_When, values)
        if when is None or not isinstance(values, dict):
            return None
        jobs = (value_of(WorkerJob, one) for one in _list(values, "jobs"))
        groups = (value_of(GroupState, one) for one in _list(values, "groups"))
        return WorkerJobsReport(
            when.when,
            tuple(job for job in jobs if job is not None),
            tuple(state for state in groups if state is not None),
        )

    def output_dir(self) -> Path:
        """The directory of the worker jobs' output files, made when missing."""
        return made(self.path / "jobs")

    def prune_outputs(self, kept: Collection[str]) -> None:
        """Remove the oldest output files but KEEP_OUTPUTS; those of the jobs ``kept`` stay.  Ignores errors.

        A hundred or more at a time.
        """
        with contextlib.suppress(OSError):
            jobs = {
                name: (int(match[1]), int(match[2] or 0))
                for name in os.listdir(self.path / "jobs")
                if (match := _OUTPUT.fullmatch(name)) and match[0].removesuffix(".out") not in kept
            }
            if len(jobs) < KEEP_OUTPUTS + 100:
                return
            for name in sorted(jobs, key=jobs.__getitem__)[:-KEEP_OUTPUTS]:
                with contextlib.suppress(OSError):
                    os.unlink(self.path / "jobs" / name)

    @property
    def launches(self) -> LaunchFiles:
        """What passes between the autoscaler and `raycluster scale --serve`."""
        return LaunchFiles(self.path)


class JobTexts:
    """The JSON of jobs, kept from one write to the next: of thousands only a few have changed."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[WorkerJob, str]] = {}

    def of(self, jobs: Sequence[WorkerJob]) -> list[str]:
        """Of these jobs in their order; those that are not among them are forgotten."""
        before, self._texts = self._texts, {}
        found = []
        for job in jobs:
            known = before.get(job.job_id)
            if known is None or known[0] is not job:
                known = (job, json.dumps(vars(job), separators=(",", ":")))
            self._texts[job.job_id] = known
            found.append(known[1])
        return found


@dataclass(frozen=True)
class _Head:
    pid: int = 0
    restart: int = 0


@dataclass(frozen=True)
class _When:
    when: float


@dataclass(frozen=True)
class _Bounds:
    groups: Mapping[str, GroupBounds]


def _list(values: Mapping[str, Any], name: str) -> list[object]:
    found = values.get(name)
    return found if isinstance(found, list) else []


def _group(values: object) -> WorkerGroup | None:
    """A group from JSON; None when it does not fit.

    >>> group = _group({"name": "gpu", "max_workers": 4, "resources": {"memory": 1e12}})
    >>> group.resources, _group({"name": "gpu", "max_workers": "many"})
    ({'memory': 1000000000000.0}, None)
    """
    if not isinstance(values, dict):
        return None
    resources, labels = values.get("resources", {}), values.get("labels", {})
    if not isinstance(resources, dict) or not all(map(_is_amount, resources.values())):
        return None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        return None
    try:
        group = value_of(WorkerGroup, {**values, "resources": {}})
    except UsageError:
        return None
    return None if group is None else replace(group, resources={k: float(v) for k, v in resources.items()})


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
