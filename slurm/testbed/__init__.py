"""A real Slurm on one host for tests: `Bed` in Python, `python -m slurm.testbed` in a shell."""

from slurm.testbed.bed import Bed as Bed
from slurm.testbed.bed import BedError as BedError
from slurm.testbed.config import Knobs as Knobs
