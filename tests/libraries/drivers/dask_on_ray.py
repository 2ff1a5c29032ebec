"""Dask's scheduler is replaced by Ray's: its tasks run on all nodes."""

import socket
import time

import dask
import ray
from ray.util.dask import disable_dask_on_ray, enable_dask_on_ray

ray.init()
enable_dask_on_ray()


@dask.delayed
def where(number: int) -> str:
    """The host, after a while, so that no node does all of it."""
    time.sleep(1)
    return socket.gethostname()


hosts = set(dask.compute(*(where(number) for number in range(48)))[0:])
disable_dask_on_ray()
print("LIBRARY dask", dask.__version__, "NODES", len(hosts))
