"""A real Slurm for the tests that need one: marks, a submit and a wait."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from waiting import until

from slurm.testbed import Bed, install

needs_slurm = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(install.missing()), reason="python -m slurm.testbed install"),
]
needs_database = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        bool(install.missing(dbd=True)), reason="python -m slurm.testbed install --dbd"
    ),
]


def submit(bed: Bed, command: str, *options: str) -> str:
    """Id of a job that runs `command` and writes no files."""
    wrap = ("-o", "/dev/null", *options, "--wrap", command)
    return bed.run("sbatch", "--parsable", *wrap).strip()


@contextmanager
def inside(bed: Bed, monkeypatch: pytest.MonkeyPatch, **environ: str) -> Iterator[None]:
    """Commands of this process talk to the bed; no job survives the block."""
    for name, value in (bed.env() | environ).items():
        monkeypatch.setenv(name, value)
    bed.wait_idle()  # a former test may have left a node drained
    yield
    bed.run("scancel", "--user", getpass.getuser())
    until(lambda: not bed.run("squeue", "-h"))
