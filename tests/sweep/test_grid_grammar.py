"""The grammar of grid files: the runs are those of a plain expansion, judged value by value."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from grid_text import BASE, field, mistakes, parse, settings_of
from hypothesis import given
from hypothesis import strategies as st

from core.config import RobustAccuracy, RunConfig
from sweep.grid import expansion, select_runs


class TestGrammar:
    def test_example(self) -> None:
        grid = parse(
            """
name: example
about: {question: why, runs: 48, started: 2024-01-31}
base: {epochs: 50, optim.lr: 1e-3}
grid:
  backbone: [swin, vit]
  dataset: [cars, aircraft]
  epsilon_g: [4/255, 8/255]
  schedule: [fix, {name: paper, kind: two_hinge, T1: 12, T2: 37}]
seeds: [0, 1, 2]
tables: [1, main]
"""
        )
        assert (grid.name, grid.tables) == ("example", ("1", "main"))
        assert (len(grid.runs), grid.shared) == (48, 0)
        assert grid.about == {"question": "why", "runs": 48, "started": "2024-01-31"}
        assert settings_of(grid)[:6] == ["fix"] * 3 + ["paper"] * 3
        assert set(field(grid, "optim.lr")) == {0.001}
        assert all(run.evals == (RobustAccuracy(),) for run in grid.runs)
        assert all(run.id == run.config.id for run in grid.runs)

    def test_product_is_in_file_order_and_seeds_turn_fastest(self) -> None:
        grid = parse(BASE + "seeds: [7, 5]\ngrid: {batch: [1, 2], epochs: [3, 4]}\n")
        columns = [field(grid, key) for key in ("batch", "epochs", "seed")]
        expected = list(itertools.product([1, 2], [3, 4], [7, 5]))
        assert list(zip(*columns, strict=True)) == expected

    def test_base_alone_is_one_run(self) -> None:
        assert len(parse(BASE).runs) == 1

    @pytest.mark.parametrize(
        "base",
        [
            "{backbone: swin, dataset: cars, optim: {lr: 1e-3, clip: 1}}",
            "{optim.clip: 1.0, dataset: cars, optim.lr: 0.001, backbone: swin}",
            "{backbone: swin, optim: {clip: 1}, optim.lr: '1e-3', dataset: cars}",
        ],
    )
    def test_dotted_and_nested_are_the_same(self, base: str) -> None:
        wanted = {"backbone": "swin", "dataset": "cars", "optim": {"lr": 1e-3, "clip": 1}}
        assert parse(f"name: g\nbase: {base}").runs[0].id == RunConfig.parse(wanted).id

    def test_zip_advances_together(self) -> None:
        text = BASE + "grid: {epochs: [3, 4]}\nzip: {batch: [1, 2], optim.lr: [0.1, 0.2]}\n"
        grid = parse(text)
        assert field(grid, "epochs") == [3, 3, 4, 4]
        assert field(grid, "batch") == [1, 2, 1, 2]
        assert field(grid, "optim.lr") == [0.1, 0.2, 0.1, 0.2]

    def test_zip_before_grid_is_the_outer_axis(self) -> None:
        grid = parse(BASE + "zip: {batch: [1, 2]}\ngrid: {epochs: [3, 4]}\n")
        assert field(grid, "batch") == [1, 1, 2, 2]

    def test_include_lies_over_base(self) -> None:
        grid = parse(
            "name: g\n"
            "base: {backbone: swin, dataset: cars, optim: {lr: 0.1, clip: 1}, schedule.T2: 9}\n"
            "grid: {batch: [1]}\n"
            "seeds: [3, 4]\n"
            "include: [{optim.lr: 0.2, schedule: auto}, {seed: 9, dataset: cub}]\n"
        )
        assert field(grid, "batch") == [1, 1, 128, 128, 128]
        assert field(grid, "optim.lr") == [0.1, 0.1, 0.2, 0.2, 0.1]
        assert set(field(grid, "optim.clip")) == {1}
        assert field(grid, "seed") == [3, 4, 3, 4, 9]
        assert settings_of(grid) == ["T1=0;T2=9"] * 2 + ["auto"] * 2 + ["T1=0;T2=9"]

    def test_include_without_axes_stands_alone(self) -> None:
        grid = parse("name: g\nbase: {backbone: vit}\ninclude: [{dataset: cub}, {dataset: cars}]\n")
        assert field(grid, "dataset") == ["cub", "cars"]

    @pytest.mark.parametrize(
        ("exclude", "left"),
        [
            ("{backbone: vit}", 9),
            ("{backbone: vit, dataset: cars}", 15),
            ("{backbone: vit_base_patch16_224.augreg_in1k}", 9),
            ("{schedule: fix}", 12),
            ("{schedule: {kind: two_hinge}}", 12),
            ("{schedule: sched}", 12),
            ("{schedule: paper}", 12),
            ("{schedule: {T1: 0.24, T2: 0.74}}", 12),
            ("{seed: 1, schedule: paper}", 12),
            ("{optim.lr: 1/1000, dataset: cub}", 12),
            ("{backbone: vit}, {dataset: cub}", 6),
        ],
    )
    def test_exclude_drops_what_matches_every_field(self, exclude: str, left: int) -> None:
        grid = parse(
            "name: g\n"
            "grid:\n"
            "  backbone: [vit, swin]\n"
            "  dataset: [cars, cub, dogs]\n"
            "  schedule: [fix, {name: paper, T1: 12, T2: 37}, uniform]\n"
            "  optim.lr: [1e-3]\n"
            "seeds: [1]\n"
            f"exclude: [{exclude}]\n"
        )
        assert len(grid.runs) == left

    def test_exclude_can_drop_an_impossible_combination(self) -> None:
        axes = "grid: {epsilon_g: [0, 4/255], schedule: [standard, fix], epochs: [10, 50]}\n"
        assert len(mistakes(BASE + axes)) == 1
        grid = parse(BASE + axes + "exclude: [{epsilon_g: 0/255, schedule: fix}]\n")
        assert (len(grid.runs), grid.shared) == (4, 2)

    def test_standard_is_shared_between_strengths(self) -> None:
        grid = parse(
            BASE + "grid:\n"
            "  epsilon_g: [4/255, 8/255]\n"
            "  schedule: [standard, fix]\n"
            "  attack.steps: [1, 2]\n"
        )
        assert settings_of(grid).count("standard") == 1
        assert (len(grid.runs), grid.shared) == (5, 3)

    def test_axis_of_mappings(self) -> None:
        grid = parse(BASE + "grid: {optim: [{lr: 0.1, clip: 2}, {lr: 0.2}]}\n")
        assert field(grid, "optim.lr") == [0.1, 0.2]
        assert field(grid, "optim.clip") == [2, 0]

    def test_schedule_in_parts(self) -> None:
        grid = parse(
            BASE + "grid: {schedule.T1: [0, 5], batch: [1, 2], schedule.T2: [10, 15]}\n"
            "exclude: [{schedule.T1: 0, schedule.T2: 10}]\n"
        )
        hinges = list(zip(field(grid, "schedule.T1"), field(grid, "schedule.T2"), strict=True))
        assert hinges == [(0, 15), (0, 15), (5, 10), (5, 15), (5, 10), (5, 15)]

    def test_presets_follow_epochs(self) -> None:
        grid = parse(BASE + "grid: {schedule: [sched], epochs: [50, 100]}\n")
        assert field(grid, "schedule.T2") == [37, 74]

    def test_name_of_a_schedule_is_a_label_only(self) -> None:
        plain = parse(BASE + "grid: {schedule: [{T1: 1, T2: 2}]}\n").runs[0]
        named = parse(BASE + "grid: {schedule: [{T1: 1, T2: 2, name: early}]}\n").runs[0]
        assert (plain.setting, named.setting) == ("T1=1;T2=2", "early")
        assert plain.id == named.id

    def test_one_label_for_two_schedules_of_different_backbones(self) -> None:
        grid = parse(
            "name: g\nbase: {dataset: cub}\nzip:\n  backbone: [vit, swin]\n"
            "  schedule: [{name: tuned, T2: 3}, {name: tuned, T2: 9}]\n"
        )
        assert settings_of(grid) == ["tuned", "tuned"]
        assert field(grid, "schedule.T2") == [3, 9]

    def test_a_value_may_set_several_fields(self) -> None:
        grid = parse(
            "name: g\nbase: {backbone: vit, dataset: cub}\ngrid:\n"
            "  way: [{protocol: full, epochs: 50}, {protocol: full, epochs: 5},\n"
            "        {protocol: linear, optim: {head_lr: 1e-3}}]\n  seed: [0, 1]\n"
        )
        assert field(grid, "epochs") == [50, 50, 5, 5, 50, 50]
        assert field(grid, "protocol") == ["full"] * 4 + ["linear"] * 2
        assert field(grid, "optim.lr")[-1] == 1e-3 and field(grid, "seed") == [0, 1] * 3
        only = select_runs(grid.runs, ["protocol=full", "epochs=5"])
        assert len(only) == 2

    def test_evals(self) -> None:
        grid = parse(BASE + "evals: [{steps: 3}, {epsilons: 0..4/255, split: val}]\n")
        assert [item.steps for item in grid.runs[0].evals] == [3, 10]

    def test_interpolation(self) -> None:
        grid = parse(
            "name: g\n"
            "about: {strengths: [1/255, 2/255], n: 5, data: cub}\n"
            "base: {backbone: vit, dataset: '${about.data}', epochs: '${about.n}'}\n"
            "grid: {epsilon_g: '${about.strengths}', seed: ['${about.n}']}\n"
        )
        assert [str(strength) for strength in field(grid, "epsilon_g")] == ["1/255", "2/255"]
        assert (field(grid, "epochs"), field(grid, "seed")) == ([5, 5], [5, 5])

    def test_text_is_kept(self) -> None:
        assert parse(BASE + "# a remark\n").text == BASE + "# a remark\n"


# Any combination of these values is a run, so that a plain expansion can be compared.
VALUES: dict[str, list[Any]] = {
    "backbone": ["vit", "swin", "resnet50.a1_in1k"],
    "dataset": ["cars", "/mine"],
    "epsilon_g": ["4/255", 0.01, "8/255"],
    "epochs": [20, 50],
    "schedule": ["fix", "sched", "standard", {"T1": 0.1, "T2": 20}],
    "attack.steps": [1, 7],
    "optim.lr": ["1e-3", 1e-4],
    "optim.weight_decay": [0, 0.1],
    "augment.flip": [True, False],
    "seed": [0, 1],
}


def axes(most: int) -> st.SearchStrategy[dict[str, list[Any]]]:
    lists = {key: st.lists(st.sampled_from(v), min_size=1, max_size=3) for key, v in VALUES.items()}
    keys = st.lists(st.sampled_from(list(VALUES)), max_size=most, unique=True)
    return keys.flatmap(lambda keys: st.fixed_dictionaries({key: lists[key] for key in keys}))


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        (data.setdefault(section, {}) if section else data)[name] = value
    return data


@given(grid=axes(5), zipped=axes(2), base=axes(4), extra=axes(3))
def test_runs_are_those_of_a_plain_expansion(
    grid: dict[str, list[Any]],
    zipped: dict[str, list[Any]],
    base: dict[str, list[Any]],
    extra: dict[str, list[Any]],
) -> None:
    """Judging values once per group gives what RunConfig.parse gives for each whole run."""
    zipped = {key: values for key, values in zipped.items() if key not in grid}
    length = min(map(len, zipped.values()), default=1)
    zipped = {key: values[:length] for key, values in zipped.items()}
    constant = {key: values[0] for key, values in base.items() if key not in {**grid, **zipped}}
    required = {"backbone": "vit", "dataset": "cars"}
    constant |= {k: v for k, v in required.items() if k not in {**grid, **zipped, **constant}}
    include = required | {key: values[0] for key, values in extra.items()}

    rows = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)]
    expected = [
        constant | dict(zip(grid, values, strict=True)) | row
        for values in itertools.product(*grid.values())
        for row in rows or [{}]
    ]
    if not grid and not zipped:
        expected = []
    configs = [RunConfig.parse(nested(data)) for data in [*expected, constant | include]]

    data = {"name": "g", "base": constant, "grid": grid, "zip": zipped, "include": [include]}
    got = parse(json.dumps(data))
    unique = {config.id: config for config in configs}
    assert [run.id for run in got.runs] == list(unique)
    assert [run.config for run in got.runs] == list(unique.values())
    assert got.shared == len(configs) - len(unique)


@pytest.mark.parametrize(
    ("base", "axis"),
    [
        ("norm: l2", "epsilon_g: [1/2, 2]"),
        ("optim.lr: 1e-3, optim.head_lr: 1e-2", "protocol: [full, linear]"),
        ("objective.kind: trades", "schedule: [standard, fix]"),
        ("validation.epsilon: 8/255", "epsilon_g: [4/255, 8/255]"),
        ("protocol: lora, lora.targets: [attn.proj, attn.qkv]", "backbone: [swin, r50]"),
        ("normalisation: guide", "backbone: [vit, swin]"),
        ("lora.rank: 4", "protocol: [full, lora]"),
        ("lora.rank: 4", "objective: [{kind: at}, {kind: autolora}]"),
    ],
)
def test_fields_that_depend_on_each_other_are_judged_together(base: str, axis: str) -> None:
    """Though one stands in base and the other is an axis: a node reads the same run from it."""
    rest = "" if "backbone" in axis else ", backbone: vit"
    text = f"name: x\nbase: {{dataset: cars, {base}{rest}}}\ngrid: {{{axis}}}\n"
    runs = parse(text).runs
    assert len(runs) == 2
    assert [run.id for run in runs] == [RunConfig.parse(r.config.to_dict()).id for r in runs]


def test_values_are_judged_once_not_once_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    check = RunConfig.check
    monkeypatch.setattr(
        expansion.RunConfig, "check", lambda data: calls.append(data) or check(data)
    )
    grid = parse(
        "name: g\nseeds: [0, 1, 2, 3]\n"
        "grid: {backbone: [vit, swin], dataset: [cub, cars], schedule: [fix, sched, auto]}\n"
    )
    assert len(grid.runs) == 48
    assert len(calls) == 4 + 2 + 2 + 3 + 1
