"""Grids that share runs, on a real Slurm: what is on its way for one is not queued for another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_bed import inside, needs_slurm
from slurm_sweep import Sweep
from waiting import ended, until

from core.store.json_files import read_json, read_jsonl
from slurm.testbed import Bed

pytestmark = [*needs_slurm, pytest.mark.slow]
HELD = {"slurm_additional_parameters": {"hold": True}}


BED = {"nodes": 1}


@pytest.fixture
def grids(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Sweep, Sweep]]:
    """The first of two grids is in the queue, and held there."""
    with inside(bed, monkeypatch, EPSWEEP_STALE_S="10"):
        first, second = Sweep(tmp_path, bed), Sweep(tmp_path, bed, "second")
        first.write_grid(seeds=2)
        first.write_profile(HELD)
        first.launch()
        first.write_profile()
        yield first, second


def release(bed: Bed, sweep: Sweep) -> None:
    bed.run("scontrol", "release", sweep.submissions()[0]["array"])


def test_runs_on_their_way_for_another_grid_are_not_queued_again(
    bed: Bed, grids: tuple[Sweep, Sweep]
) -> None:
    first, second = grids
    second.write_grid(seeds=3)
    assert second.states() == {"pending": 2, "new": 1}, "before it was ever launched"
    waiting = second.look().statuses[:2]
    assert [s.reason for s in waiting] == ["for tiny, JobHeldUser"] * 2
    assert [s.job for s in waiting] == [s.job for s in first.look().statuses]
    assert "1 run submitted: 1 task, arrays" in second.launch()
    release(bed, first)
    second.done()
    first.done()
    for run in second.grid.runs:
        (attempt,) = read_jsonl(second.store.run(run.id).attempts)
        assert attempt["outcome"] == "done"


def test_further_evaluations_wait_until_the_other_grid_has_trained(
    bed: Bed, grids: tuple[Sweep, Sweep]
) -> None:
    first, second = grids
    second.write_grid(seeds=2, steps=2)
    assert second.states() == {"new": 2}
    script = second.command(
        "launch", str(second.grid_file), "--profile", str(second.profile_file), "--dry-run"
    )
    said = ended(script)
    jobs = sorted(str(s.job) for s in first.look().statuses)
    assert f"#SBATCH --dependency=afterany:{':'.join(jobs)}\n" in said
    assert "2 runs submitted: 2 tasks" in second.launch()
    until(lambda: [s.reason for s in second.look().statuses] == ["Dependency"] * 2)
    release(bed, first)
    second.done()
    first.done()
    for run in first.grid.runs:
        folder = first.store.run(run.id)
        assert [row["outcome"] for row in read_jsonl(folder.attempts)] == ["done", "done"]
        result = read_json(folder.result)
        assert result and len(result["evals"]) == 2


def test_jobs_that_are_over_promise_nothing(bed: Bed, grids: tuple[Sweep, Sweep]) -> None:
    first, second = grids
    second.write_grid(seeds=2)
    bed.run("scancel", first.submissions()[0]["array"])
    first.over()
    assert second.states() == {"new": 2}
    second.launch()
    second.done()
