"""The Slurm of the tests that disturb running jobs; other files start one as they need it."""

from collections.abc import Iterator

import pytest

from slurm.testbed import Bed


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """Four CPUs, no accounting, and little patience with processes and nodes that do not answer."""
    with Bed(acct="none", cpus=4, kill_wait=2, slurmd_timeout=8) as up:
        yield up
