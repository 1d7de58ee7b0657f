"""The live display: it fits its terminal, and runs can be told apart in it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from core.config import ConfigError
from core.store.folders import Store
from sweep.grid import load_grid
from sweep.state import display, run_logs
from sweep.state.plan import Plan, State, Status

GRID = """
name: many
base: {weights: random, image_size: 32, epochs: 2, backbone: mini_convnext, dataset: fake}
grid: {optim.lr: [1e-3, 1e-4, 1e-5]}
seeds: [0, 1, 2, 3, 4, 5, 6, 7]
evals: [{epsilons: 0..2/255}]
"""


def seen(tmp_path: Path, failed: int) -> Plan:
    """Of 24 runs the first ones failed, each for a reason of several lines; the last two run."""
    path = tmp_path / "many.yaml"
    path.write_text(GRID)
    runs = load_grid(path).runs
    states = [State.FAILED] * failed + [State.PENDING] * (22 - failed) + [State.RUNNING] * 2
    why = [f"reason {number} {'and more ' * 20}" for number in range(24)]
    found = zip(runs, states, why, strict=True)
    return Plan([Status(run, state, attempts=1, reason=reason) for run, state, reason in found])


@pytest.mark.parametrize("failed", [0, 3, 20])
@pytest.mark.parametrize("size", [(80, 24), (200, 60), (60, 8)])
def test_what_a_terminal_shows_ends_with_the_counts(
    tmp_path: Path, failed: int, size: tuple[int, int]
) -> None:
    console = Console(file=io.StringIO(), width=size[0], height=size[1], force_terminal=True)
    plan = seen(tmp_path, failed)
    console.print(display.table(plan, display.Clock(), screen=console))
    lines = Text.from_ansi(console.file.getvalue()).plain.splitlines()  # type: ignore[attr-defined]
    assert len(lines) <= size[1]
    assert "2 running" in lines[-1]
    assert sum("running" in line for line in lines[:-1]) == 2
    assert any(line.startswith("failed mini") for line in lines) == bool(failed)


def test_runs_of_one_name_can_be_told_apart(tmp_path: Path) -> None:
    plan = seen(tmp_path, 0)
    names = display._names(plan.statuses)
    assert len(set(names)) == len(names)
    assert all(s.run.id.startswith(name) for s, name in zip(plan.statuses, names, strict=True))
    assert display._names(plan.statuses[:8]) == [
        f"mini_convnext-fake-eps4-fix-s{seed}" for seed in range(8)
    ]


def test_no_reason_says_its_class_twice(tmp_path: Path) -> None:
    first, second, *_ = (status.run for status in seen(tmp_path, 0).statuses)
    said = {"kind": "cancelled", "reason": "cancelled on request"}
    full = {"kind": "disk", "reason": "no space left to write the run folder"}
    ended = [Status(first, State.CANCELLED, **said), Status(second, State.FAILED, **full)]
    assert [line.plain for line in display.reasons(Plan(ended))] == [
        f"cancelled {first.id}: cancelled on request",
        f"failed {second.id}: disk: no space left to write the run folder",
    ]


def test_ids_are_counted_and_no_more_is_promised(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for mark in "abcd":
        store.run(f"swin-cars-{mark}").path.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"matches 4 run ids: .*swin-cars-d$"):
        run_logs.find(store, "swin")
    store.run("swin-cars-e").path.mkdir()
    with pytest.raises(ConfigError, match=r"matches 5 run ids: .*swin-cars-d, \.\.\.$"):
        run_logs.find(store, "swin")
