"""The table that compares schedules with `sched`, on published and on made-up numbers."""

from pathlib import Path

import pytest
from scipy import stats

from analysis.command import NAMED, Source, tables
from analysis.regret import regret_frame, regret_table
from analysis.statistics import holm
from analysis.tables import ABSENT
from core.config import ConfigError

PUBLISHED = Path(__file__).parents[2] / "analysis" / "published"


def test_the_paper_s_own_automatic_schedule_loses_to_sched_in_every_cell() -> None:
    """By Table 4, whose two cells without a printed number make the table incomplete."""
    table = regret_table(Source.files([PUBLISHED / "table4.csv"]).values)
    lines = {labels[0]: [entry.text for entry in entries] for labels, entries in table.rows}
    assert lines["auto"][5] == "0, 10"
    assert float(lines["auto"][6]) == pytest.approx(
        2 * stats.wilcoxon(range(1, 11)).pvalue, rel=0.1
    )
    assert lines["sched"][4:] == [ABSENT] * 4
    assert not table.complete
    assert any("10 of 12 cells" in note for note in table.notes)
    assert any("better than sched" in note and note.endswith("none") for note in table.notes)


def test_regret_is_the_distance_from_the_best_of_the_cell_and_adv_decides_who_is_better(
    tmp_path: Path,
) -> None:
    """`bold` gains expected robustness at once the allowed cost in adv, `greedy` at thrice it."""
    lines = ["model,dataset,epsilon_g,setting,metric,value"]
    for k in range(8):
        scores = {"sched": (40, 20), "bold": (41 + k, 19.5), "greedy": (50 + k, 17), "fix": (9, 9)}
        for setting, (expected, adv) in scores.items():
            values = {"clean": 60, "adv": adv, "expected": expected}
            lines += [f"vit,data{k},4/255,{setting},{m},{value}" for m, value in values.items()]
    file = tmp_path / "made.csv"
    file.write_text("\n".join(lines))
    values = Source.files([file]).values

    frame = regret_frame(values)
    assert (frame.groupby(["model", "dataset"])["regret"].min() == 0).all()
    of_sched = frame[frame["setting"] == "sched"]
    assert list(of_sched["regret"]) == [10 + k for k in range(8)]
    assert (of_sched["gain"] == 0).all()

    table = regret_table(values)
    assert {labels[0] for labels, entries in table.rows if entries[0].bold} == {"bold"}
    assert table.complete
    tidy = tables(Source.files([file]), "tidy", numbers=[NAMED["regret"]])
    assert len(tidy.text.splitlines()) == 1 + len(frame)


def test_without_sched_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    file = tmp_path / "made.csv"
    file.write_text("model,dataset,epsilon_g,setting,metric,value\nvit,d,4/255,fix,expected,9\n")
    with pytest.raises(ConfigError, match="--table regret: no cell here has complete results"):
        regret_table(Source.files([file]).values)


def test_holm_multiplies_the_smallest_most_and_never_decreases() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": float("nan")})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": float("nan")}, nan_ok=True)
