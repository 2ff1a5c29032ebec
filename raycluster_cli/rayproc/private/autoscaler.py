"""Ray's autoscaler v2 in this process, round by round, with node types and a launcher of our own.

Of ``ray.autoscaler.v2`` the reconciler, the scheduler and the event log are used as they are.  Its monitor,
its YAML file and the adapter for node providers of v1 are not: the adapter submits five nodes at a time, the
monitor waits five seconds between two rounds.  docs/decisions/0026-rays-autoscaler.md has the reasons.
"""

from __future__ import annotations

import logging
import logging.handlers
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray.autoscaler.v2.autoscaler import Autoscaler
from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
from ray.autoscaler.v2.instance_manager.config import (
    AutoscalingConfig,
    IConfigReader,
    InstanceReconcileConfig,
)
from ray.autoscaler.v2.instance_manager.node_provider import (
    CloudInstance,
    ICloudInstanceProvider,
    LaunchNodeError,
)
from ray.core.generated.event_pb2 import Event as RayEvent
from ray.core.generated.instance_manager_pb2 import NodeKind

from ...model.node_type import OWN_NODES, ClusterNode, Launcher, NodeType
from ...model.unmet_demand import UnmetDemand
from ...model.worker_group import HEAD_GROUP
from .gcs import RPC_TIMEOUT_S, Cluster
from .gcs_view import GcsView
from .known import PrivateMissing
from .scheduler import WholeJobsScheduler

#: "Without a limit", for settings of Ray's that take no other value: 30 years, a million nodes.
LONG_S, MANY = 1_000_000_000, 1_000_000

#: This many rounds in a row may fail; its state can be such that an assertion fails in every round.
FAILED_ROUNDS = 30

LOG_BYTES = 10_000_000

Types = Callable[[Sequence[ClusterNode]], Sequence[NodeType]]
"""The node types, given the nodes that there are; called once a round."""


class Engine:
    """The autoscaler of one cluster."""

    def __init__(
        self,
        address: str,
        launcher: Launcher,
        types: Types,
        logs_dir: str,
        report: Callable[[str], object] = lambda text: None,
    ) -> None:
        """``logs_dir``: of Ray's session, for monitor.log and the events that drivers print.  ``report``
        takes one line, for people, on what this decides beside Ray.

        Raises StartFailure, or one of NOT_AS_KNOWN.
        """
        cluster = Cluster(address)
        log_to(f"{logs_dir}/monitor.log")
        self._gcs = GcsView(cluster.gcs)
        self._reader = _Reader(self._gcs, types)
        events = _event_logger(logs_dir)
        provider = _Provider(self._gcs, launcher)
        name = cluster.gcs.internal_kv_get(b"session_name", b"session", timeout=RPC_TIMEOUT_S)
        self._autoscaler = _Autoscaler(
            provider,
            session_name=name.decode() if name else "",
            config_reader=self._reader,
            gcs_client=self._gcs,
            event_logger=_Events(events),
            report=report,
        )
        self._failed = 0

    def round(self) -> None:
        """Look at the demand, launch and end nodes, report to the GCS (`ray status`).

        Raises RuntimeError when it has failed too often.
        """
        state = self._autoscaler.update_autoscaling_state()
        if state is None:  # the reason is in monitor.log
            self._failed += 1
            if self._failed >= FAILED_ROUNDS:
                raise RuntimeError(f"{self._failed} rounds of Ray's autoscaler failed, see monitor.log")
            return
        self._failed = 0
        self._gcs.drop_feasible(state, self._reader.types)
        self._gcs.report_autoscaling_state(state.SerializeToString())

    @property
    def nodes(self) -> Sequence[ClusterNode]:
        """All nodes as of the last round, dead ones too."""
        return self._gcs.nodes

    def unplaceable(self) -> list[UnmetDemand]:
        """What waits and fits on no node, also on none that can still be launched."""
        return self._gcs.unplaceable(self._reader.types)


def _event_logger(logs_dir: str) -> Any:
    from ray._private.event.event_logger import get_event_logger

    return get_event_logger(RayEvent.SourceType.AUTOSCALER, logs_dir)


def log_to(path: str) -> None:
    """What the autoscaler logs goes to this file: decisions, warnings and errors, no line for each round."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(
        logging.Formatter("%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s")
    )
    logger = logging.getLogger("ray.autoscaler")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    logging.getLogger("ray.autoscaler.v2.event_logger").setLevel(logging.INFO)
    logging.getLogger("ray.autoscaler.v2.instance_manager.instance_manager").setLevel(logging.INFO)


class _Config(AutoscalingConfig):  # type: ignore[misc]
    """The configuration from values, without Ray's YAML file, its schema and its defaults for clouds."""

    def __init__(self, types: Sequence[NodeType], own_nodes: int) -> None:
        available: dict[str, Any] = {
            HEAD_GROUP: {"resources": {}, "min_workers": 0, "max_workers": 0, "node_config": {}},
            OWN_NODES: {"resources": {}, "min_workers": 0, "max_workers": own_nodes, "node_config": {}},
        }
        for one in types:
            available[one.name] = {
                "resources": dict(one.resources),
                "labels": dict(one.labels),
                "min_workers": min(one.min_workers, one.max_workers),
                "max_workers": one.max_workers,
                "idle_timeout_s": one.idle_timeout_s,
                "node_config": {},
            }
        idle = [one.idle_timeout_s for one in types if one.idle_timeout_s is not None]
        self._pending_idle_s = min(idle, default=None)
        super().__init__(
            {
                "cluster_name": "raycluster",
                "head_node_type": HEAD_GROUP,
                "available_node_types": available,
                "upscaling_speed": MANY,  # else the first round launches one node
                "provider": {
                    "type": "external",
                    "disable_node_updaters": True,
                    "disable_launch_config_check": True,
                },
                "auth": {},
            }
        )

    def update_configs(self, configs: Any, skip_content_hash: bool = True) -> None:
        self._configs = configs

    def get_max_concurrent_launches(self) -> int:
        return MANY

    def get_pending_idle_timeout_s(self) -> float | None:
        """When a job is cancelled that waits in the queue and is no longer needed (Ray 2.60)."""
        return self._pending_idle_s

    def get_instance_reconcile_config(self) -> Any:
        """A job may wait in the queue for as long as Slurm lets it."""
        return InstanceReconcileConfig(
            request_status_timeout_s=LONG_S,
            allocate_status_timeout_s=LONG_S,
            transient_status_warn_interval_s=LONG_S,
        )


