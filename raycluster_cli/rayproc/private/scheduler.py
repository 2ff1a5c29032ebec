"""The scheduler of Ray's autoscaler, deciding in whole jobs where a group's jobs have several nodes."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingNode
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, TerminationRequest

from ...model.node_type import NodeType
from ...model.worker_job import job_of
from ..whole_jobs import job_to_replace, jobs_of, jobs_to_end, node_bounds, together

#: Why Ray ends nodes: they are idle, or their group has too many.
_IDLE, _TOO_MANY = TerminationRequest.Cause.IDLE, TerminationRequest.Cause.MAX_NUM_NODE_PER_TYPE


class WholeJobsScheduler(ResourceDemandScheduler):  # type: ignore[misc]
    """Ray's own; what it is given and what it answers is changed for groups with several nodes per job."""

    def __init__(
        self,
        events: Any,
        types: Callable[[], Sequence[NodeType]],
        replaced: Callable[[str, str], object] = lambda group, job: None,
    ) -> None:
        """``events``: Ray's event logger, which tells drivers what the autoscaler does.  ``replaced``: called
        with the group and the id of a job that has lost a node and makes room for a whole one."""
        self._held = _HeldEvents()
        super().__init__(self._held)
        self._events = events
        self._types = types
        self._replaced = replaced
        self._jobs: dict[str, str] = {}
        """The job of each node of these groups that Ray counts, by the id of its instance."""

    def schedule(self, request: Any) -> Any:
        groups = [_Group(one, request) for one in self._types() if one.nodes_per_job > 1]
        self._jobs = {node: job for group in groups for node, job in group.jobs.items()}
        configs = dict(request.node_type_configs)
        for group in groups:
            least, most = group.bounds()
            configs[group.name] = replace(configs[group.name], min_worker_nodes=least, max_worker_nodes=most)
        reply = super().schedule(replace(request, node_type_configs=configs))
        more = {group.name: group.in_whole_jobs(reply) for group in groups}
        for group in groups if not any(one.makes_room() for one in groups) else ():
            if (job := group.part()) and self._would_use(group, job, request, configs, reply):
                more[group.name] -= group.let_go(job, reply)
                self._replaced(group.name, job)
                break  # what waits may be what another group would use as well
        self._held.tell(self._events, reply, more, configs)
        return reply

    @staticmethod
    def _would_use(group: _Group, job: str, request: Any, configs: Mapping[str, Any], reply: Any) -> bool:
        """Whether Ray would launch nodes for what waits, if a whole job could take the place of this one."""
        waits = reply.infeasible_resource_requests or reply.infeasible_gang_resource_requests
        if not (waits or reply.infeasible_cluster_resource_constraints):
            return False
        if any(one.instance_type == group.name for one in (*reply.to_launch, *reply.to_terminate)):
            return False  # what is decided already comes first
        config = configs[group.name]
        most = config.max_worker_nodes + group.missing(job)
        others = [
            one
            for one in request.current_instances
            if not one.cloud_instance_id or job_of(one.cloud_instance_id) != job
        ]
        asked = replace(
            request,
            current_instances=others,
            node_type_configs={**configs, group.name: replace(config, max_worker_nodes=most)},
            resource_requests=ResourceRequestUtil.group_by_count(reply.infeasible_resource_requests),
            gang_resource_requests=reply.infeasible_gang_resource_requests,
        )
        other = ResourceDemandScheduler(_HeldEvents()).schedule(asked)
        return any(launch.instance_type == group.name for launch in other.to_launch)

    def _update_pending_nodes_idle_duration(self, ctx: Any) -> None:
        """Nodes of one pending job are needed as long as one of them is (Ray 2.60)."""
        super()._update_pending_nodes_idle_duration(ctx)
        if not self._jobs:
            return
        nodes = ctx.get_nodes()
        idle = {
            node.im_instance_id: (self._jobs[node.im_instance_id], node.idle_duration_ms)
            for node in nodes
            if node.im_instance_id in self._jobs
            and node.im_instance_status in ResourceDemandScheduler.PENDING_TERMINABLE_STATUSES
        }
        idle_ms = together(idle)
        for node in nodes:
            if node.im_instance_id in idle_ms:
                node.idle_duration_ms = idle_ms[node.im_instance_id]
        ctx.update(nodes)


