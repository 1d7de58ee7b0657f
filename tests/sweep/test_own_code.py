"""The example of own code, end to end: a schedule, a loss and a backbone that nobody registered."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.config import ConfigError, RunConfig, own_code
from core.config.document import Document
from core.store.folders import Store
from core.store.json_files import read_jsonl
from sweep.grid import load_grid, parse_grid
from sweep.grid.definition import Grid

EXAMPLES = Path(__file__).parents[2] / "examples"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the example, in which the user is."""
    folder = tmp_path / "mine"
    shutil.copytree(EXAMPLES, folder)
    monkeypatch.chdir(folder)
    yield folder
    sys.modules.pop("own_code", None)
    own_code._imported.clear()


def numbers(grid: Grid, store: Store) -> dict[str, list[tuple[object, ...]]]:
    """What every run measured."""
    names = ("epoch", "epsilon", "train_loss", "val_clean_correct", "val_adv_correct")
    return {
        run.id: [tuple(row[n] for n in names) for row in read_jsonl(store.run(run.id).metrics)]
        for run in grid.runs
    }


def edit(file: Path) -> None:
    file.write_text(file.read_text() + "\n# another thought\n")


@pytest.mark.slow
def test_the_example_runs_and_an_edit_makes_other_runs(
    here: Path, call: Call, store: Store
) -> None:
    grid = load_grid("own_code.yaml")
    assert len(grid.runs) == 4 and all(run.code for run in grid.runs)
    assert call("launch", "own_code.yaml", "--profile", "debug")[0] == 0
    code, shown, _ = call("status", "own_code.yaml")
    assert code == 0 and "4 done" in shown
    _, table, _ = call("tables", "own_code.yaml")
    assert "Power;power=2" in table and "objective.kind=own_code:Smooth" in table
    assert "code.own_code" not in table, "a digest tells versions apart, not kinds"

    measured = numbers(grid, store)
    squared = [run for run in grid.runs if run.setting == "Power;power=2"]
    for run in squared:
        strengths = [row[1] for row in measured[run.id]]
        assert strengths == pytest.approx([0, 2 / 255 / 4, 2 / 255])
    losses = {kind: measured[run.id][0][2] for run in squared for kind in [run.config.objective]}
    assert len({*losses.values()}) == 2, "the loss is the one that was asked for"

    before = [run.config for run in grid.runs]
    edit(here / "own_code.py")
    assert "4 new" in call("status", "own_code.yaml")[1]
    again = load_grid("own_code.yaml")
    assert not {run.id for run in again.runs} & {config.id for config in before}

    from core.run.pipeline import Options, execute

    for config in before:
        if config.schedule.kind == "two_hinge" and config.objective.kind == "at":
            with pytest.raises(ConfigError, match=r"own_code.py has changed: this run needs"):
                execute(config, [], store, None, Options())
    assert numbers(grid, store) == measured


@pytest.mark.slow
def test_workers_import_the_frozen_copy(here: Path, call: Call, tmp_path: Path) -> None:
    """They have the same numbers as this process, with code that is not here any more."""
    grid, one, two = load_grid("own_code.yaml"), tmp_path / "one", tmp_path / "two"
    assert call("launch", "own_code.yaml", "--profile", "debug", "--root", str(one))[0] == 0
    command = [sys.executable, "-m", "sweep.cli", "launch", "own_code.yaml", "--profile", "local"]
    subprocess.run([*command, "--root", str(two)], check=True, stdout=subprocess.DEVNULL)
    assert numbers(grid, Store(one)) == numbers(grid, Store(two))
    (frozen,) = two.glob("sweeps/own_code/code/*/own_code.py")
    assert frozen.read_bytes() == (here / "own_code.py").read_bytes()


def test_a_stored_config_is_read_without_the_code(here: Path) -> None:
    configs = [run.config for run in load_grid("own_code.yaml").runs]
    stored = [config.to_dict() for config in configs]
    (here / "own_code.py").unlink()
    sys.modules.pop("own_code")
    assert [RunConfig.parse(data) for data in stored] == configs
    assert [RunConfig.parse(data).id for data in stored] == [config.id for config in configs]
    assert "own_code" not in sys.modules


MISTAKES = {
    "schedule: {kind: own_code:Power, powr: 2}": "powr: no parameter of own_code:Power, did you",
    "schedule: own_code:Pwoer": "did you mean 'Power'?",
    "schedule: own_code:Smooth": "has no 'alpha', inherit core.training.schedules.EpsilonSchedule",
    "schedule: {kind: own_code:Power, power: -1}": "ZeroDivisionError: 0.0 cannot be raised",
    "schedule: {kind: own_code:Power, power: [1]}": "TypeError",
    "schedule: {kind: bad:Much}": "expected alpha in [0, 1] at epoch 0, got 3",
    "schedule: {kind: bad:Lazy}": "abstract",
    "schedule: {kind: own_code:Power, power: {a: 1}}": "power: expected a number, a text",
    "objective: {kind: own_code:Smooth, smothing: 1}": "did you mean 'smoothing'?",
    "objective: own_code:Smooth": "objective: ",
    "objective: {kind: own_code:Power, epochs: 1}": "has no 'loss_sum'",
    "backbone: own_code:tiny": "did you mean 'Tiny'?",
    "backbone: bad:no_classes": "needs a parameter 'classes'",
    "weights: pretrained": "expected random (as the function returns it) or a checkpoint",
    "code: {a: b}": "code: unknown field",
    "schedule: {kind: sweep.own:Power}": "'sweep' is the name of a module of epsweep",
}
BAD = """
from core.training.schedules import EpsilonSchedule
class Much(EpsilonSchedule):
    def alpha(self, epoch): return 3
class Lazy(EpsilonSchedule): ...
def no_classes(): ...
"""


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(here: Path, line: str) -> None:
    (here / "bad.py").write_text(BAD)
    key = line.partition(":")[0]
    base = {"backbone": "own_code:Tiny", "weights": "random", "dataset": "fake", "image_size": 32}
    rest = [f"  {name}: {value}" for name, value in base.items() if name != key]
    text = "\n".join(["name: g", "base:", f"  {line}", *rest])
    Document(text, "g.yaml")  # it is YAML as it should be
    with pytest.raises(ConfigError) as caught:
        parse_grid(text, Path("g.yaml"))
    (said,) = caught.value.lines
    assert said.startswith("g.yaml:3: ") and MISTAKES[line] in said