class _Reader(IConfigReader):  # type: ignore[misc]
    """Makes the configuration anew in each round: bounds, resources and pauses change."""

    def __init__(self, gcs: GcsView, types: Types) -> None:
        self._gcs = gcs
        self._types = types
        self.types: Sequence[NodeType] = ()
        self.refresh_cached_autoscaling_config()

    def get_cached_autoscaling_config(self) -> Any:
        return self._config

    def refresh_cached_autoscaling_config(self) -> None:
        nodes = self._gcs.nodes
        self.types = self._types(nodes)
        self._gcs.groups = frozenset(one.name for one in self.types)
        own = sum(1 for node in nodes if node.node_type == OWN_NODES)
        self._config = _Config(self.types, own)


class _Events(AutoscalerEventLogger):  # type: ignore[misc]
    """What drivers print: nodes that come and go, without what fits on no node.

    Ray says that in each round, and also of tasks that only have to wait; raycluster says it once.
    """

    def log_cluster_scheduling_update(self, **arguments: Any) -> None:
        known = {name: value for name, value in arguments.items() if not name.startswith("infeasible")}
        super().log_cluster_scheduling_update(**known)


class _Provider(ICloudInstanceProvider):  # type: ignore[misc]
    """The launcher as Ray's node provider (v2)."""

    def __init__(self, gcs: GcsView, launcher: Launcher) -> None:
        self._gcs = gcs
        self._launcher = launcher

    def get_non_terminated(self) -> dict[str, Any]:
        found = {
            name: self._instance(name, one.group, one.running)
            for name, one in self._launcher.instances().items()
        }
        # The nodes that nobody launched: the head, its job's workers, a worker that joined by hand.
        for node in self._gcs.nodes:
            if node.alive and node.instance not in found:
                found[node.instance] = self._instance(node.instance, node.node_type, True)
        return found

    @staticmethod
    def _instance(name: str, node_type: str, running: bool) -> Any:
        return CloudInstance(
            cloud_instance_id=name,
            node_type=node_type,
            node_kind=NodeKind.HEAD if node_type == HEAD_GROUP else NodeKind.WORKER,
            is_running=running,
        )

    def launch(self, shape: dict[str, int], request_id: str) -> None:
        for group, count in shape.items():
            self._launcher.launch(group, count, request_id)

    def terminate(self, ids: list[str], request_id: str) -> None:
        launched = self._launcher.instances()
        # Of a lost one it is found out how its job ends; it is cancelled only if it does not.
        ours = [name for name in ids if name in launched and not self._gcs.was_lost(name)]
        # The other nodes of its job may have work: they end when Ray's autoscaler has let all of them go.
        alone = [name for name in ours if not self._gcs.has_others(name)]
        gone = [name for name in alone if self._gcs.has_left(name)]
        self._launcher.let_go(gone)
        self._launcher.cancel([name for name in alone if name not in gone])

    def poll_errors(self) -> list[Any]:
        return [
            LaunchNodeError(one.group, one.count, one.request, time.time_ns(), details=one.reason)
            for one in self._launcher.failures()
        ]


class _Autoscaler(Autoscaler):  # type: ignore[misc]
    """Ray's own, with the provider given instead of made from a configuration, deciding in whole jobs."""

    def __init__(self, provider: _Provider, report: Callable[[str], object], **arguments: Any) -> None:
        self._given = provider
        if not hasattr(Autoscaler, "_init_cloud_instance_provider"):
            raise PrivateMissing("ray.autoscaler.v2.autoscaler.Autoscaler._init_cloud_instance_provider")
        super().__init__(**arguments)
        if not hasattr(self, "_scheduler"):
            raise PrivateMissing("ray.autoscaler.v2.autoscaler.Autoscaler._scheduler")
        reader: _Reader = arguments["config_reader"]

        def replaced(group: str, job: str) -> None:
            report(
                f"worker group {group}: job {job} has lost a node and gets no new work: "
                "another job takes its place"
            )

        self._scheduler = WholeJobsScheduler(arguments["event_logger"], lambda: reader.types, replaced)

    def _init_cloud_instance_provider(self, *_: Any, **__: Any) -> None:
        self._cloud_instance_provider = self._given
