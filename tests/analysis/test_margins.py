"""Margin consistency: tau and its interval, detection, estimates, tables and figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_store import grid, manifest
from margin_store import EVAL_ID, add_margins, asking, measured
from scipy.stats import kendalltau

from analysis import Results
from analysis.command import MARGIN, Source, tables
from analysis.figures import draw
from analysis.margins.detection import (
    TPRS,
    Images,
    detect,
    estimates,
    is_rare,
    known,
    roc,
    threshold,
)
from analysis.margins.kendall import _Pairs, rank_correlation
from analysis.margins.tables import margin_tables
from analysis.margins.trends import sentences
from core.config import ConfigError

GENERATOR = np.random.default_rng(7)


def tied(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Values with ties in each and in both, and infinite ones."""
    x = GENERATOR.exponential(size=n).round(1)
    x[x > 1.5] = np.inf
    return x, (np.minimum(x, 2) + GENERATOR.normal(size=n)).round(1)


def test_tau_of_every_resample_is_that_of_scipy() -> None:
    for n in (2, 3, 17, 60):
        x, y = tied(n)
        counts = GENERATOR.multinomial(n, np.full(n, 1 / n), size=20).T
        for column, tau in zip(counts.T, _Pairs(x, y).taus(counts), strict=True):
            drawn = np.repeat(np.arange(n), column)
            assert tau == pytest.approx(kendalltau(x[drawn], y[drawn]).statistic, nan_ok=True)


def test_tau_ranks_infinite_distances_last_and_has_a_percentile_interval() -> None:
    x, y = tied(80)
    found = rank_correlation(x, y)
    last = np.where(np.isinf(x), 9.0, x)
    assert found == rank_correlation(last, y) == rank_correlation(x, y)
    assert found.value == pytest.approx(kendalltau(last, y).statistic)
    taus = [
        kendalltau(last[drawn], y[drawn]).statistic
        for drawn in np.random.default_rng(80).integers(80, size=(100, 80))
    ]
    few = rank_correlation(x, y, resamples=100)
    assert (few.low, few.high) == pytest.approx((*np.quantile(taus, [0.025, 0.975]),))
    assert found.low < found.value < found.high


def test_equal_margins_have_no_tau() -> None:
    assert np.isnan(rank_correlation(np.arange(9.0), np.ones(9)).value)


def by_hand(margin: np.ndarray, brittle: np.ndarray) -> list[tuple[float, float, float]]:
    """(false positive rate, recall, precision) at every threshold from the strictest."""
    points = []
    for at in sorted(set(margin)):
        flagged = margin <= at
        hits, alarms = (flagged & brittle).sum(), (flagged & ~brittle).sum()
        points.append((alarms / (~brittle).sum(), hits / brittle.sum(), hits / (hits + alarms)))
    return points


def test_detection_by_its_definitions() -> None:
    distance, margin = tied(120)
    brittle = distance <= 0.7
    found, points = detect(margin, brittle), by_hand(margin, brittle)
    pairs = [
        1.0 if a < b else 0.5 if a == b else 0.0 for a in margin[brittle] for b in margin[~brittle]
    ]
    assert found.auroc == pytest.approx(np.mean(pairs))  # P(brittle has the smaller margin)
    area, recall, precision = 0.0, 0.0, 1.0
    for _, higher, next_precision in points:
        area += (higher - recall) * (precision + next_precision) / 2
        recall, precision = higher, next_precision
    assert found.aupr == pytest.approx(area)
    reached = min(recall for _, recall, _ in points if recall >= 0.95)
    assert found.fpr95 == min(false for false, recall, _ in points if recall == reached)
    false, true = roc(margin, brittle)
    assert [*zip(false, true, strict=True)] == [(0, 0), *((f, r) for f, r, _ in points)]


def test_detection_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    distance, margin = tied(200)
    brittle = distance <= 0.7
    found = detect(margin, brittle)
    precision, recall, _ = metrics.precision_recall_curve(brittle, -margin)
    assert found.auroc == pytest.approx(metrics.roc_auc_score(brittle, -margin))
    assert found.aupr == pytest.approx(metrics.auc(recall, precision))


@pytest.mark.parametrize(("count", "rare"), [(0, True), (1, True), (2, False), (1998, False)])
def test_detection_is_skipped_if_nearly_all_images_are_alike(count: int, rare: bool) -> None:
    brittle = np.arange(2000) < count
    assert is_rare(brittle) == is_rare(~brittle) == rare


