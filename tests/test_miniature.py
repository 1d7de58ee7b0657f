"""The rehearsal of a grid: real, small, and without a trace in the store."""

from pathlib import Path

import pytest
from rich.console import Console

from core.rundir import Store
from sweep import grid as grids
from sweep import launch, miniature
from sweep.plan import State

GRID = """
name: big
base: {image_size: 32, weights: random, batch: 64, optim.lr: 1e-3}
grid:
  backbone: [mini_convnext]
  dataset: [fake, cars]
  epsilon_g: [4/255, 8/255]
  schedule: [standard, fix, sched, uniform]
seeds: [0, 1]
"""


@pytest.fixture
def big(tmp_path: Path) -> grids.Grid:
    (tmp_path / "big.yaml").write_text(GRID)
    return grids.load(tmp_path / "big.yaml")


def test_every_distinct_kind_of_run_is_kept_and_shrunk(big: grids.Grid, store: Store) -> None:
    shrunk = {miniature.shrink(run, store).id: miniature.shrink(run, store) for run in big.runs}
    # The seeds and strengths fold together, and cars, which is not here, becomes noise images.
    assert len(big.runs) == 2 * 2 * (1 + 2 * 3)
    assert len(shrunk) == 4
    assert {run.config.schedule.kind for run in shrunk.values()} == {
        "standard",
        "two_hinge",
        "uniform",
    }
    for run in shrunk.values():
        assert run.config.backbone == "mini_convnext"
        assert run.config.image_size == 32
        assert run.config.epochs == 2
        assert run.config.batch <= 4
        assert run.config.optim.lr == 1e-3


@pytest.mark.slow
def test_a_rehearsal_runs_for_real_and_leaves_nothing(
    big: grids.Grid, store: Store, tmp_path: Path
) -> None:
    with open(tmp_path / "said", "w") as file:
        console = Console(file=file, width=200)
        final = miniature.rehearse(big, launch.look(big, store), store, console)
    assert final.counts == {State.DONE: 4}
    assert "noise images stand in: cars" in (tmp_path / "said").read_text()
    assert not store.root.exists()
