"""Which backbones to try first: what a budget pays for, own runs, how sure it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from guide_runs import EVALUATIONS, finished

from analysis import Results
from analysis.guide import advice
from analysis.guide.command import Measured, tables
from analysis.guide.design import LOSSES, METRICS
from analysis.guide.measurements import build, published
from analysis.guide.own import of_runs, with_own
from core.config import ConfigError, EvalConfig
from core.datasets import miniature
from core.store.folders import Store
from slurm.profile import read_profile
from sweep.cli.guide import hours_of

FFT = "FFT (50 epochs)"
SETS = ("caltech101", "stanford_cars", "flowers-102")
BACKBONES = ("convnext_base.fb_in22k", "vit_base_patch16_224.mae", "coat_tiny.in1k")
Call = Callable[..., tuple[int, str, str]]


def frame(accuracy: Callable[[int, int, int], float | None]) -> pd.DataFrame:
    """All five accuracies of every (backbone, loss, dataset), by their places."""
    rows: list[dict[str, Any]] = []
    for (b, backbone), (k, loss), (d, dataset) in product(
        *map(enumerate, (BACKBONES, LOSSES, SETS))
    ):
        value = accuracy(b, k, d)
        rows.append(
            {
                "protocol": FFT,
                "backbone": backbone,
                "loss": loss,
                "dataset": dataset,
                **dict.fromkeys(METRICS, value),
                "n": None,
                "run_id": "",
                "reason": "",
                "state": "missing" if value is None else "done",
            }
        )
    return build(rows)


HOURS = {(backbone, loss): 4.0 - b for (b, backbone), loss in product(enumerate(BACKBONES), LOSSES)}


def names(found: advice.Advice) -> list[tuple[str, str]]:
    return [(one.published, one.loss) for one in found.picks]


def test_the_best_everywhere_comes_first_and_the_data_tell_it() -> None:
    clear = frame(lambda b, k, d: 0.8 - 0.3 * b + 0.01 * k - 0.05 * d)
    found = advice.advise(clear, HOURS, protocol=FFT)
    first = found.picks[0]
    assert (first.published, first.loss) == (BACKBONES[0], "TRADES")
    assert (first.low, first.high, first.datasets, first.measured) == (1, 1, 3, None)
    assert first.hours == 4.0 and len(found.picks) == 5
    assert sum(one.best for one in found.picks) == pytest.approx(100, abs=0.5)
    assert names(advice.advise(clear, HOURS, protocol=FFT)) == names(found)


def test_what_the_data_cannot_tell_is_stated() -> None:
    turning = frame(lambda b, k, d: 0.5 + 0.2 * ((b + d) % 3 == 0))  # each best somewhere
    found = advice.advise(turning, HOURS, protocol=FFT)
    assert "the data cannot separate the first pick from" in found.remarks[1]
    assert found.picks[0].low < found.picks[0].high


def test_a_budget_pays_for_its_picks() -> None:
    clear = frame(lambda b, k, d: 0.8 - 0.3 * b)
    found = advice.advise(clear, HOURS, protocol=FFT, budget=7.0, most=9)
    assert sum(one.hours or 0 for one in found.picks) <= 7
    assert names(found)[0][0] == BACKBONES[0]  # 4 hours; 3 are left for others
    cheap = advice.advise(clear, HOURS, protocol=FFT, budget=2.5)
    assert {name for name, _ in names(cheap)} == {BACKBONES[2]}
    with pytest.raises(ConfigError, match="--budget 1: too small for any run, expected at least 2"):
        advice.advise(clear, HOURS, protocol=FFT, budget=1.0)
    unknown = advice.advise(
        clear, {**HOURS, (BACKBONES[0], "TRADES"): None}, protocol=FFT, budget=9
    )
    assert "cost is unknown: convnext_base.fb_in22k" in unknown.remarks[-1]
    assert (BACKBONES[0], "TRADES") not in names(unknown)


def test_the_dataset_itself_counts_for_half() -> None:
    """Good on cars alone against good on the two others."""
    mixed = frame(lambda b, k, d: 0.9 if (b == 2) == (d == 1) else 0.1)
    found = advice.advise(mixed, HOURS, protocol=FFT, dataset="stanford_cars")
    assert found.picks[0].published == BACKBONES[2] and found.picks[0].measured == 90
    assert (
        found.remarks[0]
        == "6 configurations are measured on stanford_cars, besides 2 other datasets"
    )
    assert advice.advise(mixed, HOURS, protocol=FFT).picks[0].published != BACKBONES[2]
    shares = advice.chances(advice.scores_of(mixed, FFT, METRICS), "stanford_cars")
    assert np.allclose(shares, [0.25, 0.25, 0.5]) and shares.sum() == 1


def test_the_level_of_a_dataset_of_which_little_is_known() -> None:
    """One weak configuration is measured there: what it gives elsewhere tells the level."""
    part = frame(lambda b, k, d: 0.9 - 0.4 * b - 0.1 * d if d < 2 or (b, k) == (2, 0) else None)
    scores = advice.scores_of(part, FFT, METRICS)
    # 0.9 less 0.2 for the third dataset, as the weak one shows; the mean backbone is 0.4 below
    assert advice.level(scores, "flowers-102") == pytest.approx(0.9 - 0.4 - 0.2)


def test_own_runs_take_the_place_of_published_ones(tmp_path: Path) -> None:
    finished(tmp_path, 80, backbone="r50", epochs=50)
    joined, own, _ = with_own(published(), Results(tmp_path, index=False))
    assert own == 1 and len(joined) == 1440
    mine = joined[(joined["backbone"] == "resnet50.a1_in1k") & (joined["run_id"] != "")]
    assert [*mine["clean"]] == [0.8] and [*mine["dataset"]] == ["stanford_cars"]


def test_only_what_is_measured_as_published_stands_beside_it(tmp_path: Path) -> None:
    """Another strength of training, of an attack, another severity: not the same accuracy."""
    finished(tmp_path, 80, backbone="r50", epochs=50, epsilon_g="8/255")
    weak = EvalConfig.parse({"attack": "autoattack", "norm": "l2", "epsilons": ["0", "0.5"]})
    harsh = EvalConfig.parse({"attack": "corruptions", "severity": 5})
    finished(tmp_path, 70, (EVALUATIONS[0], weak, harsh), backbone="vit", epochs=50)
    results = Results(tmp_path, index=False)
    joined, own, left_out = with_own(published(), results)
    assert (len(joined), own) == (1440, 0)
    assert left_out == {
        "trained against 8/255, published: 4/255": 1,
        "no evaluation gives l2, l1, common as published": 1,
    }
    joined, own, left_out = with_own(published(), results, ("clean", "linf"))
    assert own == 1 and [*left_out.values()] == [1]
    assert [*joined.loc[joined["run_id"] != "", "linf"]] == [0.6]
    compared = tables(Measured(of_runs(results), results), names=["measurements"], compare=True)
    assert not compared.complete and "trained against 8/255" in " ".join(compared.remarks)
    mine = tables(Measured(of_runs(results), results), names=["measurements"])
    assert "trained against" not in " ".join(mine.remarks)


def test_the_command(call: Call, tmp_path: Path) -> None:
    words = ["suggest-backbone", "cars", "--budget", "10", "--root", str(tmp_path)]
    code, out, err = call(*words, "--threat", "clean", "linf")
    assert (code, err) == (0, "") and "GPU-hours" in out and "on cars" in out
    assert "from 1440 measurements, all of them published" in out
    words[1] = "stanford_cars"
    code, again, _ = call(*words, "--json", "--picks", "2")
    picks = json.loads(again)
    assert code == 0 and len(picks) == 2 and sum(one["hours"] for one in picks) <= 10
    assert picks[0]["hours"] == pytest.approx(float(out.splitlines()[1].split()[2]), abs=0.005)


def test_a_dataset_without_measurements(call: Call, tmp_path: Path) -> None:
    """Its hours are those of its own number of images if it is known or here."""
    _, out, _ = call("suggest-backbone", "cras", "--root", str(tmp_path), "--picks", "1")
    assert "cras, on which nothing is measured, did you mean 'cars'?: assumed" in out
    one = "resnet50.a1_in1k", "TRADES"
    miniature.write_folder(tmp_path / "few", classes=2, each=2)
    store, local = Store(tmp_path), read_profile("local")
    usual, dogs, few = (
        hours_of(name, "FFT (5 epochs)", store, local)[one] or 0.0
        for name in ("cras", "dogs", str(tmp_path / "few"))
    )
    assert dogs > 4 * usual > 40 * few > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "DATASET: expected a name, got ''"),
        (["--threat", "lin"], "--threat: unknown accuracy 'lin', did you mean 'linf'?"),
        (["--budget", "0.001"], "--budget 0.001: too small for any run, expected at least"),
        (["--protocol", "FFT (50 epoch)"], "did you mean 'FFT (50 epochs)'?"),
    ],
)
def test_bad_questions(call: Call, tmp_path: Path, words: list[str], message: str) -> None:
    code, out, err = call("suggest-backbone", "--root", str(tmp_path), *words)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
