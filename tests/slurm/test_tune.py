"""A search on a real Slurm: an array of workers shares its trials, also when one of them dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from slurm_bed import inside, needs_slurm
from slurm_sweep import BASE, Sweep
from waiting import until

from core.store.holder import find_holder
from core.store.json_files import read_jsonl
from slurm.testbed import Bed
from sweep.grid import search
from sweep.grid.search import Progress, Search
from sweep.tune import session, winners

pytestmark = [*needs_slurm, pytest.mark.slow]


BED = {"acct": "none", "cpus": 4}


@pytest.fixture
def tiny(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """A grid of one search, in four trials; no job survives its test."""
    with inside(bed, monkeypatch, EPSWEEP_STALE_S="10"):
        made = Sweep(tmp_path, bed)
        text: dict[str, Any] = {
            "name": "tiny",
            "base": BASE | {"epochs": 10},
            "grid": {"schedule": ["fix", "sched"]},
            "evals": [{"epsilons": "0..2/255", "steps": 1, "images": 20}],
            "tune": {"trials": 4, "grace": 9},
        }
        made.grid_file.write_text(yaml.safe_dump(text))
        made.write_profile()
        yield made


def tune(tiny: Sweep, workers: int) -> list[Progress]:
    """`sweep tune`, as far as submitting goes."""
    console = Console(quiet=True)
    return session.tune(tiny.grid, tiny.store, tiny.profile, workers=workers, console=console)


def wanted(tiny: Sweep) -> Search:
    (found,) = session.searches(tiny.grid, tiny.store)
    return found


def submissions(tiny: Sweep) -> list[dict[str, Any]]:
    return read_jsonl(session.folder(tiny.grid, tiny.store).submissions)


def test_an_array_of_workers_shares_a_search(tiny: Sweep) -> None:
    assert [seen.over for seen in tune(tiny, 2)] == [False]
    (row,) = submissions(tiny)
    assert row["tasks"] == 2
    assert len(session.at_work(session.folder(tiny.grid, tiny.store))) == 2
    tune(tiny, 2)
    assert len(submissions(tiny)) == 1, "two workers are there already"
    until(lambda: search.look(wanted(tiny)).over)
    tiny.over()
    seen = search.look(wanted(tiny))
    assert seen.real == 4 and seen.winner and seen.winner["trials"] == 4
    jobs = set()
    for number in range(4):
        (attempt,) = read_jsonl(wanted(tiny).trial_dir(number).attempts)
        jobs.add(attempt["job"])
    assert jobs == {f"{row['array']}_0", f"{row['array']}_1"}
    tune(tiny, 2)
    assert len(submissions(tiny)) == 1, "there is nothing left to do"
    grid = winners.apply(tiny.grid, tiny.store)
    winners.require(grid)
    assert len({run.config.optim.lr for run in grid.runs}) == 1


def begun(tiny: Sweep, epochs: int = 2) -> int | None:
    """A trial under way, after some epochs."""
    for number in range(4):
        run = wanted(tiny).trial_dir(number)
        current = find_holder(run)
        if current and current.live and len(read_jsonl(run.metrics)) >= epochs:
            return number
    return None


@pytest.mark.parametrize("how", ["killed", "requeued"])
def test_a_lost_worker_does_not_lose_its_trial(tiny: Sweep, how: str) -> None:
    tune(tiny, 1)
    until(lambda: begun(tiny) is not None)
    number = begun(tiny)
    assert number is not None
    run = wanted(tiny).trial_dir(number)
    current = find_holder(run)
    assert current
    before = read_jsonl(run.metrics)[:2]
    if how == "killed":
        os.kill(current.info["pid"], signal.SIGKILL)
        tiny.over()
        tune(tiny, 1)
    else:
        tiny.bed.run("scancel", "--signal=USR2", str(current.info["job"]))
    until(lambda: search.look(wanted(tiny)).over)
    tiny.over()
    outcomes = [row["outcome"] for row in read_jsonl(run.attempts)]
    assert outcomes == ["lost" if how == "killed" else "interrupted", "done"]
    assert read_jsonl(run.metrics)[:2] == before, "it went on from its checkpoint"
    assert search.look(wanted(tiny)).real == 4


def test_cancel_stops_the_workers(tiny: Sweep) -> None:
    tune(tiny, 1)
    until(lambda: begun(tiny, 1) is not None)
    assert session.stop(tiny.grid, tiny.store) == 1
    tiny.over()
    seen = search.look(wanted(tiny))
    assert seen.counts["running"] == 0 and seen.counts["interrupted"] == 1 and not seen.over
