"""Handing runs to something that executes them: this process, local workers, or Slurm."""
