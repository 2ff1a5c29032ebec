"""Slurm: its notations, its environment variables and its commands.  Slurm's words in, values out."""
