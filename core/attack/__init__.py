"""Attacks: projections onto the three balls, the APGD trajectory, and how training uses it.

`trajectory` is a state machine that never calls a model; `run_apgd` calls the model for it.

Each norm has a projection in `projection`, a trajectory in `trajectory` and an approach in
`approaches`.
"""
