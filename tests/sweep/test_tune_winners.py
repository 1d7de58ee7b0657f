"""Winners of searches: their record, the grids that take them, and what the commands tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trials
from tuned_grid import GRID, one_search, parse, searches
from waiting import ended

from core.config import ConfigError
from core.store.folders import Store
from core.store.json_files import read_jsonl
from sweep import launcher
from sweep.grid import load_grid, search
from sweep.grid.search import REAL
from sweep.submit import submissions
from sweep.tune import session, table, winners


def through(store: Store, tune: str = "{trials: 3}") -> None:
    """Let every search of the grid be through; the best trial is the second one."""
    for wanted in searches(store, tune):
        for number, value in enumerate((0.25, 0.75, 0.5)[: wanted.trials]):
            trials.end(wanted, number, "completed", value)
        search.conclude(wanted)


def test_the_record_of_a_winner(store: Store) -> None:
    wanted = one_search(store, "{trials: 6, minutes: 240}")
    for number, value in enumerate((0.25, 0.75, 0.5)):
        trials.end(wanted, number, "completed", value)
    trials.end(wanted, 3, "pruned")
    trials.end(wanted, 4, "diverged")
    assert search.conclude(wanted).winner is None, "one trial is left"
    trials.end(wanted, 5, "pruned")
    record = search.conclude(wanted).winner
    assert record
    given = {key: record[key] for key in ("trials", *REAL, "failed", "value", "trial", "images")}
    assert given == {
        "trials": 6,
        "completed": 3,
        "pruned": 2,
        "diverged": 1,
        "failed": 0,
        "value": 0.75,
        "trial": 1,
        "images": 60,
    }
    assert record["params"] == {"optim.lr": 2e-3, "optim.weight_decay": 2e-3}
    assert record["second"]["value"] == 0.5 and record["second"]["params"]["optim.lr"] == 3e-3
    assert record["spread"] == {"lowest": 0.25, "highest": 0.75, "std": 0.25}
    assert record["budget"] == {"trials": 6, "minutes": 240} and record["objective"] == "clean"
    assert record["optuna"] and record["recorded"] and record["seed"] == 0
    before = wanted.winner_file.read_bytes()
    search.conclude(wanted)
    assert wanted.winner_file.read_bytes() == before, "written once"


def test_all_runs_take_winners_or_none(store: Store) -> None:
    grid = parse("{trials: 3, least: 2}")
    first, *others = session.searches(grid, store)
    for number in range(3):
        trials.end(first, number, "completed", 0.5)
    search.conclude(first)
    some = winners.apply(grid, store)
    assert some.runs == grid.runs and not any(run.tuned for run in some.runs)
    with pytest.raises(ConfigError) as caught:
        winners.require(some)
    (line,) = caught.value.lines
    told = "tiny: 2 of 3 searches unfinished; run: sweep tune tiny.yaml; no run begins before all"
    assert line.startswith(told) and "0 of 3 trials" in line
    for wanted in others:
        for number in range(3):
            trials.end(wanted, number, "completed", number / 3)
        search.conclude(wanted)
    full = winners.apply(grid, store)
    winners.require(full)
    by_setting = {(run.setting, run.config.epsilon_g): run for run in full.runs}
    assert len({run.id for run in full.runs} | {run.id for run in grid.runs}) == 20
    for (setting, _), run in by_setting.items():
        best = 0 if setting == "standard" else 2
        assert run.config.optim.lr == pytest.approx(1e-3 * (best + 1))
        assert run.tuned and run.tuned["least"] == 2
        assert submissions.manifest_row(run)["tuned"]["trials"] == 3
    assert winners.apply(grid, store) == full, "whoever looks sees the same runs"
    assert winners.apply(parse("{trials: 4}"), store).runs == grid.runs, "of this budget"


def test_launch_refuses_a_grid_that_nobody_has_looked_into(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"run: sweep tune tiny\.yaml"):
        winners.require(parse())


def test_too_few_trials_are_flagged(store: Store) -> None:
    through(store)
    grid = winners.apply(parse("{trials: 3}"), store)
    few = [str(line) for line in winners.lines(grid)]
    assert "searched with fewer than 10 trials: mini_convnext-fake-standard-s0 (3)" in few[1]
    assert all(item["few_trials"] for item in winners.as_dict(grid)["tuning"])
    enough = winners.apply(parse("{trials: 3, least: 3}"), store)
    assert len(winners.lines(enough)) == 1 and not winners.weak(enough)
    seen = table.as_dict(session.look(grid.searches), 10)["searches"]
    assert [item["few_trials"] for item in seen] == [True] * 3
    assert [
        item["few_trials"] for item in table.as_dict(session.look(grid.searches), 3)["searches"]
    ] == [False] * 3


Call = Callable[..., tuple[int, str, str]]


def test_the_command_line_tells_what_is_missing(call: Call, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "my tiny.yaml"
    path.write_text(f"{GRID}tune: {{trials: 3}}\n")
    code, out, _ = call("plan", str(path))
    assert code == 0 and "not tuned yet: 3 of 3 searches unfinished; run: sweep tune '" in out
    code, _, err = call("launch", str(path), "--tracking", "none")
    assert (
        code == 2
        and len(err.splitlines()) == 1
        and f"run: sweep tune '{path}'; no run begins" in err
    )
    assert not store.root.exists(), "nothing is written"
    code, out, _ = call("tune", str(path), "--status")
    assert code == 3 and "0 of 3 searches finished, 0 of 9 trials" in out
    through(store)
    code, out, _ = call("tune", str(path))
    assert code == 0 and "75.00" in out and "50.00" in out and "25.00" in out
    assert "3 trials, expected at least 10; its results are flagged" in out
    code, out, _ = call("status", str(path))
    assert "searched with fewer than 10 trials" in out
    _, out, _ = call("plan", str(path), "--json")
    plan = json.loads(out)
    assert {run["config"]["optim"]["lr"] for run in plan["runs"]} == {2e-3}
    assert len(plan["tuning"]) == 3 and plan["tuning"][0]["winner"]["value"] == 0.75
    path.write_text(GRID)
    code, _, err = call("tune", str(path))
    assert code == 2 and "expected a `tune:` block" in err


def test_a_trial_needs_no_team(call: Call, tmp_path: Path) -> None:
    path, profile = tmp_path / "tiny.yaml", tmp_path / "two.yaml"
    path.write_text(f"{GRID}tune: {{}}\n")
    profile.write_text("executor: local\ngpus_per_run: 2\n")
    code, _, err = call("tune", str(path), "--profile", str(profile))
    assert code == 2 and "a trial trains in one process" in err


@pytest.mark.slow
def test_from_search_to_table(tmp_path: Path) -> None:
    """Real workers, one of them killed; the grid then runs with what they have found."""
    path, root = tmp_path / "tiny.yaml", tmp_path / "root"
    text = GRID.replace("epochs: 9", "epochs: 3").replace("[2/255, 4/255]", "[2/255]")
    path.write_text(text.replace("seeds: [0, 1]", "seeds: [0]") + "tune: {trials: 4}\n")
    command = [sys.executable, "-m", "sweep.cli"]

    def sweep(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *arguments, "--root", str(root)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    tuner = sweep("tune", str(path), "--max-parallel", "2")
    claims = root / "tuned"
    killed = None
    while killed is None and tuner.poll() is None:
        for file in claims.glob("*/trials/*/claim-0001.json"):
            info = json.loads(file.read_text() or "{}")
            if info and not info["outcome"] and len(read_jsonl(file.parent / "metrics.jsonl")) > 0:
                os.kill(info["pid"], 9)
                killed = file.parent
                break
    out = ended(tuner)
    assert killed and tuner.returncode == 0, out
    assert "2 of 2 searches finished, 8 of 8 trials" in out
    outcomes = [row["outcome"] for row in read_jsonl(killed / "attempts.jsonl")]
    assert outcomes == ["lost", "done"]
    assert not list(claims.rglob("*.pt")) and not (root / "runs").exists()

    launched = sweep("launch", str(path), "--tracking", "none")
    out = ended(launched)
    assert launched.returncode == 0, out
    seen = launcher.look(winners.apply(load_grid(path), Store(root)), Store(root))
    assert {status.state for status in seen.statuses} == {"done"}
    rates = {status.run.setting: status.run.config.optim.lr for status in seen.statuses}
    assert rates["fix"] == rates["sched"] != 1e-4
    tables = sweep("tables", str(path))
    out = ended(tables)
    assert "hyper-parameters from a search of 4 trials, expected at least 10" in out