def test_estimates_follow_both_rules() -> None:
    arrays = measured(600)
    margin = arrays["logit_margin"].astype(float)
    brittle, right = arrays["distance"] <= 4 / 255, arrays["correct"]
    images = Images(margin, brittle, right)
    found = estimates(images)
    generator = np.random.default_rng(600)
    for fixed, best in zip(found.fixed, found.best, strict=True):
        rows = generator.permutation(600)[:120]
        part = {}
        for rate in TPRS:
            at = min(m for m in margin[rows] if (margin[rows][brittle[rows]] <= m).mean() >= rate)
            assert threshold(margin[rows], brittle[rows], rate) == at
            part[at] = (right[rows] & (margin[rows] > at)).mean()
        truth = (right[rows] & ~brittle[rows]).mean()
        at = min(part, key=lambda one: abs(part[one] - truth))
        assert best == (right & (margin > at)).mean()
        at = threshold(margin[rows], brittle[rows], 0.95)
        assert fixed == (right & (margin > at)).mean()
    assert [known(n) for n in (50, 100, 512, 2500, 10_000)] == [50, 50, 102, 500, 500]


def test_a_perfect_margin_estimates_perfectly_and_nothing_brittle_flags_nothing() -> None:
    distance = np.arange(100.0)
    images = Images(distance, distance < 50, np.ones(100, bool))
    assert max(abs(one - 0.5) for one in estimates(images).best) < 0.1
    none = Images(distance, distance < 0, distance < 80)
    assert set(estimates(none).fixed) == {0.8}