class _Group:
    """One group and those of its nodes that Ray counts."""

    def __init__(self, node_type: NodeType, request: Any) -> None:
        self.name = node_type.name
        self._type = node_type
        counted = [
            one
            for one in request.current_instances
            if SchedulingNode.is_schedulable(one)
            and one.im_instance.instance_type == self.name
            and (one.ray_node is not None or one.im_instance.status != Instance.RAY_RUNNING)
        ]
        self._requested = sum(1 for one in counted if not one.cloud_instance_id)
        self._nodes: dict[str, list[Any]] = defaultdict(list)
        self.jobs: dict[str, str] = {}
        at_work = {job_of(one.cloud_instance_id) for one in counted if _is_at_work(one.ray_node)}
        self._idle = {job_of(one.cloud_instance_id) for one in counted if one.cloud_instance_id} - at_work
        for one in counted:
            if one.cloud_instance_id:
                job = job_of(one.cloud_instance_id)
                self.jobs[one.im_instance.instance_id] = job
                self._nodes[job].append(one.im_instance)

    def bounds(self) -> tuple[int, int]:
        sizes = [len(nodes) for nodes in self._nodes.values()]
        kind = self._type
        return node_bounds(
            sizes,
            self._requested,
            kind.nodes_per_job,
            min(kind.min_workers, kind.max_workers),
            kind.max_workers,
        )

    def in_whole_jobs(self, reply: Any) -> int:
        """Change Ray's answer in place; returns how many nodes more than in Ray's answer there will be."""
        more = 0
        for launch in reply.to_launch:
            if launch.instance_type == self.name:
                count = jobs_of(launch.count, self._type.nodes_per_job) * self._type.nodes_per_job
                more += count - launch.count
                launch.count = count
        asked = {
            cause: [
                one for one in reply.to_terminate if one.instance_type == self.name and one.cause == cause
            ]
            for cause in (_IDLE, _TOO_MANY)
        }
        # A node that has been asked to leave already is not asked again.
        stays = {
            job: [node for node in nodes if node.status != Instance.RAY_STOP_REQUESTED]
            for job, nodes in self._nodes.items()
        }
        stays = {job: nodes for job, nodes in stays.items() if nodes}
        idle, over = jobs_to_end(
            [self.jobs.get(one.instance_id, "") for one in asked[_IDLE]],
            [self.jobs.get(one.instance_id, "") for one in asked[_TOO_MANY]],
            {job: len(nodes) for job, nodes in stays.items()},
            len(stays) - jobs_of(self._type.min_workers, self._type.nodes_per_job),
            self._type.nodes_per_job,
        )
        kept = [one for one in reply.to_terminate if one.instance_type != self.name or one.cause not in asked]
        ends = [one for one in asked[_IDLE] if self.jobs.get(one.instance_id) in idle]
        ends += [_like(asked[_TOO_MANY][0], node) for job in over for node in stays[job]]
        more += sum(map(len, asked.values())) - len(ends)
        reply.to_terminate[:] = [*kept, *ends]
        return more

    def part(self) -> str:
        """A job that has lost a node and can be replaced; empty: there is none."""
        sizes = {job: len(nodes) for job, nodes in self._nodes.items()}
        started = {
            job: size
            for job, size in sizes.items()
            if all(node.status == Instance.RAY_RUNNING for node in self._nodes[job])
        }
        return job_to_replace(started, self._idle, self._type.nodes_per_job)

    def makes_room(self) -> bool:
        """Whether a job that has lost a node is being let go: a whole one is launched once it has gone."""
        return any(
            node.status == Instance.RAY_STOP_REQUESTED
            for nodes in self._nodes.values()
            if len(nodes) < self._type.nodes_per_job
            for node in nodes
        )

    def missing(self, job: str) -> int:
        """How many nodes a whole job has more than this one."""
        return self._type.nodes_per_job - len(self._nodes[job])

    def let_go(self, job: str, reply: Any) -> int:
        """End a job in Ray's answer, in place: it gets no new work.  Returns how many nodes that are."""
        for node in self._nodes[job]:
            reply.to_terminate.append(
                TerminationRequest(
                    id=str(uuid.uuid4()),
                    instance_id=node.instance_id,
                    ray_node_id=node.node_id,
                    instance_type=self.name,
                    instance_status=node.status,
                    cause=_TOO_MANY,
                    max_num_nodes_per_type=self._type.max_workers,
                    details=f"job {job} has lost a node, and a whole job takes its place",
                )
            )
        return len(self._nodes[job])


class _HeldEvents:
    """Keeps what the scheduler tells drivers until its answer is in whole jobs."""

    def __init__(self) -> None:
        self._said: dict[str, Any] | None = None

    def log_cluster_scheduling_update(self, **arguments: Any) -> None:
        self._said = arguments

    def tell(self, events: Any, reply: Any, more: Mapping[str, int], configs: Mapping[str, Any]) -> None:
        """``more``: by how many nodes of each type the answer differs from Ray's."""
        said, self._said = self._said, None
        if said is None:
            return
        resources: dict[str, float] = defaultdict(float, said["cluster_resources"])
        for group, count in more.items():
            for name, size in configs[group].resources.items():
                resources[name] += size * count
        events.log_cluster_scheduling_update(
            **{
                **said,
                "cluster_resources": resources,
                "launch_requests": reply.to_launch,
                "terminate_requests": reply.to_terminate,
            }
        )


def _is_at_work(node: Any) -> bool:
    return node is not None and not node.idle_duration_ms


def _like(pattern: Any, node: Any) -> Any:
    """Ray's request to end a node, for another node."""
    made = TerminationRequest()
    made.CopyFrom(pattern)
    made.id = str(uuid.uuid4())
    made.instance_id, made.ray_node_id, made.instance_status = node.instance_id, node.node_id, node.status
    return made
