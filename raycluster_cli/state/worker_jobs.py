"""A growing cluster's files in its record: groups, bounds, worker jobs, and requests to submit.

======================  ==========================================================================
``groups.json``         GroupsReport: by the head at its start
``scale.json``          GroupBounds by group: by `raycluster scale`
``worker-jobs.json``    WorkerJobsReport: by the head's autoscaler, when something changed
``launch/serving``      touched by `raycluster scale --serve` while it runs
``launch/N.json``       LaunchRequest: by the autoscaler, where Slurm's commands cannot be used
``launch/N.taken``      the same, once a server has taken it; rename(2), so only one can
``launch/N.reply.json`` LaunchReply: by the server that took it
``jobs/``               the output files of the worker jobs
======================  ==========================================================================

Only a cluster with worker groups has them, so :class:`.record.Record` does not import this module.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..model.errors import UsageError
from ..model.record import read_json, value_of
from ..model.worker_group import GroupBounds, GroupsReport, WorkerGroup
from ..model.worker_job import GroupState, LaunchReply, LaunchRequest, WorkerJob, WorkerJobsReport
from .events import EventLog
from .files import needs, read_bytes, write_whole

#: A job takes 0.4 KB of worker-jobs.json, and a cluster may have had some ten thousand in the queue.
JOBS_MAX_BYTES = 64 << 20

_REQUEST = re.compile(r"([1-9]\d{0,14})\.json", re.ASCII)
_OF_A_REQUEST = re.compile(r"\d+\.(json|taken|reply\.json)", re.ASCII)


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
        return _stamp(self.path / "scale.json")

    # ------------------------------------------------------------------ worker jobs

    def write_jobs(self, report: WorkerJobsReport) -> None:
        write_whole(self.path / "worker-jobs.json", self._encoded(report))

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
        return self._directory("jobs")

    # ------------------------------------------------------------------ requests to a server

    def say_serving(self) -> None:
        """`raycluster scale --serve` is there; to be called every few seconds."""
        path = self._directory("launch") / "serving"
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise needs(path, error, "write") from error

    def end_serving(self) -> None:
        """Nobody serves any more.  Never raises."""
        with contextlib.suppress(OSError):
            os.unlink(self.path / "launch" / "serving")

    def serving_stamp(self) -> int | None:
        """When a server last said that it is there, in the file server's nanoseconds; None: there is none."""
        return _stamp(self.path / "launch" / "serving")

    def write_request(self, request: LaunchRequest) -> None:
        write_whole(self._directory("launch") / f"{request.number}.json", self._encoded(request))

    def pending_requests(self) -> list[int]:
        """The numbers of the requests that no server has taken, the oldest first."""
        return sorted(int(match[1]) for name in self._launch_names() if (match := _REQUEST.fullmatch(name)))

    def take_request(self, number: int) -> LaunchRequest | None:
        """The request, which is this server's from now on; None when it is another's, or withdrawn."""
        taken = self.path / "launch" / f"{number}.taken"
        try:
            os.rename(self.path / "launch" / f"{number}.json", taken)
        except OSError:
            return None
        request = value_of(LaunchRequest, read_json(read_bytes(taken)))
        if request is None or not all(isinstance(value, str) for value in request.env.values()):
            return None
        return request

    def withdraw_request(self, number: int) -> bool:
        """True when no server had taken it, and none will."""
        try:
            os.unlink(self.path / "launch" / f"{number}.json")
        except OSError:
            return False
        return True

    def write_reply(self, reply: LaunchReply) -> None:
        write_whole(self.path / "launch" / f"{reply.number}.reply.json", self._encoded(reply))

    def read_reply(self, number: int) -> LaunchReply | None:
        data = read_bytes(self.path / "launch" / f"{number}.reply.json", JOBS_MAX_BYTES)  # squeue's is long
        return value_of(LaunchReply, read_json(data))

    def forget_request(self, number: int) -> None:
        """Remove a request that has been answered.  Never raises."""
        for name in (f"{number}.json", f"{number}.taken", f"{number}.reply.json"):
            with contextlib.suppress(OSError):
                os.unlink(self.path / "launch" / name)

    def forget_requests(self) -> None:
        """Remove what an autoscaler that has ended has left: nobody waits for the answers any more.

        A server would execute its last request, which holds the environment of the head's job.  Never raises.
        """
        for name in self._launch_names():
            if _OF_A_REQUEST.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(self.path / "launch" / name)

    def _launch_names(self) -> list[str]:
        try:
            return os.listdir(self.path / "launch")
        except OSError:
            return []

    def _directory(self, name: str) -> Path:
        path = self.path / name
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise needs(path, error, "make") from error
        return path


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


def _stamp(path: Path) -> int | None:
    """When a file was last written; it is opened, since an NFS client answers stat(2) from its cache."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_mtime_ns
    except OSError:
        return None
    finally:
        os.close(fd)
