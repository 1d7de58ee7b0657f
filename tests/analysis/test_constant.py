"""A run that gives every image the same label is right on one class: no attack changes that, and
it is no result."""

from __future__ import annotations

from pathlib import Path

import analysis_store as made
import numpy as np
import pytest

from analysis import Results
from analysis.command import Source, tables
from analysis.report import Digests
from analysis.report.rows import cells_table
from analysis.report.verdict import Verdict

N, CLASSES, STRENGTHS = 200, 10, 9  # of analysis_store: labels go round ten classes


def constant(n: int = N) -> np.ndarray:
    return np.where(np.arange(n) % CLASSES == 3, STRENGTHS, 0).astype(np.int16)


def source(root: Path, *criticals: np.ndarray, setting: str = "fix") -> Source:
    """A pair whose runs of one setting, a seed each, have these flags."""
    seeds = range(len(criticals))
    runs = made.grid(("vit",), ("cars",), ("8/255",), ("fix", "sched"), seeds)
    for run in runs:
        made.finish(root, run, critical=made.flags(run, N))
    for seed, critical in enumerate(criticals):
        (run,) = [one for one in runs if (one.setting, one.seed) == (setting, seed)]
        made.finish(root, run, critical=critical)
    return Source.store(root, made.manifest(root, runs))


def adversarial(made_source: Source) -> dict[str, tuple[str, bool, str]]:
    (table,) = tables(made_source).tables
    return {labels[1]: (row[1].text, row[1].bold, row[1].mark) for labels, row in table.rows}


def test_it_is_marked_and_never_bold(tmp_path: Path) -> None:
    made_source = source(tmp_path, constant())
    found = adversarial(made_source)
    assert found["fix"] == ("10.00", False, "\N{DOUBLE DAGGER}")
    assert found["sched"][1:] == (True, ""), "better than nothing, though it is less"
    (note,) = [note for note in tables(made_source).tables[0].notes if "one label" in note]
    assert "ViT/Cars/fix at 8/255" in note and note.startswith("\N{DOUBLE DAGGER}")
    fix, _ = cells_table(Digests.of(made_source.results), {})["rows"]
    entries = [entry for entry in fix if isinstance(entry, dict)]
    assert {entry["note"] for entry in entries} == {"one label for every image: no result"}
    assert not any("bold" in entry for entry in entries)
    (best,) = Verdict(Digests.of(made_source.results)).as_data()["best"]
    ((labels, numbers),) = best["rows"]
    assert labels == ["8/255", "sched"] and numbers[-2:] == ["1", "2"], "of two settings"
    assert best["notes"][0].endswith(
        "without 1 cell whose networks give every image the same label"
    )


@pytest.mark.parametrize(
    "critical",
    [
        np.where(np.arange(N) % CLASSES == 3, 8, 0),  # the largest attack breaks it
        np.where(np.arange(N) < N // CLASSES, STRENGTHS, 0),  # right on all classes
        np.where(np.arange(N) == 3, STRENGTHS, 0),  # wrong on others of the class
        np.zeros(N),
    ],
)
def test_what_tells_images_apart_is_none(tmp_path: Path, critical: np.ndarray) -> None:
    found = adversarial(source(tmp_path, critical.astype(np.int16)))
    assert found["fix"][2] == ""


def test_one_seed_of_two_is_enough(tmp_path: Path) -> None:
    good = np.full(N, STRENGTHS, np.int16)
    made_source = source(tmp_path, constant(), good)
    assert adversarial(made_source)["fix"][1:] == (False, "\N{DOUBLE DAGGER}")
    (note,) = [note for note in tables(made_source).tables[0].notes if "one label" in note]
    assert "(1 of 2 seeds)" in note


def test_nothing_is_the_best_with_zero(tmp_path: Path) -> None:
    nothing = np.where(np.arange(N) % CLASSES < 3, 1, 0).astype(np.int16)  # broken at once
    runs = made.grid(("vit",), ("cars",), ("8/255",), ("fix", "sched"), (0,))
    for run in runs:
        made.finish(tmp_path, run, critical=nothing)
    found = adversarial(Source.store(tmp_path, made.manifest(tmp_path, runs)))
    assert {cell[:2] for cell in found.values()} == {("0.00", False)}


def test_without_flags_the_share_of_a_class_tells(tmp_path: Path) -> None:
    """Rows say how many classes there are: 1 of 64 right at every strength."""
    critical = np.where(np.arange(256) < 4, STRENGTHS, 0).astype(np.int16)
    run = made.config(dataset="glyph", epsilon_g="8/255", schedule="fix")
    folder = made.finish(tmp_path, run, critical=critical)
    folder.eval_flags(made.EVALUATION.id).unlink()
    values = Results(tmp_path, made.manifest(tmp_path, [run])).values
    assert values["constant"].all()


def test_significance_is_explained_below_the_table(tmp_path: Path) -> None:
    made_source = source(tmp_path, constant())
    (plain,), (sure,) = (tables(made_source, significant=on).tables for on in (False, True))
    assert not any("significant" in note for note in plain.notes)
    (note,) = [note for note in sure.notes if "significant" in note]
    assert "paired bootstrap over images" in note
    (means,) = tables(made_source, numbers=[10], significant=True).tables
    assert any("Table 9 tests" in note for note in means.notes)
