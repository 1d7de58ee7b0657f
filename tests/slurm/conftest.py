"""The Slurm of a file of tests, which says in BED how it differs from the usual one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_slurm import Fake

from slurm.testbed import Bed

USUAL = {"acct": "none", "cpus": 4, "slurmd_timeout": 8}
"""Four CPUs, no accounting, and little patience with nodes that do not answer."""


@pytest.fixture(scope="module")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    with Bed(kill_wait=2, **getattr(request.module, "BED", USUAL)) as up:
        yield up


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    made = Fake(folder)
    made.says("squeue")
    made.says("sacct")
    return made
