"""Libraries on top of Ray, on three Slurm hosts: `make libraries`."""
