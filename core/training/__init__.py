"""Training: the loop over epochs, one optimiser step, losses, schedules, augmentation.

`trainer` is the loop, `step` one optimiser step. A schedule is a class in `schedules`, or in
`adaptive` if it watches the training; a loss is one in `objectives`.
"""
