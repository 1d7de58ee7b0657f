"""Attacks: projections onto the three balls, the APGD trajectory, and how training uses it.

`trajectory` is a state machine that never calls a model; `run_apgd` calls the model for it.
"""
