"""Every mistake in a grid file is one line with its place, whatever the text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grid_text import BASE, mistakes, parse
from hypothesis import given
from hypothesis import strategies as st

from core.config import ConfigError, RunConfig
from sweep.grid import definition, fields


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
            (
                "grid:\n  objectiv: [{kind: trades}]",
                ["4: objectiv: unknown field, did you mean 'objective'?"],
            ),
            (
                "grid:\n  way:\n  - {epochs: 5, bach: 3}\n  - 7",
                [
                    "5: bach: unknown field, did you mean 'batch'?",
                    "6: way: expected a mapping of fields, got 7",
                ],
            ),
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
            ("evals: [3]", ["3: evals: expected a mapping such as {attack: apgd-ce}, got 3"]),
            ("tables: [1, [2]]", ["3: tables: expected a name, got [2]"]),
            ("about: {x: &a [1], y: *a}", ["3: about.y: aliases (*) are not accepted"]),
            ("1: 2", ["3: 1: a key must be text, put quotes around it"]),
            ("about: {x: '${oc.env:HOME}'}", ["3: about.x: expected ${key.key}, the place of"]),
            ("about:\n  x: ${nope}", ["4: about.x: Interpolation key 'nope' not found"]),
            ("about:\n  x: '${'", ["4: about.x: "]),
            ("about:\n  x: ${about.y}\n  y: ${about.x}", ["4: about.x: refers to itself"]),
            ("grid: [\n", ["4: not valid YAML: "]),
            ("\tgrid: 1", ["3: not valid YAML: found character"]),
            (
                "grid: !!python/name:os.system x",
                ["3: grid: expected a plain value, got 'x' tagged !!py"],
            ),
            ("grid: !!int x", ["3: grid: expected a plain value, got 'x' tagged !!int"]),
            ("grid: " + "[" * 500, ["3: not valid YAML: nested deeper than 64 levels"]),
            ("---\nname: h", ["3: not valid YAML: but found another document"]),
            ("about: \x07", ["3: not valid YAML: unexpected character #x0007"]),
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
        monkeypatch.setattr(RunConfig, "id_of", lambda *_: "swin-0000")
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
                st.sampled_from([*fields.FIELDS, *definition.KEYS, "T1", "x"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )

    @given(st.dictionaries(st.sampled_from(definition.KEYS), anything, max_size=5))
    def test_no_value_gives_a_traceback(self, data: dict[str, Any]) -> None:
        try:
            grid = parse(BASE + json.dumps(data)[1:-1].replace("${base}", "${name}"))
        except ConfigError as error:
            assert error.lines
        else:
            assert grid.runs


@pytest.mark.parametrize(
    "line",
    [
        "about: {note: KEY}",
        "wandb_key: s3cret",
        "# log in with KEY",
        "base: {weights: 'https://me:s3cret@host/x.pt'}",
    ],
)
def test_a_secret_in_a_grid_is_refused_and_not_repeated(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]], line: str
) -> None:
    """The store keeps a copy of the file, comments and all."""
    key = "0123456789abcdef0123456789abcdef01234567"
    path = tmp_path / "g.yaml"
    path.write_text(f"name: g\n{line.replace('KEY', key)}\n")
    code, out, err = call("plan", str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"{path}:2: ") and "looks like a secret" in err
    assert key not in err and "s3cret" not in err
