"""The private parts of Ray that raycluster uses: all of them, and what replaces them when they change.

A start and the watch over the nodes have a public fallback; without the autoscaler's parts a cluster does
not grow, which is said.  It runs in the companion, in the autoscaler's process, in `ray start` (by
RAY_START_HOOK) and in Ray Serve's controller.  What is used, and why, is in
docs/decisions/0001-how-ray-is-started.md.
Importing this package imports Ray: 0.4 to 0.6 s on a local disk.
"""

# `ray` first: its submodules rely on what its import sets up.
from .known import IMPORTED_BY_A_START, NOT_AS_KNOWN, PYTHON_VERSION, RAY_VERSION  # isort: skip
from .command import start_hook
from .extras import start_extra
from .gcs import Cluster, PublicCluster, apply_settings
from .quick import start

__all__ = [
    "IMPORTED_BY_A_START",
    "NOT_AS_KNOWN",
    "PYTHON_VERSION",
    "RAY_VERSION",
    "Cluster",
    "PublicCluster",
    "apply_settings",
    "start",
    "start_extra",
    "start_hook",
]
