"""The sbatch that submits worker jobs: options in, a command line out.  Nothing here runs a command."""

from __future__ import annotations

from pathlib import Path

from ..model.value import Value


class HeadJob(Value):
    """What a cluster's worker jobs take over from the job of its head."""

    key: str
    """The key of the cluster's record: the job id, with the restart and the name where there are any."""
    name: str
    """The job's name in Slurm."""
    record: Path
    """The directory of the cluster's record."""
    directory: str
    """The working directory of the job."""
    raycluster: tuple[str, ...]
    """The command that starts raycluster, such as ("/home/ada/venv/bin/raycluster",)."""
