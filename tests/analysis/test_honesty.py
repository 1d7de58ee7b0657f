"""Gates, intervals, significance and provenance."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import analysis_store as made
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import Results
from analysis.cells import Key, group_cells
from analysis.check import claims
from analysis.command import Source, explain, provenance, tables
from analysis.findings import finding
from analysis.gates import cell_gates, row_gates, run_gates
from analysis.intervals import Flags
from analysis.statistics import bootstrap, mcnemar, paired_test, robustness, wilson
from core.config import ConfigError, RobustAccuracy
from core.store.records import expected_accuracy


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 8))
def test_mean_robustness_is_the_expected_accuracy(critical: list[int], k: int) -> None:
    flags = np.array(critical)
    accuracy = {Fraction(i, 255): float((flags > i).mean()) for i in range(9)}
    shares = robustness(flags, {i: float(i) for i in range(k + 1)})
    assert shares.mean() == pytest.approx(expected_accuracy(accuracy, Fraction(k, 255)))
    assert ((shares >= 0) & (shares <= 1)).all()


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634)]
)
def test_wilson_against_textbook_values(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.slow
def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(generator.beta(2, 3, 300))
        hits += low <= 0.4 <= high
    assert 180 <= hits <= 199  # 95 % of 200, within 3 standard deviations


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_mcnemar_is_symmetric_and_one_for_equals(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.random((2, 50)) < 0.5
    assert mcnemar(first, second) == mcnemar(second, first)
    assert mcnemar(first, first) == 1.0


def test_paired_test_without_spread_claims_nothing() -> None:
    test = paired_test(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]))
    assert test.difference == 1.0 and np.isnan(test.p) and np.isnan(test.t)


def test_pairs_that_tie_are_ties_also_as_floats() -> None:
    """Means over three seeds of thirds: their float differences break every tie."""
    generator = np.random.default_rng(0)
    for _ in range(10):
        first = generator.integers(10, 60, (10, 3))
        steps = generator.integers(-3, 9, (10, 3))
        test = paired_test((first / 5.12).mean(1), ((first + steps) / 5.12).mean(1))
        whole = stats.wilcoxon(steps.sum(1))
        assert (test.wilcoxon, test.wilcoxon_p) == (whole.statistic, whole.pvalue)


def test_equal_means_are_not_called_better(tmp_path: Path) -> None:
    """As many images of 900 in all, in other shares: the means of percentages differ by 3e-11."""
    counts = {"fix": (99, 100, 100), "sched": (100, 101, 98)}
    runs = made.grid(("vit", "swin"), ("cars",), ("4/255",), tuple(counts), seeds=(0, 1, 2))
    for run in runs:
        right = counts[run.setting][run.seed]
        critical = np.repeat([0, 9], [300 - right, right]).astype(np.int16)
        made.finish(tmp_path, run, critical=critical)
    results = Results(tmp_path, made.manifest(tmp_path, runs))
    means = {cell.value for cell in group_cells(results.values).values()}
    assert max(means) - min(means) < 1e-9 and len(means) > 1  # or this test proves nothing
    assert all(line.endswith("equal in 2") for line in claims(results.values))
    assert "expected robustness is higher with sched on 0 of 2" in finding(results)


def one(tmp_path: Path, **critical: np.ndarray) -> Results:
    """fix and sched of one cell with given flags."""
    runs = made.grid(("vit",), ("cars",), ("4/255",), tuple(critical))
    for run in runs:
        made.finish(tmp_path, run, critical=critical[run.setting])
    return Results(tmp_path, made.manifest(tmp_path, runs))


def key(metric: str, setting: str) -> Key:
    return Key("", made.EVALUATION.id, "ViT", "Cars", 4.0, setting, metric)


def test_scores_are_those_of_the_value_on_a_finer_grid_too(tmp_path: Path) -> None:
    """Expected accuracy is defined on the 1/255 grid, whatever else was measured."""
    finer = RobustAccuracy(epsilons=tuple(Fraction(i, 510) for i in range(17)))
    (run,) = made.grid(("vit",), ("cars",), ("4/255",), ("fix",))
    made.finish(tmp_path, run, finer, critical=np.repeat([0, 1, 3, 9, 17], 20).astype(np.int16))
    results = Results(tmp_path, made.manifest(tmp_path, [run], (finer,)))
    flags = Flags(results, results.values)
    for key, cell in group_cells(results.values).items():
        assert 100 * flags.scores(key)[1].mean() == pytest.approx(cell.value)


def test_intervals_hold_the_value_and_shrink_with_n(tmp_path: Path) -> None:
    widths = []
    for n in (100, 1000):
        run = made.config(epsilon_g="4/255", schedule="fix")
        results = one(tmp_path / str(n), fix=made.flags(run, n))
        flags, found = Flags(results, results.values), group_cells(results.values)
        for metric in ("clean", "adv", "expected"):
            interval = flags.interval(key(metric, "fix"))
            assert interval.low <= (found[key(metric, "fix")].value or 0) <= interval.high
        assert flags.interval(key("clean", "fix")).method == "Wilson"
        interval = flags.interval(key("expected", "fix"))
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 2


def test_bold_when_significant_needs_a_real_lead(tmp_path: Path) -> None:
    base = np.repeat([0, 9], [100, 100]).astype(np.int16)
    one_better = base.copy()
    one_better[0] = 9
    many_better = base.copy()
    many_better[:40] = 9
    slight = one(tmp_path / "a", fix=base, sched=one_better)
    clear = one(tmp_path / "b", fix=base, sched=many_better)
    for results, bold in ((slight, False), (clear, True)):
        source = Source(results.values, results)
        plain, strict = (tables(source, significant=flag).tables[0] for flag in (False, True))
        assert all(entry.bold for entry in plain.rows[1][1])
        assert all(entry.bold == bold for entry in strict.rows[1][1])


def test_pairing_matters(tmp_path: Path) -> None:
    """The same two accuracies differ surely on the same images, not by chance on other ones."""
    generator = np.random.default_rng(0)
    base = np.where(generator.random(400) < 0.5, 9, 0).astype(np.int16)
    nested = base.copy()
    nested[np.flatnonzero(base == 0)[:16]] = 9  # 16 more right, none lost
    shuffled = generator.permutation(nested)
    for name, sched, sure in (("nested", nested, True), ("shuffled", shuffled, False)):
        results = one(tmp_path / name, fix=base, sched=sched)
        gap = Flags(results, results.values).difference(key("clean", "fix"), key("clean", "sched"))
        assert gap.value == pytest.approx(4.0)
        assert gap.significant == sure
        assert gap.mcnemar is not None and (gap.mcnemar < 0.01) == sure


def test_images_are_matched_by_index_not_by_place(tmp_path: Path) -> None:
    run = made.config(epsilon_g="4/255", schedule="fix")
    critical = made.flags(run, 50)
    results = one(tmp_path, fix=critical, sched=critical)
    path = results.runs[1].dir.eval_flags(made.EVALUATION.id)
    order = np.random.default_rng(0).permutation(50)
    np.savez(path, critical=critical[order], index=order.astype(np.int32), label=order)
    gap = Flags(results, results.values).difference(key("adv", "fix"), key("adv", "sched"))
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_different_images_are_not_compared(tmp_path: Path) -> None:
    critical = np.repeat([0, 9], 25).astype(np.int16)
    results = one(tmp_path, fix=critical, sched=critical)
    path = results.runs[1].dir.eval_flags(made.EVALUATION.id)
    np.savez(path, critical=critical, index=np.arange(1, 51), label=critical)
    flags = Flags(results, results.values)
    with pytest.raises(ConfigError, match="different images"):
        flags.difference(key("adv", "fix"), key("adv", "sched"))


def test_missing_flags_are_named(tmp_path: Path) -> None:
    results = one(tmp_path, fix=np.zeros(10, np.int16), sched=np.full(10, 9, np.int16))
    path = results.runs[0].dir.eval_flags(made.EVALUATION.id)
    path.unlink()
    with pytest.raises(ConfigError, match=path.name):
        tables(Source(results.values, results), significant=True)


def test_honest_results_break_no_gate(tmp_path: Path) -> None:
    results = Results(tmp_path, made.fill(tmp_path, made.grid()))
    found = group_cells(results.values)
    assert not [*cell_gates(found), *row_gates(results.values, found), *run_gates(results)]


def test_gates_catch_impossible_accuracies(tmp_path: Path) -> None:
    run = made.config(epsilon_g="4/255", schedule="fix")
    folder = made.finish(tmp_path, run)
    path = folder.eval_json(made.EVALUATION.id)
    record = json.loads(path.read_text())
    rows = record["rows"]
    rows[0]["correct"], rows[4]["correct"] = rows[4]["correct"], rows[0]["correct"]
    made.rewrite(path, rows=rows, zero_gradient_images=100)
    results = Results(tmp_path)
    source = Source(results.values, results)
    output = tables(source)
    (table,) = output.tables
    marks = [entry.mark for entry in table.rows[0][1]]
    assert marks[0] == marks[1] == "\N{DOUBLE DAGGER}"
    assert any("adv (" in note and "above clean" in note for note in table.notes)
    remarks = " / ".join(output.remarks)
    assert (
        "accuracy grows at 4/255" in remarks
        and "100 of 512 images have no usable gradient" in remarks
    )
    assert any("above clean" in text for text in provenance(source)["violations"])


def test_gates_catch_unequal_counts_and_mixed_code(tmp_path: Path) -> None:
    runs = made.grid(("vit", "swin"), ("cars",), ("4/255",), ("fix",))
    for run, n in zip(runs, (512, 500), strict=True):
        folder = made.finish(tmp_path, run, critical=made.flags(run, n))
    made.rewrite(folder.eval_json(made.EVALUATION.id), commit="fedcba9")
    results = Results(tmp_path)
    output = tables(Source(results.values, results))
    (table,) = output.tables
    assert any("Cars: different numbers of images: 500, 512" in note for note in table.notes)
    assert any("different versions of the code" in remark for remark in output.remarks)
    swin = next(row for labels, row in table.rows if labels[0] == "SWIN")
    assert all("\N{DOUBLE DAGGER}" in entry.mark for entry in swin)


def test_why_tells_the_whole_origin(tmp_path: Path) -> None:
    rows = made.fill(tmp_path, made.grid(seeds=(0, 1)))
    source = Source.store(tmp_path, rows)
    text = explain(source, "swin/cars/SCHED/expected@8")
    assert text.startswith("SWIN/Cars/sched at 8/255, expected under APGD-10")
    assert "n = 512 images" in text and "95 % interval" in text and "minus fix" in text
    for row in rows:
        if row["setting"] == "sched" and "swin-cars-eps8" in row["id"]:
            assert row["id"] in text
    assert text.count("code 0123abc") == 2
    assert len(explain(source, "SWIN/Cars/sched/adv").split("\n\n")) == 2  # both strengths


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("SWIN/Cars/sched", "expected model/dataset/setting/metric"),
        ("SWINN/Cars/sched/adv", "no model 'SWINN', did you mean 'SWIN'"),
        ("SWIN/Cars/sched/adv@3", "expected 4/255, 8/255"),
    ],
)
def test_why_names_what_is_unknown(tmp_path: Path, question: str, said: str) -> None:
    source = Source.store(tmp_path, made.fill(tmp_path, made.grid()))
    with pytest.raises(ConfigError, match=said):
        explain(source, question)


def test_why_of_a_missing_cell_says_why(tmp_path: Path) -> None:
    run = made.config(epsilon_g="4/255", schedule="fix")
    folder = made.start(tmp_path, run, 3)
    made.attempt(folder, outcome="failed", reason="out of memory")
    source = Source.store(tmp_path, made.manifest(tmp_path, [run]))
    assert "failed (out of memory)" in explain(source, "vit/cars/fix/adv")


def test_why_of_a_file_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("model,dataset,epsilon_g,setting,metric,value\n\nSWIN,Cars,4,fix,clean,60.20\n")
    text = explain(Source.files([file]), "SWIN/Cars/fix/clean")
    assert "60.20 from mine.csv:3" in text


def test_sidecar_is_json_and_holds_every_run(tmp_path: Path) -> None:
    rows = made.fill(tmp_path, made.grid(seeds=(0, 1)))
    (tmp_path / "runs" / rows[0]["id"] / "result.json").unlink()
    source = Source.store(tmp_path, rows)
    sidecar = json.loads(json.dumps(provenance(source), allow_nan=False))
    origins = [origin for cell in sidecar["cells"] for origin in cell["sources"]]
    assert {origin["run_id"] for origin in origins} == {row["id"] for row in rows}
    assert any(not cell["complete"] for cell in sidecar["cells"])
    assert all(origin["commit"] for origin in origins if origin["state"] == "done")


def test_two_attacks_make_table_six(tmp_path: Path) -> None:
    strong = RobustAccuracy(steps=50, epsilons=made.EVALUATION.epsilons)
    runs = made.grid(("swin",), ("cars",), ("4/255",), ("fix", "sched"))
    for run in runs:
        made.finish(tmp_path, run)
        made.finish(tmp_path, run, strong, critical=made.flags(run, clean=0.1))
    rows = made.manifest(tmp_path, runs, (made.EVALUATION, strong))
    source = Source.store(tmp_path, rows)
    (six,) = tables(source, numbers=[6]).tables
    assert [labels[2] for labels, _ in six.rows] == ["APGD-10"] * 2 + ["APGD-50"] * 2
    (main,) = tables(source).tables
    assert len(main.rows) == 2 and "APGD-10 (" in main.notes[0]


def test_our_hinges_fill_table_seven(tmp_path: Path) -> None:
    hinges = [(0, 6), (3, 3), (3, 6)]
    schedules = ["fix", "sched", *({"T1": a, "T2": b} for a, b in hinges)]
    runs = made.grid(("swin",), ("cars",), ("8/255",), schedules)
    (table,) = tables(Source.store(tmp_path, made.fill(tmp_path, runs)), numbers=[7]).tables
    assert [labels[2] for labels, _ in table.rows] == [
        "T1=0;T2=0", "T1=0;T2=6", "T1=3;T2=3", "T1=3;T2=6", "T1=3;T2=9",
    ]  # fmt: skip
