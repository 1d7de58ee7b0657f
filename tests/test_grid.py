"""Grid files: the grammar, every mistake at its line, filters, and the shipped grids."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import ConfigError, EvalConfig, RunConfig
from sweep import expand, fields
from sweep import grid as grids
from sweep.grid import Grid, select

BASE = "name: g\nbase: {backbone: swin, dataset: cars}\n"


def parse(text: str) -> Grid:
    return grids.parse(text, Path("g.yaml"))


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return list(caught.value.lines)


def field(grid: Grid, key: str) -> list[Any]:
    """One field of every run, in order."""
    found = []
    for run in grid.runs:
        value: Any = run.config
        for name in key.split("."):
            value = getattr(value, name)
        found.append(value)
    return found


def settings_of(grid: Grid) -> list[str]:
    return [run.setting for run in grid.runs]


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
        assert all(run.evals == (EvalConfig(),) for run in grid.runs)
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
    "dataset": ["cars", "./mine"],
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


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("abuot: {}", ["3: abuot: unknown key, did you mean 'about'?"]),
            ("about: 3", ["3: about: expected a mapping, got 3"]),
            ("grid:", ["3: grid: expected a mapping, got nothing"]),
            (
                "grid:\n  epochs: [1]\n  epochs: [2]",
                ["5: grid.epochs: given twice, first on line 4"],
            ),
            ("grid:\n  epoch: [3]", ["4: epoch: unknown field, did you mean 'epochs'?"]),
            ("grid:\n  optim.lrr: [3]", ["4: optim.lrr: unknown field, did you mean 'optim.lr'?"]),
            ("grid:\n  lr: [3]", ["4: lr: unknown field, did you mean 'optim.lr'?"]),
            ("grid:\n  epochs: []", ["4: epochs: the list is empty"]),
            ("grid:\n  epochs: 5", ["4: epochs: expected a list, got 5"]),
            ("grid:\n  epochs:\n  - 5\n  - x", ["6: epochs: input should be a valid integer"]),
            ("grid: {backbone: [vit]}", ["3: backbone: already set on line 2"]),
            ("grid: {optim.lr: [1]}\nzip: {optim.lr: [1]}", ["4: optim.lr: already set on line 3"]),
            (
                "grid: {optim: [{lr: 1}], optim.lr: [1]}",
                ["3: optim.lr: already set on line 3"],
            ),
            (
                "grid:\n  schedule: [fix]\n  schedule.T1: [1]",
                ["5: schedule.T1: already set as 'schedule' on line 4"],
            ),
            ("seeds: [1]\ngrid: {seed: [2]}", ["3: seed: already set on line 4"]),
            (
                "zip:\n  epochs: [1, 2]\n  batch: [1]",
                ["3: zip: expected lists of one length, epochs has 2, batch has 1"],
            ),
            ("grid: {schedule: [{T1: 3, T2: 2}]}", ["3: schedule: expected 0 <= T1 <= T2 <= 50"]),
            (
                "grid:\n  epochs: [10, 50]\n  schedule:\n  - {T2: 30}",
                ["6: schedule: expected 0 <= T1 <= T2 <= 10 epochs, got T1=0, T2=30"],
            ),
            ("grid: {schedule.T1: [9], schedule.T2: [3]}", ["3: schedule: expected 0 <= T1 <= T2"]),
            ("grid:\n  schedule:\n  - kind: auto\n    T3: 1", ["6: schedule.T3: unknown key"]),
            ("grid: {schedule: [shced]}", ["unknown schedule 'shced', did you mean 'sched'?"]),
            ("grid: {schedule: [{name: 3}]}", ["schedule: expected a name for tables, got 3"]),
            (
                "grid:\n  schedule:\n  - {name: a, T2: 3}\n  - {name: a, T2: 4}",
                ["4: schedule: two schedules are called 'a': swin-cars-eps4-t10_t23-s0-"],
            ),
            (
                "grid: {schedule: [sched]}\ninclude: [{schedule: {name: sched, T2: 4}}]",
                ["3: schedule: two schedules are called 'sched': swin-cars-eps4-sched-s0-"],
            ),
            (
                "grid: {schedule: [fix, {name: constant}]}",
                ["3: schedule: 'fix' and 'constant' name the same run, swin-cars-eps4-fix-s0-"],
            ),
            (
                "grid: {epsilon_g: [-1/255]}",
                ["3: epsilon_g: a strength lies in [0, 1], got -1/255"],
            ),
            ("grid: {epsilon_g: [8]}", ["3: epsilon_g: a strength lies in [0, 1], got 8, did you"]),
            (
                "grid:\n  epsilon_g:\n  - 0",
                ["5: epsilon_g: 0 means no attack, use schedule: standard"],
            ),
            ("seeds: 3", ["3: seeds: expected a list, got 3"]),
            ("seeds: []", ["3: seeds: the list is empty"]),
            ("seeds:\n- 1\n- -2", ["5: seed: input should be greater than or equal to 0, got -2"]),
            ("seeds:\n- 1\n- true", ["5: seed: input should be a valid integer, got True"]),
            ("include: {dataset: cub}", ["3: include: expected a list, got {'dataset': 'cub'}"]),
            (
                "include:\n- dataset: crs",
                ["4: dataset: unknown dataset 'crs', did you mean 'cars'?"],
            ),
            (
                "include:\n- 3\n- batch: 0",
                ["4: include: expected a mapping", "5: batch: input should"],
            ),
            (
                "include: [{schedule: fix}, {schedule: fix, schedule.T1: 3}]",
                ["already set as 'sched"],
            ),
            ("exclude:\n- dataset: cub", ["4: dataset: no axis of this grid"]),
            ("grid: {batch: [1]}\nexclude: [{batch: 2}]", ["4: exclude: matches no combination"]),
            ("grid: {batch: [1]}\nexclude: [{bach: 1}]", ["unknown field, did you mean 'batch'?"]),
            ("grid: {batch: [1]}\nexclude: [{batch: 1}]", ["4: exclude: drops every combination"]),
            (
                "grid: {batch: [1]}\nexclude: [{}]",
                ["4: exclude: expected a mapping of fields, got {}"],
            ),
            ("evals:\n- steps: 0", ["4: evals: steps: input should be greater than or equal to 1"]),
            ("evals:\n- stepz: 3", ["4: evals: stepz: unknown key, did you mean 'steps'?"]),
            ("evals:\n- epsilons:\n  - 0\n  - x", ["6: evals: epsilons.1: expected a strength"]),
            ("evals:\n- epsilons: [1/255]", ["4: evals: epsilons: expected ascending strengths"]),
            ("evals:\n- steps: 10\n- {}", ["5: evals: the same evaluation is given twice"]),
            ("evals: [3]", ["3: evals: input should be a valid dictionary"]),
            ("tables: [1, [2]]", ["3: tables: expected a name, got [2]"]),
            ("about: {x: &a [1], y: *a}", ["3: about.y: aliases (*) may recur without end"]),
            ("1: 2", ["3: 1: a key is text, put quotes around it"]),
            ("about: {x: '${oc.env:HOME}'}", ["3: about.x: a grid means the same everywhere"]),
            ("about:\n  x: ${nope}", ["4: about.x: Interpolation key 'nope' not found"]),
            ("about:\n  x: '${'", ["4: about.x: "]),
            ("about:\n  x: ${about.y}\n  y: ${about.x}", ["4: about.x: Rec", "5: about.y: Rec"]),
            ("grid: [\n", ["4: not valid YAML: "]),
            ("\tgrid: 1", ["3: not valid YAML: found character"]),
            ("grid: !!python/name:os.system x", ["3: not valid YAML: could not determine"]),
            ("grid: !!int x", ["not valid YAML: invalid literal"]),
            ("grid: " + "[" * 500, ["not valid YAML: maximum recursion"]),
            ("---\nname: h", ["3: not valid YAML: but found another document"]),
            ("about: \x07", ["not valid YAML: unacceptable character"]),
        ],
    )
    def test_where_and_what(self, text: str, expected: list[str]) -> None:
        lines = mistakes(BASE + text)
        assert len(lines) == len(expected), lines
        for line, part in zip(lines, expected, strict=True):
            assert "\n" not in line
            assert line.startswith("g.yaml:")
            assert part in line

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "g.yaml: expected a mapping with the keys name and grid"),
            ("- 1", "g.yaml: expected a mapping with the keys name and grid"),
            ("name: g\nbase: {backbone: vit}", "g.yaml: dataset: field required"),
            (
                "name: g\nbase: {backbone: swim, dataset: cub}",
                "g.yaml:2: backbone: unknown backbone",
            ),
            (
                "name: g\nbase:\n  backbone: vit\n  dataset: crs",
                "g.yaml:4: dataset: unknown dataset",
            ),
            ("base: {backbone: vit, dataset: cub}", "g.yaml: name: expected lower-case"),
            (
                "name: a/b\nbase: {backbone: vit, dataset: cub}",
                "g.yaml:1: name: expected lower-case",
            ),
            (
                "name: ..\nbase: {backbone: vit, dataset: cub}",
                "g.yaml:1: name: expected lower-case",
            ),
            ("name: A\nbase: {backbone: vit, dataset: cub}", "g.yaml:1: name: expected lower-case"),
            ("name: 1\nbase: {backbone: vit, dataset: cub}", "g.yaml:1: name: expected lower-case"),
            (
                "name: g\nbase: {backbone: vit, optim: 3, dataset: cub}",
                "g.yaml:2: optim: input should",
            ),
            (
                "name: g\nbase:\n  dataset: cub\n  optim:\n    lr: x\n  backbone: vit",
                "g.yaml:5: optim.lr",
            ),
            ("name: g\ninclude:\n- backbone: vit", "g.yaml:3: dataset: field required"),
        ],
    )
    def test_without_a_sound_base(self, text: str, expected: str) -> None:
        (line,) = mistakes(text)
        assert line.startswith(expected)

    def test_all_at_once_in_file_order(self) -> None:
        lines = mistakes(
            "name: Bad Name\n"
            "abuot: {}\n"
            "base:\n"
            "  optim: {lrr: 1, lr: fast}\n"
            "  batch: 128\n"
            "  batch: 64\n"
            "grid:\n"
            "  backbone: [swim]\n"
            "  dataset: []\n"
            "  epsilon_g: [4, 0]\n"
            "  schedule: [{T1: 9, T2: 3}, fix]\n"
            "  attack.steps: 7\n"
            "seeds: [-1]\n"
            "exclude:\n"
            "- {epoch: 3}\n"
            "evals: [{steps: 0}]\n"
            "tables: 3\n"
        )
        found = [re.match(r"g\.yaml:(\d+): ([\w.]+)", line) for line in lines]
        assert [match and (int(match[1]), match[2]) for match in found] == [
            (1, "name"),
            (2, "abuot"),
            (4, "optim.lrr"),
            (4, "optim.lr"),
            (6, "base.batch"),
            (8, "backbone"),
            (9, "dataset"),
            (10, "epsilon_g"),
            (10, "epsilon_g"),
            (11, "schedule"),
            (12, "attack.steps"),
            (13, "seed"),
            (15, "epoch"),
            (16, "evals"),
            (17, "tables"),
        ]

    def test_too_many_combinations(self) -> None:
        axes = ", ".join(
            f"{key}: {[*range(1, 102)]}" for key in ("batch", "epochs", "attack.steps")
        )
        (line,) = mistakes(BASE + f"grid: {{{axes}}}")
        assert line == "g.yaml:3: grid: 1030301 combinations, at most 1000000 are run"

    def test_one_id_for_two_configs_names_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(RunConfig, "id", "swin-0000")
        (line,) = mistakes(BASE + "grid: {seed: [1, 2]}")
        assert "swin-0000: two different runs have this id" in line
        assert "'seed': 1" in line
        assert "'seed': 2" in line

    @given(
        st.text(max_size=80) | st.text(alphabet=list("name: grid{}[]&*!'\"$-\n#,|>%@"), max_size=80)
    )
    def test_no_text_gives_a_traceback(self, text: str) -> None:
        assert all(line.startswith("g.yaml") for line in mistakes(text))

    anything = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-3, 300)
        | st.floats()
        | st.sampled_from(["swin", "cars", "fix", "4/255", "1e-3", "${base}", "???", "", "0..3/9"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*fields.FIELDS, *grids.KEYS, "T1", "x"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )

    @given(st.dictionaries(st.sampled_from(grids.KEYS), anything, max_size=5))
    def test_no_value_gives_a_traceback(self, data: dict[str, Any]) -> None:
        try:
            grid = parse(BASE + json.dumps(data)[1:-1].replace("${base}", "${name}"))
        except ConfigError as error:
            assert error.lines
        else:
            assert grid.runs


class TestLoad:
    def test_by_path_and_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(BASE)
        assert grids.load(tmp_path / "a.yaml").path == tmp_path / "a.yaml"
        assert grids.load("smoke").path == grids.shipped()["smoke"]

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(BASE, "utf-8-sig")
        assert grids.load(tmp_path / "a.yaml").text == BASE

    def test_missing(self) -> None:
        with pytest.raises(ConfigError, match=r"^smok: no such grid file, did you mean 'smoke'\?"):
            grids.load("smok")
        with pytest.raises(
            ConfigError, match=r"/smok.yaml: no such grid file, did you mean 'smoke'"
        ):
            grids.load("/nowhere/smok.yaml")

    def test_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="a folder, not a grid file"):
            grids.load(tmp_path)
        (tmp_path / "a.yaml").write_bytes(b"name: \xff")
        with pytest.raises(ConfigError, match=r"a.yaml: not UTF-8 text \(byte 6\)"):
            grids.load(tmp_path / "a.yaml")

    def test_problems_name_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_text("name: a\nbse: {}\n")
        with pytest.raises(ConfigError, match=re.escape(f"{path}:2: bse: unknown key")):
            grids.load(path)

    def test_installed_grids_lie_inside_the_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sweep" / "grids").mkdir(parents=True)
        (tmp_path / "sweep" / "grids" / "mine.yaml").write_text(BASE)
        monkeypatch.setattr(grids, "__file__", str(tmp_path / "sweep" / "grid.py"))
        assert list(grids.shipped()) == ["mine"]


@pytest.mark.parametrize("name", grids.shipped())
class TestShipped:
    def test_says_what_it_is(self, name: str) -> None:
        grid = grids.load(name)
        header = "".join(
            itertools.takewhile(lambda line: line[0] == "#", grid.text.splitlines(True))
        )
        assert grid.name == name
        assert grid.about["runs"] == len(grid.runs)
        assert f"Runs: {len(grid.runs)} " in header
        assert "Expect: " in header
        assert "Command: sweep " in header
        assert {"question", "hardware", "expect"} <= grid.about.keys()


def test_epsilon_scheduling_is_tables_1_and_2() -> None:
    grid = grids.load("epsilon_scheduling")
    cells = {
        (c.backbone, c.dataset, c.epsilon_g, s)
        for c, s in ((r.config, r.setting) for r in grid.runs)
    }
    assert len(cells) == len(grid.runs) == 150
    assert sorted(map(settings_of(grid).count, ("fix", "sched", "standard"))) == [30, 60, 60]
    assert len(set(field(grid, "backbone"))) == 6
    assert len(set(field(grid, "dataset"))) == 5
    scheds = [run.config.schedule for run in grid.runs if run.setting == "sched"]
    assert {(item.T1, item.T2) for item in scheds} == {(12, 37)}


class TestSelect:
    GRID = parse(
        "name: g\n"
        "grid:\n"
        "  backbone: [swin, vit]\n"
        "  dataset: [cars, cub]\n"
        "  epsilon_g: [4/255, 12/255]\n"
        "  schedule: [fix, standard, {name: early, T2: 5}]\n"
        "  augment.flip: [true, false]\n"
        "exclude: [{backbone: vit, dataset: cub}]\n"
    )

    @pytest.mark.parametrize(
        ("filters", "count"),
        [
            ([], 30),
            (["backbone=swin"], 20),
            (["backbone=swin_base_patch4_window7_224.ms_in22k_ft_in1k"], 20),
            (["backbone=swin", "dataset=cars"], 10),
            (["dataset=cars,cub"], 30),
            (["dataset=cars", "dataset=cub"], 30),
            (["epsilon_g=12/255"], 12),
            (["epsilon_g=4/85"], 12),
            (["epsilon_g=0"], 6),
            (["setting=early"], 12),
            (["schedule=early,fix"], 24),
            (["schedule.kind=standard"], 6),
            (["schedule.T2=5"], 12),
            (["augment.flip=True"], 15),
            (["optim.lr=1e-4"], 30),
        ],
    )
    def test_count(self, filters: list[str], count: int) -> None:
        assert len(select(self.GRID.runs, filters)) == count

    def test_keeps_order(self) -> None:
        runs = select(self.GRID.runs, ["dataset=cub,cars"])
        assert runs == list(self.GRID.runs)

    def test_by_id(self) -> None:
        run = self.GRID.runs[3]
        assert select(self.GRID.runs, [f"id={run.id}"]) == [run]

    @pytest.mark.parametrize(
        ("filters", "lines"),
        [
            (["backbon=swin"], ["unknown key 'backbon', did you mean 'backbone'?"]),
            (["swin"], ["--only swin: expected key=value"]),
            (["backbone="], ["--only backbone=: expected key=value"]),
            (["dataset=cars,"], ["--only dataset=cars,: expected key=value"]),
            (["backbone=swim"], ["backbone=swim: no run has this value, did you mean 'swin'?"]),
            (
                ["epsilon_g=8/255"],
                ["epsilon_g=8/255: no run has this value, did you mean '4/255'?"],
            ),
            (["a=1", "b=2"], ["unknown key 'a'", "unknown key 'b'"]),
            (["backbone=x", "dataset=cars,y"], ["--only backbone=x: no", "--only dataset=y: no"]),
            (
                ["backbone=vit", "dataset=cub"],
                ["backbone=vit dataset=cub: no run has all of these"],
            ),
        ],
    )
    def test_mistakes(self, filters: list[str], lines: list[str]) -> None:
        with pytest.raises(ConfigError) as caught:
            select(self.GRID.runs, filters)
        assert len(caught.value.lines) == len(lines)
        for line, part in zip(caught.value.lines, lines, strict=True):
            assert part in line


@pytest.mark.parametrize(
    ("base", "axis"),
    [
        ("norm: l2", "epsilon_g: [1/2, 2]"),
        ("optim.lr: 1e-3, optim.head_lr: 1e-2", "protocol: [full, linear]"),
        ("objective.kind: trades", "schedule: [standard, fix]"),
        ("validation.epsilon: 8/255", "epsilon_g: [4/255, 8/255]"),
        ("protocol: lora, lora.targets: [attn.proj, attn.qkv]", "backbone: [swin, r50]"),
        ("lora.rank: 4", "protocol: [full, lora]"),
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
    monkeypatch.setattr(expand.RunConfig, "check", lambda data: calls.append(data) or check(data))
    grid = parse(
        "name: g\nseeds: [0, 1, 2, 3]\n"
        "grid: {backbone: [vit, swin], dataset: [cub, cars], schedule: [fix, sched, auto]}\n"
    )
    assert len(grid.runs) == 48
    assert len(calls) == 4 + 2 + 2 + 3 + 1
