"""Random pauses, so that the nodes of a cluster do not all do the same in the same moment.

`random` would load four compiled modules from the shared file system, for numbers that need not be good.
"""

from __future__ import annotations

import os


def between(low: float, high: float) -> float:
    """A number from ``low`` to ``high``."""
    return low + (high - low) * int.from_bytes(os.urandom(4), "little") / 0xFFFFFFFF
