"""Slurm: profiles, limits and job states of a cluster, the current job, and a test bed."""
