"""Hyper-parameter searches: trials, the study that proposes them, and their winners.

`session` starts workers, `trial_job` is what they do, `study` what Optuna decides, `winners` how
the result reaches the runs of a grid.
"""
