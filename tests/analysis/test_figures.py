"""Figures: what is drawn is what was measured, for any subset of runs; files are reproducible."""

from __future__ import annotations

import resource
from pathlib import Path

import analysis_store as made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analysis import Results
from analysis.command import Source
from analysis.figures import NAMES, draw, write_figures
from analysis.figures.hinges import read_hinges
from analysis.figures.strength import correlation
from analysis.figures.style import save
from analysis.figures.summary import undominated
from analysis.figures.transfer import draw_transfer
from analysis.paper import table_cells, table_frame
from analysis.published import load_published
from core.config import ConfigError, RobustAccuracy, Strength


def store(root: Path, runs: list, finished: int | None = None) -> Source:
    for run in runs[:finished]:
        made.finish(root, run)
    return Source.store(root, made.manifest(root, runs))


def lines(figure: Figure, panel: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
        for line in figure.axes[panel].lines
    ]


def drawn(figure: Figure, panel: int, x: np.ndarray, y: np.ndarray) -> bool:
    return any(
        len(a) == len(x) and np.allclose(a, x) and np.allclose(b, y)
        for a, b in lines(figure, panel)
    )


def test_transfer_draws_the_measured_curves(tmp_path: Path) -> None:
    results = store(tmp_path, made.grid(("vit",), ("cars",))).results
    assert results is not None
    figure = draw_transfer(results, Strength.parse("4/255"))
    epochs, curves = results.epochs, results.curves
    for setting, eps in (("standard", 0.0), ("fix", 4.0), ("sched", 4.0)):
        one = epochs[(epochs["setting"] == setting) & (epochs["epsilon_g"] == eps)]
        assert drawn(figure, 0, one["epoch"].to_numpy(float), one["val_clean"].to_numpy(float))
        one = curves[(curves["setting"] == setting) & (curves["epsilon_g"] == eps)]
        assert drawn(figure, 1, one["epsilon"].to_numpy(float), one["accuracy"].to_numpy(float))
    legend = figure.axes[1].get_legend()
    assert legend is not None
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 < figure.axes[1].get_window_extent().y0, "covers no curve"
    texts = [text.get_text() for text in legend.get_texts()]
    values = results.values
    for setting in ("standard", "fix", "sched"):
        row = values[
            (values["setting"] == setting)
            & (values["epsilon_g"] == 4)
            & (values["metric"] == "expected")
        ]
        assert f"{setting}: {row['value'].iloc[0]:.1f}" in texts


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_axis_names_the_split_that_was_judged(tmp_path: Path, split: str) -> None:
    (run,) = made.grid(("vit",), ("cars",), ("4/255",), ("sched",))
    judged = made.EVALUATION.model_copy(update={"split": split})
    made.finish(tmp_path, run, judged)
    results = Source.store(tmp_path, made.manifest(tmp_path, [run], [judged])).results
    assert results is not None
    label = draw_transfer(results).axes[1].get_ylabel()
    assert label.splitlines() == [f"{split} accuracy (%)", f"APGD-10, n = {made.N}"]


def test_onset_is_marked_where_adaptation_begins(tmp_path: Path) -> None:
    results = store(tmp_path, made.grid(("vit",), ("cars",), ("4/255",), ("fix",))).results
    assert results is not None
    points = [x[0] for x, _ in lines(draw_transfer(results), 0) if len(x) == 1]
    assert points == [results.runs[0].delay]


def test_transfer_takes_the_largest_strength_and_refuses_an_unknown_one(tmp_path: Path) -> None:
    results = store(tmp_path, made.grid(("vit",), ("cars",))).results
    assert results is not None
    with pytest.raises(ConfigError, match="expected: 4/255, 8/255"):
        draw_transfer(results, Strength.parse("5/255"))
    title = draw_transfer(results).legends[0].get_title().get_text()
    assert "8/255" in title


