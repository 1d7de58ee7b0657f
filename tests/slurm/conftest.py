"""The Slurm of a file of tests, which says in BED how it differs from the usual one."""

from collections.abc import Iterator

import pytest

from slurm.testbed import Bed

USUAL = {"acct": "none", "cpus": 4, "slurmd_timeout": 8}
"""Four CPUs, no accounting, and little patience with nodes that do not answer."""


@pytest.fixture(scope="module")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    with Bed(kill_wait=2, **getattr(request.module, "BED", USUAL)) as up:
        yield up
