"""raycluster: starts, watches and stops a Ray cluster inside a Slurm allocation.

The command line is the usual way in.  Programs that are a rank of a job themselves (an inference server,
say) call the six functions below, which raise the errors below.  Everything is imported when it is first
used, so that `import raycluster_cli` costs nothing.

``__all__`` is the public API: what is not in it may change in any release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

__all__ = [
    "ClusterUnhealthyError",
    "ExitCode",
    "HeadStartError",
    "RayclusterError",
    "UsageError",
    "WorkersMissingError",
    "__version__",
    "calculate_object_store_memory",
    "cleanup_ray",
    "init_ray_master",
    "init_ray_worker",
    "monitor_ray_cluster_health",
    "monitor_ray_workers",
]

if TYPE_CHECKING:
    from .library.ray_cluster import (
        calculate_object_store_memory,
        cleanup_ray,
        init_ray_master,
        init_ray_worker,
        monitor_ray_cluster_health,
        monitor_ray_workers,
    )
    from .model.errors import (
        ClusterUnhealthyError,
        ExitCode,
        HeadStartError,
        RayclusterError,
        UsageError,
        WorkersMissingError,
    )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from .model import errors

        if hasattr(errors, name):
            return getattr(errors, name)
        from .library import ray_cluster

        return getattr(ray_cluster, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
