"""The process in which Ray's autoscaler runs: a fork of the companion, two rounds a second.

The supervisor starts it, and starts it again when it has ended (supervisor.autoscaler).  A new one goes on
with the worker jobs of the one before, which are in the record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..model.node_type import ClusterNode, NodeType
from ..model.unmet_demand import UnmetDemand
from ..model.worker_group import GroupBounds, WorkerGroup
from ..rayproc.protocol import Emit
from ..slurm.partitions import ask_partitions
from ..slurm.sbatch import HeadJob
from ..state.worker_jobs import WorkerJobFiles
from .node_resources import node_resources
from .node_types import count_by_group, node_types
from .submitter import Jobs, Submitter
from .worker_jobs import WorkerJobs

#: From the begin of a round to the begin of the next; the GCS asks raylets for their demand once a second.
ROUND_S = 0.5

#: How often it is asked what has become of the jobs.
JOBS_S = 1.0

#: Kind of the line after which another try makes no sense.
UNSUPPORTED = "unsupported"

#: How often what fits on no node is looked for.
UNPLACEABLE_S = 5.0


def main(request: Mapping[str, Any], emit: Emit, make_jobs: Callable[..., Jobs] = WorkerJobs) -> None:
    """Run until killed; with a Ray that has another autoscaler, say so and return.

    ``request``: address and Ray's variables of the cluster (``address``, ``env``), ``logs_dir`` of its
    session, the ``record``'s directory, ``head`` (fields of HeadJob), ``job_env`` for Slurm's commands, the
    ``groups``.
    """
    from ..rayproc import private
    from ..rayproc.private import autoscaler

    emitting = threading.Lock()

    def tell(kind: str, text: str) -> None:
        with emitting:
            emit({"event": "said", "kind": kind, "text": text})

    private.apply_settings(request["env"])
    groups = [WorkerGroup(**{**one, "sbatch": tuple(one["sbatch"])}) for one in request["groups"]]
    head = request["head"]
    files = WorkerJobFiles(Path(request["record"]))
    job = HeadJob(
        key=head["key"],
        name=head["name"],
        record=Path(request["record"]),
        directory=head["directory"],
        raycluster=tuple(head["raycluster"]),
        options=tuple(head["options"]),
    )
    jobs = make_jobs(job, files, request["job_env"], report=lambda text: tell("say", text))
    submitter = Submitter(jobs, groups, tell, time.time)
    if (before := files.read_jobs()) is not None:
        submitter.know(before.jobs)
    node_types_now = NodeTypes(groups, submitter, files)
    node_types_now.estimate(request["job_env"])
    try:
        engine = autoscaler.Engine(
            request["address"],
            submitter,
            node_types_now.types,
            request["logs_dir"],
            lambda text: tell("say", text),
        )
    except private.NOT_AS_KNOWN as error:
        text = f"{type(error).__name__}: {error}"
        tell(
            UNSUPPORTED,
            f"worker groups do not work with Ray {private.RAY_VERSION}, and no worker job is submitted: its "
            f"autoscaler differs from those of Ray 2.52 to 2.60 ({text})",
        )
        return
    submitter.start()
    tell("up", "")
    rounds(
        engine,
        submitter,
        lambda unmet: emit({"event": "said", "kind": "unplaceable", "unplaceable": unmet}),
    )


class NodeTypes:
    """The groups as Ray's autoscaler gets them: how many nodes each may have now, and what a node has."""

    def __init__(self, groups: Sequence[WorkerGroup], submitter: Submitter, files: WorkerJobFiles) -> None:
        self._groups = groups
        self._names = frozenset(group.name for group in groups)
        self._submitter = submitter
        self._files = files
        self._stamp: int | None = None
        self._begun = False
        self._bounds: dict[str, GroupBounds] = {}
        self._resources: dict[str, Mapping[str, float]] = {}

    def estimate(self, env: Mapping[str, str]) -> None:
        """Work out what a node of each group will have; asks sinfo where the options do not tell all."""
        partitions = ask_partitions(env)
        self._resources.update((group.name, node_resources(group, partitions)) for group in self._groups)

    def types(self, nodes: Sequence[ClusterNode]) -> list[NodeType]:
        """For this round of the autoscaler."""
        self._read_bounds()
        alive = [node for node in nodes if node.alive and node.node_type in self._names]
        for node in alive:
            if node.resources:
                self._resources[node.node_type] = node.resources
        existing = count_by_group(
            {name: one.group for name, one in self._submitter.instances().items()},
            {node.instance: node.node_type for node in alive},
            self._submitter.in_flight(),
        )
        paused = self._submitter.paused(time.time())
        return node_types(self._groups, self._bounds, self._resources, existing, paused)

    def _read_bounds(self) -> None:
        stamp = self._files.bounds_stamp()
        begun, self._begun = self._begun, True
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        before, self._bounds = self._bounds, self._files.read_bounds()
        for name, bounds in self._bounds.items():
            if begun and bounds != before.get(name) and name in self._names:
                self._submitter.resume(name)


def rounds(engine: Any, submitter: Submitter, tell: Callable[[list[UnmetDemand]], None]) -> NoReturn:
    """Run the autoscaler round after round; ``tell`` is called with what fits on no node."""
    told: list[UnmetDemand] = []
    jobs_at = unplaceable_at = 0.0
    while True:
        began = time.monotonic()
        engine.round()
        submitter.check()
        if began >= jobs_at:
            jobs_at = began + JOBS_S
            submitter.look(engine.nodes)
        if began >= unplaceable_at:
            unplaceable_at = began + UNPLACEABLE_S
            unmet = engine.unplaceable()
            if unmet or told:  # each time anew: the head shows what is there in two reports in a row
                told = unmet
                tell(unmet)
        time.sleep(max(ROUND_S - (time.monotonic() - began), ROUND_S / 4))
