"""raycluster: starts, watches and stops a Ray cluster inside a Slurm allocation.

The command line is the usual way in.  Programs that start a cluster use :class:`SlurmCluster`,
:class:`AsyncSlurmCluster` or :class:`LocalCluster`.  Programs that are a rank of a job themselves (an
inference server, say) call the six functions below.  All raise the errors below.  Everything is imported when
it is first used, so that `import raycluster_cli` costs nothing.

``__all__`` is the public API: what is not in it may change in any release.
"""

# Nothing is imported here, not even from __future__: each module would be further files of a start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._version import __version__

__all__ = [
    "AsyncSlurmCluster",
    "ClusterPhase",
    "ClusterStatus",
    "ClusterUnhealthyError",
    "ExitCode",
    "GroupStatus",
    "HeadStartError",
    "LocalCluster",
    "NodeStatus",
    "RayclusterError",
    "SlurmCluster",
    "UsageError",
    "WorkersMissingError",
    "__version__",
    "calculate_object_store_memory",
    "cleanup_ray",
    "init_ray_master",
    "init_ray_worker",
    "monitor_ray_cluster_health",
    "monitor_ray_workers",
    "service_url",
]

#: The public classes and functions that are in neither of the two modules below.
_ELSEWHERE = {
    "AsyncSlurmCluster": "api.async_cluster",
    "ClusterPhase": "model.cluster_status",
    "ClusterStatus": "model.cluster_status",
    "GroupStatus": "model.group_status",
    "LocalCluster": "api.local_cluster",
    "NodeStatus": "model.cluster_status",
    "SlurmCluster": "api.slurm_cluster",
    "service_url": "api.slurm_cluster",
}

if TYPE_CHECKING:
    from .api.async_cluster import AsyncSlurmCluster
    from .api.local_cluster import LocalCluster
    from .api.slurm_cluster import SlurmCluster, service_url
    from .functions.ray_cluster import (
        calculate_object_store_memory,
        cleanup_ray,
        init_ray_master,
        init_ray_worker,
        monitor_ray_cluster_health,
        monitor_ray_workers,
    )
    from .model.cluster_status import ClusterPhase, ClusterStatus, NodeStatus
    from .model.errors import (
        ClusterUnhealthyError,
        ExitCode,
        HeadStartError,
        RayclusterError,
        UsageError,
        WorkersMissingError,
    )
    from .model.group_status import GroupStatus


def __getattr__(name: str) -> "Any":
    if name == "__version__":
        from ._version import __version__

        return __version__
    if name in _ELSEWHERE:
        from importlib import import_module

        return getattr(import_module(f".{_ELSEWHERE[name]}", __name__), name)
    if name in __all__:
        from .model import errors

        if hasattr(errors, name):
            return getattr(errors, name)
        from .functions import ray_cluster

        return getattr(ray_cluster, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
