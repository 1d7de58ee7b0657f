"""Several processes per run on a real Slurm: they survive what single ones survive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_bed import inside, needs_slurm
from slurm_sweep import Sweep, numbers
from waiting import until

from core.options import Options
from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl
from slurm.testbed import Bed
from sweep.state.plan import State
from sweep.worker import attempt

pytestmark = [*needs_slurm, pytest.mark.slow]


@pytest.fixture
def tiny(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    with inside(bed, monkeypatch, EPSWEEP_STALE_S="10"):
        made = Sweep(tmp_path, bed)
        made.write_grid(epochs=14)
        yield made


def ranks(tiny: Sweep) -> list[int]:
    """Pids of the processes that work on the sweep, in no order."""
    command = f"^{sys.executable} .* {tiny.sweep.logs} epsweep-"
    found = subprocess.run(["pgrep", "-f", command], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def close(tiny: Sweep, tmp_path: Path) -> None:
    """The run has the numbers of one process on its own, up to rounding."""
    run = tiny.grid.runs[0]
    store = Store(tmp_path / "alone")
    options = Options(tracking="none", group=None)
    assert attempt.make(run.config, run.evals, store, options) == "done"
    ours, theirs = numbers(tiny.run), numbers(store.run(run.id))
    for one, two in zip(ours[:-1], theirs[:-1], strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-3)
        assert one["val_clean_images"] == two["val_clean_images"]
    for one, two in zip(ours[-1], theirs[-1], strict=True):
        assert one["n"] == two["n"] and abs(one["correct"] - two["correct"]) <= 1


def test_a_run_on_two_nodes_goes_on_after_a_requeue(tiny: Sweep, tmp_path: Path) -> None:
    tiny.write_profile({"nodes": 2}, gpus_per_run=2)
    tiny.launch()
    tiny.trained(3)
    tiny.bed.run("scontrol", "requeue", tiny.job())
    tiny.done()
    assert tiny.outcomes() == ["interrupted", "done"]
    env = read_json(tiny.run.env)
    assert env and env["processes"] == 2
    close(tiny, tmp_path)


def test_no_half_of_a_team_goes_on_alone(tiny: Sweep, tmp_path: Path) -> None:
    """Each of its processes killed in turn."""
    tiny.write_profile(gpus_per_run=2)
    tiny.launch()
    tiny.trained(2)
    leader = tiny.holder.info["pid"]
    (other,) = {*ranks(tiny)} - {leader}
    os.kill(other, signal.SIGKILL)
    tiny.over()
    assert (tiny.only().state, tiny.only().kind) == (State.INTERRUPTED, "lost")
    assert "1 run submitted" in tiny.launch()
    tiny.trained(6)
    tiny.kill(signal.SIGKILL)
    tiny.over()
    assert tiny.only().state is State.INTERRUPTED
    assert ranks(tiny) == []
    tiny.launch()
    tiny.done()
    assert tiny.outcomes() == ["lost", "lost", "done"]
    close(tiny, tmp_path)


def test_scancel_and_the_time_limit_are_heard_by_the_leader(tiny: Sweep, tmp_path: Path) -> None:
    tiny.write_profile({"timeout_min": 20}, gpus_per_run=2)
    tiny.launch()
    tiny.trained(2)
    tiny.bed.run("scancel", "--signal=USR2", tiny.job())
    until(lambda: tiny.outcomes()[0] == "interrupted")
    tiny.trained(6)
    tiny.bed.run("scancel", tiny.job())
    tiny.over()
    assert tiny.only().state is State.CANCELLED
    assert ranks(tiny) == []
    tiny.retry()
    tiny.done()
    assert [row["outcome"] for row in read_jsonl(tiny.run.attempts)] == [
        "interrupted",
        "cancelled",
        "done",
    ]
    close(tiny, tmp_path)
