"""Evaluations by distance in tables: expected accuracy is the exact integral, also in its interval,
and what several attacks say of the same images stands side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analysis_store import config, manifest
from distance_store import finish_by_distance

from analysis import Results
from analysis.cells import Key, group_cells
from analysis.intervals import Flags
from analysis.paper import main_tables
from core.config import EvalConfig
from core.config.evaluation import MinimalNorm

COARSE = EvalConfig.parse({"attack": "fmn", "epsilons": [0, "4/255"]})
GENERATOR = np.random.default_rng(5)
DISTANCE = GENERATOR.exponential(3, 200) / 255
RIGHT = GENERATOR.random(200) < 0.8


def test_expected_accuracy_is_the_integral_on_any_grid(tmp_path: Path) -> None:
    assert isinstance(COARSE, MinimalNorm)
    run = config(schedule="sched")
    finish_by_distance(tmp_path, run, COARSE, DISTANCE, RIGHT)
    results = Results(tmp_path, manifest(tmp_path, [run], [COARSE]))
    scores = np.where(RIGHT, np.minimum(DISTANCE * 255 / 4, 1), 0)
    found = group_cells(results.values)
    key = next(key for key in found if key.metric == "expected")
    assert found[key].value == pytest.approx(100 * scores.mean(), abs=1e-4)
    interval = Flags(results, results.values).interval(key)
    assert interval.low < 100 * scores.mean() < interval.high < interval.low + 20
    _, per_image = Flags(results, results.values).scores(Key(*key))
    assert per_image == pytest.approx(scores, abs=1e-5)
    (table,) = main_tables(results.values)
    assert any("under FMN-100 (l-inf); expected is the integral" in note for note in table.notes)
