"""Hyper-parameter searches: trials, the study that proposes them, and their winners."""
