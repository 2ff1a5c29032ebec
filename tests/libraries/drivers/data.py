"""Ray Data's blocks are worked on by all nodes."""

import socket
import time
from typing import Any

import ray


def work(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the host that made it."""
    time.sleep(0.5)
    return {"id": row["id"], "host": socket.gethostname()}


ray.init()
rows = ray.data.range(48, override_num_blocks=48).map(work).take_all()
assert sorted(row["id"] for row in rows) == list(range(48))
print("LIBRARY data", ray.__version__, "NODES", len({row["host"] for row in rows}))
