"""A kind of evaluation that only this file knows is launched, measured, rehearsed, costed and shown
in a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from whole_run import execute

from analysis import load
from analysis.cells import group_cells
from analysis.intervals import Flags
from analysis.kinds import KINDS as SHOWN
from analysis.paper import main_tables
from analysis.results import Results
from core.config import ConfigError, EvalConfig
from core.config.evaluation_kinds import KINDS
from core.evaluation.kinds import MEASURES
from core.store.flags import read_flags
from core.store.folders import Store
from core.store.json_files import read_json
from sweep.estimate.passes import count_passes
from sweep.grid import load_grid
from sweep.rehearsal.miniature import Datasets, shrink
from sweep.submit import frozen_code

TOY = '''
"""Margins between the best logit and the second best."""

from core.config import EvalConfig
from core.evaluation.measured import Context, Measured


class Margins(EvalConfig):
    scale: float = 1.0
    metrics = ("accuracy", "median_margin")

    def passes(self, images, survival):
        return 3 * images

    def measure(self, model, split, context):
        import numpy as np
        import torch
        from core.store.records import ResultRow

        mine = context.team.mine(torch.arange(len(split)))
        margins, right = np.zeros((2, len(split)))
        with torch.no_grad():
            for rows in mine.split(context.batch):
                x, y = split.batch(rows, context.device)
                logits = model(x)
                best = logits.topk(2).values
                margins[rows.numpy()] = self.scale * (best[:, 0] - best[:, 1]).numpy()
                right[rows.numpy()] = (logits.argmax(1) == y).numpy()
                context.progress(len(rows))
        margins, right = (sum(context.team.gather(part)) for part in (margins, right))
        row = ResultRow(
            attack=self.name, norm="linf", epsilon="0", n=len(split), correct=int(right.sum())
        )
        return Measured(
            [row],
            {"margin": margins, "accuracy": right.astype(bool)},
            forwards=len(split),
            metrics={"median_margin": float(np.median(margins))},
        )
'''
GRID = """
name: toy
base: {backbone: test_vit, weights: random, dataset: fake, image_size: 16, epochs: 1, batch: 10}
grid: {schedule: [fix, sched], epsilon_g: [1/255]}
evals:
  - {epsilons: [0, 1/255], steps: 1, images: 4}
  - {attack: "my_margins:Margins", scale: 2, images: 12}
