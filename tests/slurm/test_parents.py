"""Runs that begin with the weights of others, on a real Slurm: order, failure, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_bed import inside, needs_slurm
from slurm_sweep import Sweep
from waiting import until

from slurm.testbed import Bed

pytestmark = needs_slurm


@pytest.fixture
def tiny(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    with inside(bed, monkeypatch, EPSWEEP_STALE_S="10"):
        made = Sweep(tmp_path, bed)
        made.write_grid(epochs=1, weights={"run": {"weights": "random", "protocol": "linear"}})
        yield made


def test_slurm_holds_children_back_until_their_parents_are_over(tiny: Sweep) -> None:
    """The first time the parent is cancelled in the queue: its child must not be lost with it."""
    tiny.write_profile({"slurm_additional_parameters": {"hold": True}})
    tiny.launch()
    parent, child = tiny.look().statuses
    assert tiny.states() == {"pending": 2} and parent.job and child.job
    assert child.reason == f"waiting for {parent.run.id}"
    needs = tiny.bed.run("squeue", "-h", "-j", child.job, "-o", "%E")
    assert needs.strip().startswith(f"afterany:{parent.job.partition('_')[0]}")
    tiny.bed.run("scancel", parent.job)
    tiny.bed.run("scontrol", "release", child.job)
    until(lambda: tiny.look().statuses[1].state == "new")
    tiny.write_profile()
    tiny.launch()
    assert tiny.look().statuses[1].reason == f"waiting for {parent.run.id}"
    until(lambda: tiny.states() == {"done": 2})
    ends = [tiny.store.run(one.run.id).result.stat().st_mtime for one in tiny.look().statuses]
    assert ends == sorted(ends)
