"""What a compute node runs: a job, the attempts it makes, and how they are stopped.

`run_job` is the job of a launch, `sharing` what workers without a launch do; `job` holds what these
share with the trials of a search. All execute a run through `attempt`.
"""
