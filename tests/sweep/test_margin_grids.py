"""The grids about margins: whose runs they judge, and the small one from the demo's weights to its
tables."""

from __future__ import annotations

import pytest
import torch
from whole_run import execute

from analysis.command import MARGIN, Source, tables
from core.config import RobustAccuracy
from core.model import network
from core.store.folders import Store
from core.store.json_files import read_jsonl
from sweep.grid import load_grid
from sweep.submit.submissions import manifest_row

QUICK = RobustAccuracy(epsilons=("0",), images=8)


def test_they_judge_runs_of_other_grids() -> None:
    ids = {name: {run.id for run in load_grid(name).runs} for name in ("demo", "margins_mini")}
    assert ids["margins_mini"] < ids["demo"]
    others = ("epsilon_scheduling", "robust_backbones", "strength_sweep", "t1_t2")
    known = {run.id for name in others for run in load_grid(name).runs}
    mine = {run.id for run in load_grid("margins").runs}
    assert (len(mine), len(mine & known)) == (34, 28)


@pytest.mark.slow
def test_the_small_grid_judges_a_run_of_the_demo_without_training_it(store: Store) -> None:
    grid = load_grid("margins_mini")
    run = next(run for run in grid.runs if run.setting == "standard")
    fresh = run.config.model_copy(update={"weights": "random"})
    place = store.weights / run.config.weights
    place.parent.mkdir(parents=True)
    torch.save(network.build(fresh, 64, store).net.state_dict(), place)
    execute(store, run.config, [QUICK], images=64)
    folder = store.run(run.id)
    before = (read_jsonl(folder.metrics), folder.checkpoint.read_bytes())
    assert len(before[0]) == run.config.epochs
    execute(store, run.config, list(run.evals), images=64)
    assert (read_jsonl(folder.metrics), folder.checkpoint.read_bytes()) == before
    made = tables(Source.store(store.root, [manifest_row(run)]), numbers=[MARGIN])
    assert made.complete
    assert float(made.tables[0].rows[0][1][0].text.partition(" ")[0]) <= 1
