"""Many runs: grid, plan, submission, jobs, status. The only package that imports submitit.

The data flow: `grid` (what to run) -> `state` (what is done) -> `launcher` -> `submit` (where it
runs) -> `worker` (what a node does). `cli` has the verbs; `tune` does the same for searches.
"""