"""
NAMED = {"attack": "my_margins:Margins", "scale": 2, "images": 12}

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvalConfig:
    (tmp_path / "my_margins.py").write_text(TOY)
    (tmp_path / "toy.yaml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    return EvalConfig.parse(NAMED)


def test_a_kind_of_another_file_from_grid_to_table(toy: EvalConfig, call: Call) -> None:
    code, out, err = call("launch", "toy.yaml", "--profile", "debug", "--tracking", "none")
    assert code == 0, (out, err)
    store = Store.at("outputs")
    (path, _) = sorted(store.runs.iterdir())
    folder = store.run(path.name)
    record = read_json(folder.eval_json(toy.id))
    assert record is not None and EvalConfig.parse(record["config"]) == toy
    assert record["n"] == record["forwards"] == 12
    arrays = read_flags(folder.eval_flags(toy.id))
    assert arrays is not None and arrays["margin"].dtype == float
    assert record["metrics"] == {"median_margin": float(np.median(arrays["margin"]))}
    assert record["rows"][0]["correct"] == arrays["accuracy"].sum()

    values = load("outputs", index=False)
    assert set(values["kind"]) == {"apgd-ce", "my_margins:Margins"}
    mine = values[(values["run_id"] == path.name) & (values["kind"] == toy.attack)]
    shown = dict(zip(mine["metric"], mine["value"], strict=True))
    assert shown["median_margin"] == record["metrics"]["median_margin"]
    assert shown["accuracy"] == pytest.approx(100 * record["rows"][0]["correct"] / 12)
    found = Results("outputs", index=False)
    judged, own = main_tables(
        found.values, sure=lambda cells, rows: Flags(found, rows).significant(cells)
    )
    assert (judged.title, own.title) == ("eps_g = 1/255", "Margins")
    assert [column[-1] for column in own.header] == ["accuracy", "median_margin"]
    assert own.complete
    flags = Flags(found, found.values)
    (key, *_) = [key for key in group_cells(mine) if key.metric == "accuracy"]
    interval = flags.interval(key)
    assert interval.method == "Wilson" and interval.low <= shown["accuracy"] <= interval.high
    better = found.values.copy()
    better.loc[(better["kind"] == toy.attack) & (better["setting"] == "sched"), "value"] = 99.0
    (*_, own) = main_tables(better)
    assert [entry.bold for _, row in own.rows for entry in row].count(True) == 1, "its accuracy"
    code, out, _ = call("tables", "toy.yaml")
    assert code == 0 and "median_margin" in out and "As measured on the test split" in out
    assert call("report", "toy.yaml")[0] == 0


@pytest.mark.parametrize("kind", ["apgd-ce", "my_margins:Margins"])
def test_a_digest_is_computed_and_never_written(toy: EvalConfig, call: Call, kind: str) -> None:
    """It would make another evaluation of the same measurement."""
    mine = f'{{attack: "{kind}", code: {{"my_margins:Margins": 0123456789abcdef}}}}'
    path = Path("coded.yaml")
    path.write_text(GRID.partition("evals:")[0] + f"evals: [{mine}]\n")
    code, _, err = call("plan", str(path))
    assert (
        code == 2 and "coded.yaml:5: evals: code: remove it, it is computed from the source" in err
    )
    if kind == "apgd-ce":
        with pytest.raises(ConfigError, match="code: remove it, it is computed, and only for"):
            EvalConfig.parse({"attack": kind, "code": dict(toy.code)})


def test_what_it_has_not_measured_is_missing_from_all_its_metrics(toy: EvalConfig) -> None:
    (run, _) = load_grid(Path("toy.yaml")).runs
    rows = [
        {
            "id": run.config.id,
            "setting": run.setting,
            "config": run.config.to_dict(),
            "evals": {item.id: item.to_dict() for item in run.evals},
        }
    ]
    values = Results("outputs", rows, index=False).values
    mine = values[values["kind"] == toy.attack]
    assert list(mine["metric"]) == ["accuracy", "median_margin"]
    assert set(mine["state"]) == {"missing"} and mine["value"].isna().all()


def test_its_cost_and_its_miniature_are_its_own(toy: EvalConfig, store: Store) -> None:
    (run, _) = load_grid(Path("toy.yaml")).runs
    sizes = {"train": 100, "val": 10, "test": 10}
    assert count_passes(run.config, [toy], sizes).evaluate == 3 * 10
    small = shrink(run, Datasets())
    assert [item.images for item in small.evals] == [1, 1]
    execute(store, tiny.config(), [small.evals[1]], rehearsal=True)
    assert store.run(tiny.config().id).eval_json(small.evals[1].id).exists()


def test_jobs_get_a_copy_of_its_source(toy: EvalConfig, store: Store) -> None:
    (run, _) = load_grid(Path("toy.yaml")).runs
    frozen = frozen_code.snapshot(store.sweep("toy"), run.code)
    assert (frozen / "my_margins.py").read_text() == TOY


def test_its_source_is_part_of_what_it_is(toy: EvalConfig, store: Store) -> None:
    Path("my_margins.py").write_text(TOY.replace("3 * images", "4 * images"))
    assert EvalConfig.parse(NAMED).id != toy.id, "another measurement"
    assert EvalConfig.parse(toy.to_dict()).id == toy.id, (
        "what a manifest asks for stays what it was"
    )
    with pytest.raises(ConfigError, match=r"my_margins.py has changed"):
        execute(store, tiny.config(), [toy])


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("class Margins", "class Margin", "no 'Margins' in .*did you mean 'Margin'?"),
        ("def measure", "def measured", "my_margins:Margins: has no method 'measure'"),
        ("def passes", "def passed", "my_margins:Margins: has no method 'passes'"),
        ("(EvalConfig)", "", "expected a subclass of core.config.EvalConfig"),
        ("return 3 * images", "return images / 0", r"shrunk\(\) fails: ZeroDivisionError: "),
        ("scale: float", "size: float", "scale: unknown key"),
    ],
)
def test_mistakes_are_one_line(toy: EvalConfig, old: str, new: str, line: str) -> None:
    Path("my_margins.py").write_text(TOY.replace(old, new))
    with pytest.raises(ConfigError, match=line) as caught:
        load_grid(Path("toy.yaml"))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("return Measured(", "return (", "measure must return a core.evaluation"),
        ('"margin": margins', '"margin": margins[1:]', "array 'margin': expected numbers"),
        ('{"median_margin": ', '{"mean": ', "declares the metrics accuracy, median_margin"),
    ],
)
def test_what_it_gives_is_checked(
    toy: EvalConfig, store: Store, old: str, new: str, line: str
) -> None:
    text = TOY.replace(old, new)
    if old.startswith("return"):
        text = text[: text.index("return (")] + "return None\n"
    Path("my_margins.py").write_text(text)
    with pytest.raises(ConfigError, match=line):
        execute(store, tiny.config(), [EvalConfig.parse(NAMED)])


def test_every_kind_of_ours_can_be_measured_and_shown() -> None:
    assert {*KINDS} == {*MEASURES} == {*SHOWN}
    for name, kind in KINDS.items():
        config: Any = {"attack": name}
        assert EvalConfig.parse(config).passes(10, 0.5) > 0
        assert kind.model_fields["attack"].default == name