def test_seeds_are_thin_lines_behind_their_mean(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",), ("sched",), seeds=(0, 1, 2))
    results = store(tmp_path, runs).results
    assert results is not None
    mean = results.curves.groupby("epsilon")["accuracy"].mean()
    figure = draw_transfer(results)
    assert drawn(figure, 1, mean.index.to_numpy(float), mean.to_numpy(float))
    assert sum(len(x) == len(mean) for x, _ in lines(figure, 1)) == 4


@pytest.mark.parametrize("finished", [0, 1, 5, None])
def test_any_subset_of_runs_can_be_drawn(tmp_path: Path, finished: int | None) -> None:
    runs = made.grid(("vit", "swin"), ("cars",), ("4/255", "8/255"))
    source = store(tmp_path / "store", runs, finished)
    if finished == 0:
        with pytest.raises(ConfigError, match="no results for this figure"):
            write_figures(source, tmp_path / "out", ["training"])
        return
    found = dict(draw(source, ["transfer", "training", "robustness"]))
    assert {stem.split("-")[0] for stem in found} == {"transfer", "training", "robustness"}
    for figure in found.values():
        figure.draw_without_rendering()


def test_a_full_grid_fills_every_figure(tmp_path: Path) -> None:
    runs = made.grid(("swin",), ("cars", "cub"), ("4/255", "8/255"))
    runs += made.grid(("swin",), ("cars",), ("8/255",), [{"T1": 3, "T2": 3}, {"T1": 3, "T2": 6}])
    stems = [stem for stem, _ in draw(store(tmp_path, runs))]
    for name in {*NAMES} - {"margins", "roc", "estimates"}:  # those need distances
        assert any(stem.startswith(name) for stem in stems), name
    assert len(stems) == len(set(stems))


def test_published_numbers_fill_what_needs_no_runs() -> None:
    stems = [stem for stem, _ in draw(Source(load_published()))]
    assert stems == ["strength", "bars", "pareto", "hinges-SWIN-Cars"]


def test_bars_are_means_over_the_thirty_pairs() -> None:
    ((_, figure),) = draw(Source(load_published()), ["bars"])
    assert "mean of 30 pairs" in figure.axes[0].get_title()
    heights = sorted(patch.get_height() for patch in figure.axes[0].patches)
    values = load_published(1)
    expected = sorted(values.groupby(["setting", "metric"])["value"].mean())
    assert heights == pytest.approx(expected)


def test_heat_map_places_every_pair() -> None:
    ((_, figure),) = draw(Source(load_published()), ["hinges"])
    found, pairs = table_cells(7, load_published()), read_hinges(table_frame(7, load_published()))
    clean = {
        pairs[k.setting]: c.value
        for k, c in found.items()
        if (k.epsilon_g, k.metric) == (4, "clean")
    }
    axes = figure.axes[0]
    T2s = [int(text.get_text()) for text in axes.get_xticklabels()]
    T1s = [int(text.get_text()) for text in axes.get_yticklabels()]
    shown = {
        (T1s[round(t.get_position()[1])], T2s[round(t.get_position()[0])]): float(t.get_text())
        for t in axes.texts
    }
    assert len(shown) == len(clean) == 15
    assert all(shown[pair] == pytest.approx(value, abs=0.051) for pair, value in clean.items())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_front_is_exactly_the_undominated_points(points: list[tuple[int, int]]) -> None:
    x, y = np.array(points, float).T
    front = undominated(x, y)
    for i, (a, b) in enumerate(points):
        beaten = any(c >= a and d >= b and (c > a or d > b) for c, d in points)
        assert front[i] == (not beaten)


def test_correlation_needs_three_points_and_spread() -> None:
    assert correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert np.isnan(correlation(np.array([1.0, 2]), np.array([2.0, 1])))
    assert np.isnan(correlation(np.array([1.0, 1, 1]), np.array([3.0, 2, 1])))


def test_files_are_the_same_bytes_again(tmp_path: Path) -> None:
    source = store(tmp_path / "store", made.grid(("vit",), ("cars",), ("4/255",)))
    first = write_figures(source, tmp_path / "a", ["transfer"])
    second = write_figures(source, tmp_path / "b", ["transfer"])
    assert [path.suffix for path in first] == [".pdf", ".png"]
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_a_figure_without_room_is_one_error_and_leaves_no_file(tmp_path: Path) -> None:
    """Here a limit on the size of files stands for the full disk."""
    ((_, figure),) = draw(Source(load_published()), ["bars"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(figure, tmp_path / "bars")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rates", [("1e-4",), ("1e-4", "1e-3", "1e-5")])
def test_no_legend_is_wider_than_its_figure(tmp_path: Path, rates: tuple[str, ...]) -> None:
    """Of one pair, where figures are narrowest and names of variants long."""
    schedules = ("standard", "fix", "sched", "auto", "uniform")
    epsilons = ("4/255", "8/255")
    runs = [
        run
        for rate in rates
        for run in made.grid(("vit",), ("cars",), epsilons, schedules, optim={"lr": float(rate)})
    ]
    for stem, figure in draw(store(tmp_path, runs)):
        for legend in figure.legends:
            assert legend.get_window_extent().width <= figure.bbox.width, stem


def test_a_pair_has_panels_at_its_own_strengths_only(tmp_path: Path) -> None:
    """Its standard run would stand there alone, without an expected accuracy."""
    runs = made.grid(("vit",), ("cars",), ("4/255",)) + made.grid(("swin",), ("cars",), ("8/255",))
    results = store(tmp_path, runs).results
    assert results
    for name, panels in (("transfer", 2), ("training", 4), ("adaptation", 1), ("robustness", 1)):
        for stem, figure in draw(Source(results.values, results), [name]):
            model = "ViT" if stem.endswith("eps4") else "SWIN"
            titles = [axes.get_title() for axes in figure.axes if axes.axison]
            assert (len(titles), titles[0]) == (panels, f"{model}, Cars"), stem


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    for stem, figure in draw(Source(load_published()), ["bars"]):
        save(figure, tmp_path / stem)
    assert dict(matplotlib.rcParams) == before


def test_unknown_and_empty_figures_are_refused(tmp_path: Path) -> None:
    source = Source(load_published())
    with pytest.raises(ConfigError, match="did you mean 'pareto'"):
        write_figures(source, tmp_path, ["parreto"])
    with pytest.raises(ConfigError, match="--figure training: no results"):
        write_figures(source, tmp_path, ["training"])


def test_variants_are_separate_lines(tmp_path: Path) -> None:
    runs = [made.config(schedule="fix", optim={"lr": lr}) for lr in (1e-3, 1e-4)]
    results = store(tmp_path, runs).results
    assert isinstance(results, Results)
    texts = [text.get_text() for text in draw_transfer(results).legends[0].get_texts()]
    assert "fix [optim.lr=0.001]" in texts and "fix [optim.lr=0.0001]" in texts


def test_seeds_that_are_missing_are_counted_or_left_out(tmp_path: Path) -> None:
    """A mean over two of three seeds is never drawn as if it were one over three."""
    runs = made.grid(("vit",), ("cars",), schedules=("fix", "sched"), seeds=(0, 1, 2))
    for run in runs[1:]:
        made.finish(tmp_path, run)
    results = Results(tmp_path, made.manifest(tmp_path, runs))
    drawn = dict(draw(Source(results.values, results), ["robustness", "strength", "pareto"]))
    legend = drawn["robustness-eps4"].axes[0].get_legend()
    assert legend
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[0].endswith(" (2/3)") and "(" not in shown[1]
    assert sorted(list(x) for x, _ in lines(drawn["strength"], 0)) == [[4, 8], [8]]
    at_four, at_eight = drawn["pareto"].axes
    assert len(at_eight.lines) == len(at_four.lines) + 1


def test_nothing_is_drawn_if_nothing_is_complete(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), schedules=("fix", "sched"))
    for run in runs:
        made.start(tmp_path, run, 3)
    results = Results(tmp_path, made.manifest(tmp_path, runs))
    for name in ("strength", "pareto"):
        with pytest.raises(ConfigError, match="no results for this figure"):
            list(draw(Source(results.values, results), [name]))


def test_strengths_are_compared_by_one_evaluation(tmp_path: Path) -> None:
    """The validation split has another clean accuracy."""
    other = RobustAccuracy(split="val", epsilons=made.EVALUATION.epsilons)
    runs = made.grid(("vit",), ("cars",), schedules=("fix", "sched"))
    for run in runs:
        made.finish(tmp_path, run, critical=np.repeat([0, 9], 50).astype(np.int16))
        made.finish(tmp_path, run, other, critical=np.full(100, 9, np.int16))
    results = Results(tmp_path, made.manifest(tmp_path, runs, (made.EVALUATION, other)))
    ((_, figure),) = draw(Source(results.values, results), ["strength"])
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[50, 50], [50, 50]]


def test_a_curve_and_the_number_beside_it_are_of_one_evaluation(tmp_path: Path) -> None:
    """Also where another one has more strengths, and so more points."""
    strong = RobustAccuracy(steps=50, epsilons=made.EVALUATION.epsilons[:5])
    (run,) = made.grid(("vit",), ("cars",), ("4/255",), ("fix",))
    made.finish(tmp_path, run, critical=np.repeat([0, 9], [25, 75]).astype(np.int16))
    made.finish(tmp_path, run, strong, critical=np.repeat([0, 5], [75, 25]).astype(np.int16))
    results = Results(tmp_path, made.manifest(tmp_path, [run], (strong, made.EVALUATION)))
    for _, figure in draw(Source(results.values, results), ["robustness", "transfer"]):
        panel = figure.axes[-1]
        legend = panel.get_legend()
        assert legend and legend.get_texts()[0].get_text() == "fix: 25.0"
        assert panel.get_ylabel().endswith("APGD-50, n = 100")
        assert list(panel.lines[0].get_ydata()) == [25] * 5


def test_a_sweep_that_has_nothing_but_epochs_can_be_drawn(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",), ("fix", "sched"))
    for run in runs:
        made.start(tmp_path, run, 3)
    results = Results(tmp_path, made.manifest(tmp_path, runs))
    stems = [stem for stem, _ in draw(Source(results.values, results))]
    assert "transfer-eps4" in stems and "robustness-eps4" not in stems


def test_every_panel_means_what_the_legend_says(tmp_path: Path) -> None:
    """Also a panel that lacks the first dataset, and settings with variants."""
    asked = [("vit", "cars"), ("vit", "cub"), ("swin", "cub")]
    runs = [
        made.config(backbone=model, dataset=data, epsilon_g=eps, schedule="fix", optim={"lr": lr})
        for model, data in asked
        for eps in ("4/255", "8/255")
        for lr in (1e-3, 1e-4)
    ]
    for name, figure in draw(store(tmp_path, runs), ["strength", "delay"]):
        keys = {line.get_label(): line for line in figure.legends[0].get_lines()}
        assert {*keys} == {"Cars", "Cub", "fix [optim.lr=0.0001]", "fix [optim.lr=0.001]"}
        styles = {keys[label].get_linestyle() for label in [*keys][2:]}
        assert len(styles) == 2, "settings can be told apart"
        vit, swin = (figure.axes[0], figure.axes[1 if name == "strength" else 2])
        for panel, labels in ((vit, {"Cars", "Cub"}), (swin, {"Cub"})):
            plotted = [line for line in panel.lines if len(line.get_xdata()) == 2]
            assert {line.get_color() for line in plotted} == {keys[x].get_color() for x in labels}
            assert {line.get_linestyle() for line in plotted} == styles
