"""Hyper-parameter searches: trials, the study that proposes them, their winners."""
