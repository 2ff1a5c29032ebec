"""Between Ray's autoscaler, which must not wait for Slurm, and WorkerJobs, which does: one thread."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from ..model.errors import RayclusterError
from ..model.node_type import ClusterNode, FailedLaunch, Instance
from ..model.worker_group import WorkerGroup
from ..model.worker_job import GroupState, WorkerJob, WorkerJobState
from .worker_jobs import LaunchRefusedError, RayNode

#: States in which a job has its nodes.
_RUNNING = {
    state.value
    for state in (
        WorkerJobState.STARTING,
        WorkerJobState.READY,
        WorkerJobState.IDLE,
        WorkerJobState.DRAINING,
    )
}

#: Why a job of the autoscaler is cancelled.
NOT_NEEDED = "no longer needed"


class Jobs(Protocol):
    """What is needed of WorkerJobs."""

    def launch(self, group: WorkerGroup, count: int) -> list[str]: ...
    def cancel(self, instances: Collection[str], why: str, *, now: bool = True) -> None: ...
    def poll(self, nodes: Mapping[str, RayNode]) -> dict[str, WorkerJob]: ...
    def groups(self) -> dict[str, GroupState]: ...
    def resume(self, group: str) -> None: ...


class Submitter:
    """The launcher of private.autoscaler.Engine; all calls of WorkerJobs are made by one thread.

    ``tell(kind, text)``: what failed, for people, kind "warn"; called by that thread.
    """

    def __init__(
        self,
        jobs: Jobs,
        groups: Sequence[WorkerGroup],
        tell: Callable[[str, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._groups = {group.name: group for group in groups}
        self._tell = tell
        self._clock = clock
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._instances: dict[str, Instance] = {}
        self._failures: list[FailedLaunch] = []
        self._in_flight: Counter[str] = Counter()
        self._states: dict[str, GroupState] = {}
        self._looks = 0
        """How many times `look` waits in the queue: Slurm can be slower than the rounds."""
        self._problem: BaseException | None = None

    def know(self, jobs: Collection[WorkerJob]) -> None:
        """The jobs of an autoscaler that ran before: without them the first round would ask for more."""
        with self._lock:
            for job in jobs:
                if not job.is_over:
                    one = Instance(job.group, job.state in _RUNNING)
                    self._instances.update(dict.fromkeys(job.instance_ids, one))

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        threading.Thread(target=self._run, name="submitter", daemon=True).start()

    def check(self) -> None:
        """Raise what has ended the thread, if it has ended."""
        if self._problem is not None:
            raise self._problem

    # -- for the autoscaler: none of these waits ---------------------------------------------------

    def launch(self, group: str, count: int, request: str) -> None:
        with self._lock:
            self._in_flight[group] += count
        self._work.put(lambda: self._launch(group, count, request))

    def cancel(self, instances: Sequence[str]) -> None:
        if instances:
            self._work.put(lambda: self._cancel(list(instances)))

    def let_go(self, instances: Sequence[str]) -> None:
        if instances:
            self._work.put(lambda: self._cancel(list(instances), now=False))

    def look(self, nodes: Sequence[ClusterNode]) -> None:
        """Find out what has become of the jobs; ``nodes``: all nodes that the GCS has."""
        with self._lock:
            if self._looks:
                return
            self._looks += 1
        now = self._clock()
        there = {
            node.instance: RayNode(
                node_id=node.node_id,
                idle_since=None if node.idle_s is None else now - node.idle_s,
                draining=node.draining,
                host=node.host,
            )
            for node in nodes
            if node.alive and node.node_type in self._groups
        }
        self._work.put(lambda: self._look(there))

    def resume(self, group: str) -> None:
        """The bounds of a group were set anew: what kept it from growing is forgotten."""
        self._work.put(lambda: self._jobs.resume(group))

    def instances(self) -> Mapping[str, Instance]:
        with self._lock:
            return dict(self._instances)

    def failures(self) -> Sequence[FailedLaunch]:
        with self._lock:
            failures, self._failures = self._failures, []
        return failures

    def in_flight(self) -> Mapping[str, int]:
        """Nodes by group whose submission has begun and not ended."""
        with self._lock:
            return dict(+self._in_flight)

    def paused(self, now: float) -> set[str]:
        """Groups for which no job is submitted now."""
        with self._lock:
            return {name for name, one in self._states.items() if one.paused_until > now}

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._work.get()()
        except BaseException as error:
            self._problem = error

    def step(self) -> None:
        """Do what waits in the queue, in the caller's thread: for tests."""
        while not self._work.empty():
            self._work.get()()

    def _launch(self, group: str, count: int, request: str) -> None:
        try:
            launched = self._jobs.launch(self._groups[group], count)
        except RayclusterError as error:
            with self._lock:
                self._in_flight[group] -= count
                self._failures.append(FailedLaunch(group, count, request, error.message))
            self._know_groups()
            if not isinstance(error, LaunchRefusedError):  # which WorkerJobs has reported
                self._tell("warn", str(error))
            return
        with self._lock:
            self._in_flight[group] -= count
            self._instances.update((name, Instance(group)) for name in launched)
            if (missing := count - len(launched)) > 0:  # more than one array can have
                self._failures.append(FailedLaunch(group, missing, request, "too many at once"))

    def _cancel(self, instances: list[str], *, now: bool = True) -> None:
        try:
            self._jobs.cancel(instances, NOT_NEEDED, now=now)
        except RayclusterError as error:
            self._tell("warn", str(error))

    def _look(self, nodes: Mapping[str, RayNode]) -> None:
        with self._lock:
            self._looks -= 1
        jobs = self._jobs.poll(nodes)
        with self._lock:
            self._instances = {name: Instance(job.group, job.state in _RUNNING) for name, job in jobs.items()}
        self._know_groups()

    def _know_groups(self) -> None:
        states = self._jobs.groups()
        with self._lock:
            self._states = states
