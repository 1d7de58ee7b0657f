"""The verdict of a report: which of two levels of any axis is better, by how much, how surely."""

from __future__ import annotations

import re
from pathlib import Path

import analysis_store as made
import numpy as np
import pytest
from scipy import stats

from analysis import Results
from analysis.report import Digests
from analysis.report.comparison import Comparison, comparisons, effect
from analysis.report.facts import findings
from analysis.report.verdict import Verdict
from analysis.variants import fields_of
from core.config import RunConfig, Strength


def critical(share: float, n: int = 100) -> np.ndarray:
    """All of the first `share` of images survive every strength, the others break at once."""
    return np.where(np.arange(n) < round(share * n), 9, 0)


def judged(root: Path, runs: dict[RunConfig, float]) -> Verdict:
    """Of runs that are right on these shares of images, whatever the attack."""
    for run, share in runs.items():
        flags = critical(share)
        flags[: len(flags) // 10] = 5  # not constant: some break at 5/255
        made.finish(root, run, critical=flags)
    return Verdict(Digests.of(Results(root, made.manifest(root, runs))))


def named(verdict: Verdict) -> dict[str, Comparison]:
    return {one.name: one for one in verdict.comparisons}


def test_a_difference_is_a_mean_over_pairs_with_students_interval() -> None:
    gaps = [1.0, 4.0, -2.0, 3.0]
    found = effect(gaps)
    expected = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert (found.mean, found.n, found.better) == (1.5, 4, 3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert effect([9.7, 61.2])[1:3] == (-100, 100), "Student's would be -292 to 363 points"
    assert effect([2.0])[1:3] == (None, None), "one pair tells nothing of the spread"


def test_every_axis_of_the_grid_is_compared_with_all_else_equal(tmp_path: Path) -> None:
    shares = {"fix": 0.3, "sched": 0.5, "uniform": 0.6}
    runs = {
        made.config(backbone=b, epsilon_g="4/255", schedule=s, objective={"kind": o}): share
        - 0.1 * (o == "trades")
        + 0.05 * (b == "swin")
        for b in ("vit", "swin")
        for s, share in shares.items()
        for o in ("at", "trades")
    }
    found = named(judged(tmp_path, runs))
    assert list(found) == [
        "sched instead of fix",
        "uniform instead of fix",
        "uniform instead of sched",
        "objective.kind: trades instead of at",
    ]
    at = Strength.parse("4/255", "linf")
    for name, gap in zip(found, (20, 30, 10, -10), strict=True):
        for metric in ("clean", "adv", "expected"):
            pairs = found[name].pairs[at][metric]
            assert set(pairs) == {("ViT", "Cars"), ("SWIN", "Cars")}, "a pair counts once"
            assert list(pairs.values()) == pytest.approx([gap, gap], abs=1e-6)


def test_of_one_pair_the_images_tell(tmp_path: Path) -> None:
    runs = {made.config(schedule=s): share for s, share in (("fix", 0.3), ("sched", 0.6))}
    verdict = judged(tmp_path, runs)
    (table,) = [one["table"] for one in verdict.as_data()["comparisons"]]
    ((_, entries),) = table["rows"]
    assert entries[0].startswith("+30.0\n[+2") and "over the images" in table["notes"][0]
    (said,) = verdict.sentences()
    assert said.startswith(
        "Sched instead of fix changes, at eps_g = 4/255, clean accuracy by +30.0 ["
    )
    assert "adversarial accuracy by" in said, "never left out"


def test_one_pair_under_several_objectives_has_an_interval_over_its_images(tmp_path: Path) -> None:
    shares = {"fix": 0.3, "sched": 0.6}
    runs = {
        made.config(schedule=s, objective={"kind": o}): share - 0.1 * (o == "trades")
        for s, share in shares.items()
        for o in ("at", "trades")
    }
    verdict = judged(tmp_path, runs)
    first, second = verdict.as_data()["comparisons"]
    for compared, gap in ((first, "+30.0"), (second, "-10.0")):
        ((_, entries),) = compared["table"]["rows"]
        assert all(
            re.match(rf"\{gap}\n\[[-+]\d+\.\d, [-+]\d+\.\d\]; better", text) for text in entries
        )
    for _, entries in verdict.as_data()["effects"][0]["rows"]:
        assert all("[" in text for text in entries)
    assert verdict.sentences()[0].endswith("over 1 backbone-dataset pair (95 % intervals).")


@pytest.mark.parametrize("dataset", ["cars", "aircraft"])
def test_two_pairs_have_an_interval_over_their_images(tmp_path: Path, dataset: str) -> None:
    """Gaps of 10 and 50 points, of which Student's interval would be -224 to 284."""
    shares = {
        ("vit", "fix"): 0.3,
        ("vit", "sched"): 0.4,
        ("swin", "fix"): 0.3,
        ("swin", "sched"): 0.8,
    }
    runs = {
        made.config(backbone=b, schedule=s, dataset="cars" if b == "vit" else dataset): share
        for (b, s), share in shares.items()
    }
    verdict = judged(tmp_path, runs)
    (one,) = verdict.comparisons
    found = verdict._effect(one, Strength.parse("4/255", "linf"), "clean")
    change = [
        critical(shares[b, "sched"]) / 9 - critical(shares[b, "fix"]) / 9 for b in ("vit", "swin")
    ]
    generator = np.random.default_rng(1)
    drawn = generator.integers(100, size=(2, 4000, 100))
    drawn = drawn[[0, 0]] if dataset == "cars" else drawn  # the same images for both
    means = np.mean([part[rows].mean(1) for part, rows in zip(change, drawn, strict=True)], axis=0)
    assert (found.low, found.high) == pytest.approx(100 * np.quantile(means, [0.025, 0.975]), abs=1)
    assert found.mean == pytest.approx(30) and found.n == 2
    note = verdict.as_data()["comparisons"][0]["table"]["notes"][0]
    assert note.endswith("an interval over the images of these pairs alone (paired bootstrap)")


def test_what_is_not_complete_is_left_out_and_counted(tmp_path: Path) -> None:
    runs = made.grid(("vit", "swin"), ("cars",), ("4/255",), ("standard", "fix", "sched"))
    for run in runs[:-1]:
        made.finish(tmp_path, run)
    digests = Digests.of(Results(tmp_path, made.manifest(tmp_path, runs)))
    (one,) = comparisons(digests.found)
    assert one.incomplete == 3 and len(one.pairs[Strength.parse("4/255", "linf")]["adv"]) == 1
    data = Verdict(digests).as_data()
    assert "3 differences are left out" in data["comparisons"][0]["table"]["notes"][0]
    ((labels, entries),) = data["best"][0]["rows"]
    assert labels == ["4/255", "sched"] and entries[3:] == ["1", "2"]


def test_a_sweep_without_two_settings_has_no_verdict(tmp_path: Path) -> None:
    verdict = judged(tmp_path, {made.config(schedule="fix"): 0.5})
    data = verdict.as_data()
    assert verdict.sentences() == [] and data["comparisons"] == [] and data["best"] == []
    said = "Nothing to compare: no two settings at one strength on one backbone and dataset."
    assert findings(verdict.digests)[0] == said


def test_standard_is_compared_if_there_is_nothing_else(tmp_path: Path) -> None:
    shares = {"standard": 0.9, "sched": 0.6}
    found = named(judged(tmp_path, {made.config(schedule=s): n for s, n in shares.items()}))
    assert list(found) == ["sched instead of standard"]
    (pairs,) = found["sched instead of standard"].pairs.values()
    assert [*pairs["clean"].values()] == pytest.approx([-30])


def test_fields_of_a_variant_may_hold_commas() -> None:
    text = "lora.targets=('a', 'b'), protocol=lora"
    assert fields_of(text) == {"lora.targets": "('a', 'b')", "protocol": "lora"}
    assert fields_of("") == {}