Made = tuple[Source, list[Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A sweep of six runs: one with infinite distances, one with 12 images, one without its
    evaluation of margins."""
    root = tmp_path_factory.mktemp("margins")
    runs = grid(["vit"], ["cars", "cub"], ["4/255"])
    for seed, run in enumerate(runs[:-1]):
        arrays = measured(12 if seed == 1 else 200, seed=seed)
        if seed != 3:
            arrays["feature_margin"] = arrays["logit_margin"] * 2
        if seed == 2:
            arrays["distance"][:7] = np.inf
        add_margins(root, run, arrays)
    return Source.store(root, asking(manifest(root, runs))), runs


def results(made: Made) -> Results:
    assert made[0].results
    return made[0].results


def test_the_frame_of_margins(made: Made) -> None:
    frame, run = results(made).margins, made[1][2]
    arrays = measured(200, seed=2)
    distance = arrays["distance"].astype(float)
    distance[:7] = np.inf
    mine = frame[frame["run_id"] == run.id].set_index(["metric", "score", "strength"])["value"]
    assert set(frame.loc[frame["run_id"] == run.id, "failed"]) == {7}
    tau = kendalltau(distance, arrays["logit_margin"]).statistic
    assert (
        mine["tau", "logit", ""] == pytest.approx(mine["tau", "feature", ""]) == pytest.approx(tau)
    )
    brittle = distance <= 8 / 255
    assert mine["brittle", "", "8/255"] == pytest.approx(100 * brittle.mean())
    assert mine["accuracy", "", "8/255"] == pytest.approx(
        100 * (arrays["correct"] & ~brittle).mean()
    )
    found = detect(arrays["logit_margin"].astype(float), brittle)
    assert mine["auroc", "logit", "8/255"] == found.auroc


def test_tables_say_what_is_missing_and_what_no_attack_has_found(made: Made) -> None:
    output = tables(made[0], numbers=[MARGIN])
    assert not output.complete
    assert f"7 of 200 in {made[1][2].id}" in output.text
    assert f"margins of 12 images, expected at least 50): {made[1][1].id}" in output.text
    assert f"missing (not started): {made[1][5].id}" in output.text
    first = output.tables[0]
    assert first.header == (("tau", "logit"), ("tau", "feature"), ("distance", "median"))
    labels, entries = first.rows[0]
    assert labels == ("ViT", "Cars", "0", "standard")
    found = rank_correlation(
        *(measured(200)[name].astype(float) for name in ("distance", "logit_margin"))
    )
    assert entries[0].text == f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert first.rows[3][1][0].text[0] == "0" and first.rows[3][1][1].text == "\N{EN DASH}"
    assert [entry.text for entry in first.rows[1][1]] == ["missing", "missing", "\N{EN DASH}"]
    auroc = output.tables[1]
    assert auroc.title == "AUROC of detecting brittle images, by the logit margin"
    tidy = tables(made[0], "tidy", numbers=[MARGIN]).text
    assert tidy.startswith("model,dataset,") and EVAL_ID in tidy


def test_strengths_at_which_all_are_brittle_are_skipped_and_named(tmp_path: Path) -> None:
    run = grid(["vit"], ["cars"], ["4/255"], ["sched"])
    arrays = measured()
    arrays["distance"] = arrays["distance"].clip(max=11 / 255)
    arrays["distance"][arrays["distance"].argsort()[:-4]] *= 0.7  # four are robust at 8/255
    add_margins(tmp_path, run[0], arrays)
    source = Source.store(tmp_path, asking(manifest(tmp_path, run)))
    auroc = tables(source, numbers=[MARGIN]).tables[1]
    assert [levels[-1] for levels in auroc.header] == ["2/255", "4/255", "8/255"]
    assert "skipped for all at 12/255, 16/255, 32/255" in auroc.notes[0]
    assert [entry.mark for entry in auroc.rows[0][1]] == ["", "", "*"]
    assert "* fewer than 10 images are brittle, or robust" in auroc.notes


def test_a_distance_of_just_a_strength_counts_as_in_the_evaluation(tmp_path: Path) -> None:
    """Both in float32, in which 2/255 is above its double."""
    runs = grid(["vit"], ["cars"], ["4/255"], ["sched"])
    arrays = measured() | {"correct": np.ones(200, bool)}
    arrays["distance"][:50] = np.float32(2 / 255)
    add_margins(tmp_path, runs[0], arrays)
    frame = Results(tmp_path, asking(manifest(tmp_path, runs))).margins
    (row,) = frame[(frame["metric"] == "accuracy") & (frame["strength"] == "2/255")]["value"]
    assert row == 100 * float((arrays["distance"] > np.float32(2 / 255)).mean())


def test_evaluations_that_measure_different_things_leave_cells_empty(tmp_path: Path) -> None:
    """Not "skipped": the one in l2 has other strengths, and no pseudo-margins."""
    runs = grid(["vit"], ["cars"], ["4/255"], ["sched"])
    arrays = measured()
    add_margins(tmp_path, runs[0], arrays | {"pseudo_logits": arrays["logit_margin"]})
    first = Source.store(tmp_path, asking(manifest(tmp_path, runs))).results
    assert first
    there = first.margins
    other = there[there["score"].isin(["", "logit"]) & there["strength"].isin(["", "4/255"])]
    other = other.assign(eval_id="fmn-l2", eval_norm="l2", failed=3)
    other["strength"] = other["strength"].replace("4/255", "0.5")
    both = pd.concat([there, other])
    consistency, auroc, *_ = margin_tables(both)
    assert [labels[-2:] for labels, _ in auroc.rows] == [
        ("FMN-100 (l-inf, test)", "logit"),
        ("FMN-100 (l-inf, test)", "pseudo, logits"),
        ("FMN-100 (l2, test)", "logit"),
    ]
    shown = dict(zip((text for (text,) in auroc.header), auroc.rows[2][1], strict=True))
    assert {text for text, entry in shown.items() if entry.text} == {"0.5"}
    assert (
        "distances by FMN-100 (l-inf) on 200 test images, FMN-100 (l2) on" in consistency.notes[0]
    )
    assert "median: of the distances, in 1/255 for l-inf" in consistency.notes
    assert any("over 1 run and 2 evaluations" in note for note in consistency.notes)
    assert consistency.notes[-1].endswith(f"3 of 200 in {runs[0].id} (l2)")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"logit_margin": None}, "expected an array 'logit_margin'"),
        ({"distance": np.full(200, np.nan, np.float32)}, "distance: contains NaN"),
    ],
)
def test_arrays_that_cannot_be_ranked_are_reported(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    run = grid(["vit"], ["cars"], ["4/255"], ["sched"])
    arrays = {k: v for k, v in (measured() | change).items() if v is not None}
    add_margins(tmp_path, run[0], arrays)
    output = tables(Source.store(tmp_path, asking(manifest(tmp_path, run))), numbers=[MARGIN])
    assert not output.complete and told in output.text and "damaged" in output.text


def test_a_store_without_margins_says_how_to_get_them(tmp_path: Path) -> None:
    runs = grid(["vit"], ["cars"], ["4/255"], ["sched"])
    source = Source.store(tmp_path, manifest(tmp_path, runs))
    with pytest.raises(ConfigError, match=r"evals: \{attack: fmn, margins: true\}"):
        tables(source, numbers=[MARGIN])
    with pytest.raises(ConfigError, match="no results for this figure"):
        next(draw(source, ["margins"]))


def test_figures(made: Made) -> None:
    drawn = dict(draw(made[0], ["margins", "roc", "estimates"]))
    assert [*drawn] == ["margins-eps4", "roc-eps4", "estimates"]
    first = drawn["margins-eps4"].axes[0]
    assert re.fullmatch(r"ViT, Cars\nstandard: tau = 0\.\d{3}, n = 200", first.get_title())
    lines = [text.get_text() for text in drawn["roc-eps4"].axes[0].get_legend().get_texts()]
    assert [line.partition(":")[0] for line in lines] == ["standard at 4/255", "sched at 4/255"]
    for axes in drawn["estimates"].axes:
        assert len(axes.lines) > 3


def test_trends_compare_the_ends_of_series(tmp_path: Path) -> None:
    hinges = [{"kind": "two_hinge", "T1": 3, "T2": T2} for T2 in (3, 12)]
    runs = grid(["vit"], ["cars"], ["4/255", "8/255"], ["standard", "fix", "sched"])
    runs += grid(["vit"], ["cars"], ["4/255"], hinges)  # type: ignore[arg-type]
    noise = {"standard": 9.0, "fix": 9.0, "sched": 1.0, "T1=3;T2=3": 0.5, "T1=3;T2=12": 3.0}
    for run in runs:
        add_margins(tmp_path, run, measured(noise=noise[run.setting]))
    found = sentences(Results(tmp_path, asking(manifest(tmp_path, runs))).margins)
    taus = {
        name: rank_correlation(one["distance"].astype(float), one["logit_margin"].astype(float))
        for name, one in ((name, measured(noise=level)) for name, level in noise.items())
    }
    rise = taus["sched"].value - taus["standard"].value
    rises = [0, rise, *(taus[name].value - taus["standard"].value for name in [*noise][3:])]
    fall = taus["T1=3;T2=12"].value - taus["T1=3;T2=3"].value
    assert found[0].startswith("Kendall's tau between distance and logit margin over 7 runs: ")
    assert found[1:] == [
        # fix and sched at two strengths, each beside standard; two more series at one strength
        f"tau against eps_g: higher at the upper end in 3 of 4 comparisons, "
        f"{np.mean(rises):+.2f}"
        " on average; the intervals are disjoint in 3 of the rises",
        f"tau against T2: higher at the upper end in 0 of 1 comparisons, {fall:+.2f} on average; "
        "the intervals are disjoint in 0 of the rises and in 1 of the falls",
        f"tau against sched in place of fix: higher at the upper end in 2 of 2 "
        f"comparisons, {rise:+.2f} on average; the intervals are disjoint in 2 of the rises",
    ]


def test_a_seed_that_is_missing_is_counted(tmp_path: Path) -> None:
    runs = grid(["vit"], ["cars"], ["4/255"], ["sched"], seeds=(0, 1, 2))
    for seed, run in enumerate(runs[:2]):
        add_margins(tmp_path, run, measured(seed=seed))
    output = tables(Source.store(tmp_path, asking(manifest(tmp_path, runs))), numbers=[MARGIN])
    assert not output.complete
    first, auroc, *_ = output.tables
    assert auroc.rows[0][1][0].text.endswith(" (2/3)")
    text = first.rows[0][1][0].text
    assert text.endswith(" (2/3)") and "\N{PLUS-MINUS SIGN}" in text


def test_a_network_whose_decision_nothing_changes_has_no_tau(tmp_path: Path) -> None:
    run = grid(["vit"], ["cars"], ["4/255"], ["fix"])
    arrays = measured()
    arrays["distance"][:] = np.inf
    add_margins(tmp_path, run[0], arrays)
    source = Source.store(tmp_path, asking(manifest(tmp_path, run)))
    output = tables(source, numbers=[MARGIN])
    assert [entry.text for entry in output.tables[0].rows[0][1]] == ["undefined", "inf"]
    assert f"200 of 200 in {run[0].id}" in output.text
    titles = [figure.axes[0].get_title() for _, figure in draw(source, ["margins"])]
    assert titles == ["ViT, Cars\nfix: no tau, n = 200"]
