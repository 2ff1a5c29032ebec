"""The hosts of tests/slurm, for these tests too."""

from tests.slurm.conftest import beds, slurm

__all__ = ["beds", "slurm"]
