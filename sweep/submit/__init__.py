"""Handing runs to what executes them: this process, local workers, Slurm or another scheduler."""
