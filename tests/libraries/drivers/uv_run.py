"""Run as `uv run --no-project`: tasks run in the environment of raycluster."""

import importlib.metadata
import os
import socket
import sys
import time

import ray

ray.init()


@ray.remote(scheduling_strategy="SPREAD")
def where() -> tuple[str, str]:
    """Host and Python, after a while, so that no node does all."""
    time.sleep(1)
    return socket.gethostname(), sys.prefix


found = ray.get([where.remote() for _ in range(12)], timeout=60)
assert {prefix for _, prefix in found} == {os.environ["EXPECTED_PREFIX"]}, found
print("LIBRARY uv", importlib.metadata.version("uv"), "NODES", len({host for host, _ in found}))
