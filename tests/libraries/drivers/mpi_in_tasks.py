"""mpi4py inside tasks: each is an MPI program of its own, which must not take Slurm's rank for its own."""

import socket
import time

import mpi4py
import ray

ray.init()


@ray.remote(scheduling_strategy="SPREAD")
def size() -> tuple[str, int]:
    """Host, and how many ranks this process believes there are."""
    from mpi4py import MPI

    time.sleep(1)  # so that no node does all
    return socket.gethostname(), MPI.COMM_WORLD.Get_size()


found = ray.get([size.remote() for _ in range(12)])
assert {ranks for _, ranks in found} == {1}, found
print("LIBRARY mpi4py", mpi4py.__version__, "NODES", len({host for host, _ in found}))
