"""Clusters that grow and shrink: Ray's autoscaler as the engine, Slurm jobs as its nodes."""
