"""The verbs that read results, on a terminal: real tables, lists of values, and empty stores."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import analysis_store as made
import pytest

from analysis import figures
from analysis.command import NAMED
from analysis.paper import NUMBERS
from core.store.folders import Store
from sweep import cli
from sweep.cli import results
from sweep.grid import keys, load_grid

GRID = (
    "name: g\nbase: {epochs: 12, backbone: vit, dataset: cars}\n"
    "grid: {epsilon_g: [4/255, 8/255], schedule: [fix, sched]}\nevals: [{epsilons: 0..8/255}]\n"
)
CSV = "model,dataset,epsilon_g,setting,metric,value\nvit,cars,%s,fix,clean,70.5\n"
Call = Callable[..., tuple[object, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    path = tmp_path / "g.yaml"
    path.write_text(GRID)

    def called(verb: str, *more: str, tty: bool = False) -> tuple[object, str, str]:
        where = [] if "--from" in more else [str(path), "--root", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", ["sweep", verb, *where, *more])
        if tty:
            monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return called


def finish(tmp_path: Path, count: int) -> None:
    for run in load_grid(tmp_path / "g.yaml").runs[:count]:
        made.finish(tmp_path / "out", run.config, run.evals[0])


def test_a_terminal_gets_tables_and_a_pipe_markdown(call: Call, tmp_path: Path) -> None:
    finish(tmp_path, 4)
    code, piped, _ = call("tables")
    assert code == 0 and piped.startswith("**eps_g = 4/255**") and "|:--|" in piped
    _, shown, _ = call("tables", tty=True)
    assert "|" not in shown and "eps_g = 4/255" in shown and "sched" in shown
    _, asked, _ = call("tables", "--format", "markdown", tty=True)
    assert asked == piped


@pytest.mark.parametrize("verb", ["figures", "report"])
def test_an_empty_store_is_incomplete(call: Call, tmp_path: Path, verb: str) -> None:
    code, out, err = call(verb)
    assert (code, out) == (3, "")
    what = {"figures": "draw", "report": "report"}[verb]
    where = tmp_path / "out"
    assert err == f"nothing to {what}: no run in {where} has an epoch or a result yet (4 missing)\n"
    assert not (tmp_path / "out" / "reports").exists()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["figures", "report"])
def test_what_is_missing_is_reported(call: Call, tmp_path: Path, verb: str) -> None:
    finish(tmp_path, 2)
    code, out, err = call(verb)
    assert code == 0 and out
    assert err == "incomplete: 2 done, 2 missing; missing values are left out or marked\n"
    assert "eps8" not in out, "no figure with nothing in it"
    finish(tmp_path, 4)
    code, out, err = call(verb)
    assert code == 0 and not err


def test_lists_take_several_values(call: Call, tmp_path: Path) -> None:
    for strength in ("4", "8"):
        (tmp_path / f"{strength}.csv").write_text(CSV % strength)
    files = [str(tmp_path / name) for name in ("4.csv", "8.csv")]
    code, out, _ = call("tables", "--from", *files, "--table", "1", "2")
    assert code == 0 and "**Table 1:" in out and "**Table 2:" in out


@pytest.mark.parametrize(
    ("words", "spread"),
    [
        ("tables --from a b --table 1 2 g", "tables --from a --from b --table 1 --table 2 g"),
        ("tables g --only a=1 b=2 --table 1", "tables g --only a=1 --only b=2 --table 1"),
        ("figures --figure bars delay g", "figures --figure bars --figure delay g"),
        ("data prepare --from folder cars", "data prepare --from folder cars"),
        ("tables --from a --from b c", "tables --from a --from b --from c"),
        ("status --only state=failed g", "status --only state=failed g"),
        ("tables --table margin 1 g", "tables --table margin --table 1 g"),
    ],
)
def test_what_belongs_to_a_list(words: str, spread: str) -> None:
    assert cli.spread_only(words.split()) == spread.split()


def test_a_missing_table_is_reported(call: Call) -> None:
    code, _, err = call("tables", "--table", "margins")
    assert code == 2
    assert "the number of a table or one of main, margin, attacks, regret, got 'margins'" in err
    code, _, err = call("tables", "--from", str(Path(made.__file__).parent), "--table", "5")
    assert code == 2 and "no CSV files" in err
    published = Path(figures.__file__).parents[1] / "published"
    code, _, err = call("tables", "--from", str(published), "--table", "5")
    assert code == 2 and "no Table 5 here: it lists backbones, see sweep weights" in err


def test_a_grid_names_tables_that_are_there(call: Call, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID + "tables: [1, mine, 5, main]\n")
    code, _, err = call("plan")
    assert code == 2
    assert [line.partition("g.yaml")[2] for line in err.splitlines()] == [
        f":5: tables: no table '{name}' (expected one of {', '.join(keys.TABLES)})"
        for name in ("mine", "5")
    ]


def test_the_grids_own_table_beside_the_papers(call: Call, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID + "tables: [9, main]\n")
    finish(tmp_path, 4)
    made.fill(tmp_path / "out", made.grid(("swin",), ("cars",)))
    (tmp_path / "g.yaml").write_text(
        GRID.replace("backbone: vit, ", "").replace("grid: {", "grid: {backbone: [vit, swin], ")
        + "tables: [9, main]\n"
    )
    code, out, _ = call("tables")
    assert code == 0 and out.index("**Table 9:") < out.index("**eps_g = 4/255**")


def test_names_that_are_listed_twice_agree() -> None:
    assert {*results.FIGURES} == {*figures.NAMES}
    assert (*map(str, NUMBERS), *NAMED, "guide") == keys.TABLES


def test_a_store_without_the_runs_of_a_grid_is_left_alone(tmp_path: Path, call: Call) -> None:
    made.fill(tmp_path / "out", made.grid(("swin",), ("cub",)))
    before = sorted(Store(tmp_path / "out").root.rglob("*"))
    assert call("report")[0] == 3
    assert sorted(Store(tmp_path / "out").root.rglob("*")) == before


@pytest.mark.parametrize("options", [("--port", "8000"), ("--serve", "--output", "x")])
def test_options_of_serving_go_together(call: Call, options: tuple[str, ...]) -> None:
    code, _, said = call("report", *options)
    assert code == 2 and "expected --output to write a page, or --serve --port" in said
