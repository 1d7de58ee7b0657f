"""What planning does once for a grid, and not once for each of its 100,000 runs."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.config import RobustAccuracy, Schedule
from core.config import run as run_config
from core.store.folders import Store
from sweep import launcher, summary
from sweep.estimate import cost
from sweep.grid import Grid, parse_grid
from sweep.state import decision
from sweep.state.plan import Plan, State, as_json, look

GRID: dict[str, Any] = {
    "name": "g",
    "base": {"optim.lr": 1e-3},
    "grid": {
        "backbone": ["vit", "swin"],
        "dataset": ["cub", "cars"],
        "epsilon_g": ["4/255", "8/255"],
        "schedule": ["fix", "auto", {"name": "mine", "T1": 0.1, "T2": 0.5}],
    },
    "evals": [{"mode": "fast"}, {"steps": 50}],
}


def parse(seeds: int) -> Grid:
    return parse_grid(json.dumps(GRID | {"seeds": list(range(seeds))}), Path("g.yaml"))


def planned(grid: Grid, store: Store) -> Plan:
    """All that `sweep plan` does."""
    profile, seen = launcher.load_profile("local"), launcher.look(grid, store)
    estimate = cost.of(profile, store)
    summary.of(grid, seen, estimate)
    launcher.lacks(seen, store, profile)
    estimate.as_dict([status.run for status in seen.statuses])
    return seen


def test_work_grows_with_the_values_of_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configs are checked and compared with their defaults, and evaluations are hashed, per value;
    folders are looked into only if they are there."""
    calls: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def counted(*args: Any) -> Any:
            calls[name] += 1
            return plain(*args)

        monkeypatch.setattr(owner, name, counted)

    count(RobustAccuracy, "__hash__")
    count(Schedule, "label")
    count(run_config, "delta_of")
    count(decision, "read")
    found = []
    for seeds in (1, 7):
        calls.clear()
        assert len(planned(parse(seeds), Store(tmp_path)).statuses) == 24 * seeds
        found.append(Counter(calls))
    more = found[1] - found[0]
    assert found[0]["__hash__"] and more == {"delta_of": 6, "label": 24 * 6}, "label: for its slug"


def test_ids_are_those_of_the_configs() -> None:
    """Though they are put together from the deltas of values."""
    runs = parse(2).runs
    assert [run.id for run in runs] == [run.config.id for run in runs]


def test_runs_with_a_folder_are_looked_at(tmp_path: Path) -> None:
    grid, store = parse(1), Store(tmp_path)
    begun = grid.runs[3]
    store.run(begun.id).path.mkdir(parents=True)
    store.run(begun.id).cancel.write_text("{}")
    seen = planned(grid, store)
    assert [status.state for status in seen.statuses].index(State.CANCELLED) == 3
    assert seen.statuses == [look(run, store.run(run.id)) for run in grid.runs]


def test_json_is_one_object_with_a_line_for_each_run(tmp_path: Path) -> None:
    seen = launcher.look(parse(1), Store(tmp_path))
    pieces = [*as_json(seen, name="g")]
    assert max(map(len, pieces)) < 2_000, "a piece is one run, however many there are"
    text = "".join(pieces)
    found = json.loads(text)
    assert list(found) == ["name", "counts", "runs"] and text.endswith("}\n")
    assert found["runs"] == [status.to_dict() for status in seen.statuses]
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    assert [json.loads(line) for line in lines if '"id"' in line] == found["runs"]
    assert json.loads("".join(as_json(Plan([]))))["runs"] == []


def test_a_plan_imports_little(tmp_path: Path) -> None:
    """Each of these takes longer to import than 1,440 runs take to plan."""
    heavy = "torch timm numpy pandas submitit omegaconf asyncio wandb optuna PIL urllib.request"
    code = (
        "import sys; sys.argv = ['sweep', 'plan', 'guide', '--root', sys.argv[1]]\n"
        "from epsweep.command import main\n"
        "try: main()\n"
        f"finally: print('imported', *sorted({{*{heavy.split()}}} & {{*sys.modules}}))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported"
