"""Run folders -> one tidy table -> the paper's tables, figures, statistics and report.

Reads a store and never writes into a run folder; does not import torch, Slurm or grids.
"""

from analysis.results import Results, load

__all__ = ["Results", "load"]
