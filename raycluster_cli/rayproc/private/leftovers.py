"""What a driver that has ended leaves in a cluster: its job, its actors, its placement groups.

Ray ends a job when its driver's connection closes, and with it all actors and placement groups but detached
ones, which this ends too.  The tables are private (ray._raylet.GlobalStateAccessor); detached actors are
killed, and detached placement groups removed, by Ray's public functions.  The handle of an actor without a
name is made of its row in the table, as Ray makes that of a pickled one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle
from ray.core.generated import core_worker_pb2, gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from ...model.wording import count
from ..failure import StartFailure
from .gcs import INTERNAL, growing_pauses
from .known import NOT_AS_KNOWN

#: The state of an actor, and of a placement group, that is no more.
_DEAD = gcs_pb2.ActorTableData.DEAD
_REMOVED = gcs_pb2.PlacementGroupTableData.REMOVED


class Detached(NamedTuple):
    """A detached actor."""

    name: str
    """Empty for one that has none."""
    namespace: str
    handle: bytes = b""
    """Its handle, as Ray serializes them."""


@dataclass(frozen=True)
class Left:
    """What is left of drivers that have ended."""

    jobs: tuple[str, ...] = ()
    """Ids of jobs whose drivers' processes are gone, and which Ray has not ended yet."""
    actors: tuple[str, ...] = ()
    """Ids of actors that end by themselves."""
    groups: int = 0
    """Placement groups that are removed by themselves."""
    detached: tuple[Detached, ...] = ()
    """Detached actors."""
    detached_groups: tuple[str, ...] = ()
    """Ids of detached placement groups."""

    def __bool__(self) -> bool:
        return any((self.jobs, self.actors, self.groups, self.detached, self.detached_groups))

    def texts(self) -> list[str]:
        """For people."""
        counted = (
            (len(self.jobs), "job"),
            (len(self.actors) + len(self.detached), "actor"),
            (self.groups + len(self.detached_groups), "placement group"),
        )
        return [count(number, what) for number, what in counted if number]


def clear(address: str, deadline_s: float) -> Left:
    """End what drivers have left whose processes on this node are gone; returns what is left then."""
    options = ray._raylet.GcsClientOptions.create(
        address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
    )
    accessor = ray._raylet.GlobalStateAccessor(options)
    if not accessor.connect():
        raise StartFailure("timed out", f"The GCS at {address} does not answer.")
    deadline = time.monotonic() + deadline_s
    asked = False
    for pause_s in growing_pauses(0.05, 0.5):
        left = _left(accessor, address.rpartition(":")[0].strip("[]"), _runs)
        only_detached = left and not (left.jobs or left.actors or left.groups)
        if only_detached and not asked:
            asked = True
            _end_detached(address, left)
            continue
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(pause_s)
    raise AssertionError("not reached")


def _runs(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _left(accessor: Any, ip: str, runs: Callable[[int], bool]) -> Left:
    """``ip``: this node's; drivers on other nodes (`raycluster attach`) are left alone while they run."""
    jobs = [gcs_pb2.JobTableData.FromString(data) for data in accessor.get_job_table()]
    jobs = [job for job in jobs if not job.config.ray_namespace.startswith(INTERNAL)]
    over = {job.job_id for job in jobs if job.is_dead}
    here = [job for job in jobs if (job.driver_ip_address or job.driver_address.ip_address) == ip]
    ending = {job.job_id for job in here if not job.is_dead and not runs(job.driver_pid)}
    actors = [gcs_pb2.ActorTableData.FromString(data) for data in accessor.get_actor_table(None, None)]
    actors = [one for one in actors if one.state != _DEAD and one.job_id in over | ending]
    groups = [
        gcs_pb2.PlacementGroupTableData.FromString(data) for data in accessor.get_placement_group_table()
    ]
    groups = [one for one in groups if one.state != _REMOVED and one.creator_job_id in over | ending]
    return Left(
        jobs=tuple(sorted(job.hex() for job in ending)),
        actors=tuple(one.actor_id.hex() for one in actors if not one.is_detached),
        groups=sum(not one.is_detached for one in groups),
        detached=tuple(
            Detached(one.name, one.ray_namespace, _handle(one)) for one in actors if one.is_detached
        ),
        detached_groups=tuple(one.placement_group_id.hex() for one in groups if one.is_detached),
    )


def _handle(actor: Any) -> bytes:
    """An actor's handle by its row in the table."""
    handle = core_worker_pb2.ActorHandle(
        actor_id=actor.actor_id,
        owner_address=actor.owner_address,
        creation_job_id=actor.job_id,
        actor_creation_task_function_descriptor=actor.function_descriptor,
        is_detached=True,
    )
    return bytes(handle.SerializeToString())


def _end_detached(address: str, left: Left) -> None:
    """As a driver of a namespace of Ray's own, so that it does not count as the user's."""
    ray.init(
        address=address, namespace=f"{INTERNAL}_raycluster", log_to_driver=False, configure_logging=False
    )
    for one in left.detached:
        try:
            ray.kill(
                ray.get_actor(one.name, one.namespace)
                if one.name
                else ActorHandle._deserialization_helper(one.handle, False),
                no_restart=True,
            )
        except (ValueError, *NOT_AS_KNOWN):
            continue  # it has ended meanwhile, or is reported as left
    for group in left.detached_groups:
        remove_placement_group(placement_group(group))
    ray.shutdown()


def placement_group(group: str) -> PlacementGroup:
    """The handle of a placement group, by its id in hexadecimal digits."""
    return PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group)))
