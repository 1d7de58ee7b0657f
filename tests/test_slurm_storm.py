"""The demo on a real Slurm, small, in a storm: daemons, nodes, jobs and processes die while it
runs, and its tables come out as if nothing had happened. benchmarks/storm.py has the storm."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_bed import needs_slurm

from benchmarks import storm
from slurm.testbed import Bed

pytestmark = [*needs_slurm, pytest.mark.slow]


def test_the_demo_in_a_storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with Bed(acct="none", **storm.BED) as bed:
        for name, value in (bed.env() | storm.ENV).items():
            monkeypatch.setenv(name, value)
        outcome = storm.play(tmp_path, bed, said.append, small=True)
    story = "\n".join(said)
    assert outcome.states == {"done": 8}, story
    assert outcome.overlaps == [], story
    assert outcome.differing == [], story
    stormy, calm = outcome.tables
    assert stormy == calm
    assert all(word in stormy for word in ("glyph", "n = 32", "mini_convnext", "mini_resnet"))
    assert outcome.attempts["done"] == 8 + 2
    # They did meet: requeued twice and preempted; killed, without power; cancelled.
    assert outcome.attempts["interrupted"] >= 3, story
    assert outcome.attempts["lost"] >= 2, story
    assert outcome.attempts["cancelled"] == 1, story
