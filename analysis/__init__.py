"""Run folders -> one tidy table -> the paper's tables, figures, statistics and report.

Reads a store and never writes into a run folder; does not import torch, Slurm or grids.

`results` has the frames, whose rows `rows` makes of a run; `choice` picks those that a table shows.
`paper` lays out the numbered tables and those of a grid, `command` lists the others by name and
joins all for `sweep tables`; how a kind of evaluation is shown is a line in `kinds`.
"""

from analysis.results import Results, load

__all__ = ["Results", "load"]
