"""What runs will cost: forward passes, FLOPs, GPU-hours.

`passes` counts what a run does, `device` says how fast a GPU is, `cost` divides the one by the
other.
"""
