"""Slurm: profiles, limits and job states of a cluster, the current job, and a test bed.

`profile` is what a YAML file says, `parameters` its part for submitit, `cluster` talks to Slurm's
commands, `executors` names what can run jobs.
"""
