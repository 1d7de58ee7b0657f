"""RunConfig: what identifies a run, how a config may be spelled, one line for each bad input."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from core.config import ConfigError, RobustAccuracy, RunConfig, Schedule, Strength, nearest

SWIN = {"backbone": "swin", "dataset": "aircraft"}

fractions_of_one = st.floats(0, 1, allow_subnormal=False)
strengths = st.integers(1, 255).map(lambda k: f"{k}/255")
schedules = st.sampled_from(
    ["standard", "fix", "sched", "uniform", "auto", {"T1": 0.25, "T2": 0.75}, {"T1": 0, "T2": 2}]
) | st.fixed_dictionaries({"kind": st.just("auto"), "patience": st.integers(1, 9)})
configs = st.fixed_dictionaries(
    {
        "backbone": st.sampled_from(["vit", "swin", "mini_resnet", "resnet18.a1_in1k"]),
        "dataset": st.sampled_from(["cars", "cub", "/my data/", "~/data/Ümlaut"]),
    },
    optional={
        "weights": st.sampled_from(["random", "demo/model.pt"]),
        "image_size": st.integers(1, 32).map(lambda patches: 16 * patches),
        "epsilon_g": strengths,
        "schedule": schedules,
        "epochs": st.integers(2, 100),
        "batch": st.integers(1, 1024),
        "optim": st.fixed_dictionaries(
            {}, optional={"lr": st.floats(1e-6, 1), "weight_decay": fractions_of_one}
        ),
        "attack": st.fixed_dictionaries({}, optional={"steps": st.integers(1, 20)}),
        "validation": st.fixed_dictionaries(
            {}, optional={"epsilon": strengths, "images": st.none() | st.integers(1, 99)}
        ),
        "augment": st.fixed_dictionaries({}, optional={"flip": st.booleans()}),
        "precision": st.sampled_from(["fp32", "bf16"]),
        "seed": st.integers(0, 10**6),
    },
)


def parsed(**changes: Any) -> RunConfig:
    return RunConfig.parse({**SWIN, **changes})


def reordered(value: Any, order: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    order.shuffle(keys)
    return {key: reordered(value[key], order) for key in keys}


class TestIdentity:
    # These ids are in papers, file names and W&B: they change only together with SCHEMA.
    @pytest.mark.parametrize(
        ("data", "golden"),
        [
            ({}, "swin-aircraft-eps4-fix-s0-4d3b677d63917586"),
            (
                {"epsilon_g": "8/255", "schedule": "sched", "optim": {"lr": 1e-3}, "seed": 2},
                "swin-aircraft-eps8-sched-s2-ba3dcf9a68a74218",
            ),
            (
                {"dataset": "/my data", "schedule": "standard", "validation": {"images": 7}},
                "swin-my_data-standard-s0-b800215699e5073f",
            ),
        ],
    )
    def test_golden(self, data: dict[str, Any], golden: str) -> None:
        assert parsed(**data).id == golden

    @given(configs, st.randoms(use_true_random=False))
    def test_key_order_is_no_part_of_it(self, data: dict[str, Any], order: random.Random) -> None:
        assert RunConfig.parse(reordered(data, order)).id == RunConfig.parse(data).id

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"epsilon_g": "4/255"}, {}),
            ({"dataset": "/my/data/"}, {"dataset": "/my/other/../data"}),
            ({"epsilon_g": "8/510"}, {"epsilon_g": Fraction(4, 255)}),
            ({"epsilon_g": "0.25"}, {"epsilon_g": 0.25}),
            ({"epsilon_g": " 1 / 4"}, {"epsilon_g": 0.25}),
            ({"optim": {"lr": "1e-3"}}, {"optim": {"lr": 0.001}}),
            ({"optim": {"weight_decay": 0}}, {"optim": {"weight_decay": -0.0}}),
            ({"optim": {}}, {}),
            ({"schedule": "fix"}, {"schedule": {"kind": "fix", "name": "constant"}}),
            ({"schedule": "fix"}, {"schedule": {"T1": 0, "T2": 0.0}}),
            ({"schedule": "sched"}, {"schedule": {"kind": "two_hinge", "T1": 12, "T2": 37}}),
            ({"schedule": "sched"}, {"schedule": {"T1": 0.24, "T2": 0.74}}),
            ({"schedule": Schedule(kind="uniform")}, {"schedule": "uniform"}),
            ({"backbone": "swin_base_patch4_window7_224.ms_in22k_ft_in1k"}, {}),
        ],
    )
    def test_spelling_is_no_part_of_it(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        assert parsed(**one) == parsed(**other)
        assert parsed(**one).id == parsed(**other).id

    @given(configs)
    def test_new_neutral_field_keeps_it(self, data: dict[str, Any]) -> None:
        class Later(RunConfig):
            dropout: float = 0.0

        assert Later.parse(data).id == RunConfig.parse(data).id
        assert Later.parse({**data, "dropout": 0.1}).id != RunConfig.parse(data).id

    @given(configs)
    def test_round_trip(self, data: dict[str, Any]) -> None:
        config = RunConfig.parse(data)
        again = RunConfig.parse(yaml.safe_load(yaml.safe_dump(config.to_dict())))
        assert again == config
        assert again.id == config.id

    @given(st.lists(configs, min_size=2, max_size=20))
    def test_same_id_exactly_where_same_config(self, many: list[dict[str, Any]]) -> None:
        runs = [RunConfig.parse(data) for data in many]
        for run in runs:
            assert [run == other for other in runs] == [run.id == other.id for other in runs]

    @given(configs)
    def test_safe_file_name(self, data: dict[str, Any]) -> None:
        run = RunConfig.parse(data).id
        assert re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]*)*-[0-9a-f]{16}", run)
        assert len(run) < 200

    def test_every_field_counts(self) -> None:
        changes = [
            {"weights": "random"},
            {"image_size": 32},
            {"epsilon_g": "5/255"},
            {"schedule": "auto"},
            {"schedule": {"kind": "auto", "tolerance": 0.1}},
            {"epochs": 49},
            {"batch": 64},
            {"batchnorm_images": 32},
            {"optim": {"clip": 1}},
            {"attack": {"steps": 8}},
            {"validation": {"epsilon": "1/255"}},
            {"augment": {"flip": False}},
            {"precision": "bf16"},
            {"norm": "l2"},
            {"seed": 1},
            {},
        ]
        assert len({parsed(**change).id for change in changes}) == len(changes)

    def test_images_per_batchnorm_statistic(self) -> None:
        assert parsed(protocol="linear", batchnorm_images=32).id == parsed(protocol="linear").id
        assert parsed(batchnorm_images=None).id == parsed().id
        with pytest.raises(ConfigError) as error:
            parsed(batchnorm_images=48)
        expected = "batchnorm_images: expected a divisor of the batch, 128, got 48"
        assert error.value.lines == (f"config: {expected}",)

    def test_copy_with_changes_has_its_own(self) -> None:
        config, evaluation = parsed(), RobustAccuracy()
        before = config.id, evaluation.id
        assert config.model_copy(update={"seed": 1}).id == parsed(seed=1).id != before[0]
        assert evaluation.model_copy(update={"steps": 3}).id != before[1]

    def test_plain_strengths_of_l2_and_l1(self) -> None:
        config = parsed(norm="l2", epsilon_g="2", validation={"epsilon": 0.5})
        assert config.epsilon_g == Strength(Fraction(2), "l2")
        assert config.to_dict()["epsilon_g"] == "2"
        assert config.slug == "swin-aircraft-l2_eps2-fix-s0"
        assert RunConfig.parse(config.to_dict()).id == config.id
        assert parsed(norm="l1", epsilon_g=12).id != parsed(norm="l2", epsilon_g=12).id
        small = parsed(norm="l2", epsilon_g=0.2)
        assert RunConfig.parse(small.to_dict()).id == small.id
        assert small.slug == "swin-aircraft-l2_eps1_5-fix-s0"

    def test_standard_is_one_run_in_every_norm(self) -> None:
        assert parsed(schedule="standard", norm="l2").id == parsed(schedule="standard").id
        asked = {"schedule": "standard", "validation": {"epsilon": 2}}
        assert parsed(norm="l2", **asked).validation_epsilon == Strength(Fraction(2), "l2")

    @given(strengths, st.integers(1, 20))
    def test_standard_is_one_run(self, strength: str, steps: int) -> None:
        asked = parsed(schedule="standard", epsilon_g=strength, attack={"steps": steps})
        assert asked == parsed(schedule="standard")
        assert asked.id == parsed(schedule="standard").id
        assert "eps" not in asked.id

    def test_planning_needs_no_torch(self) -> None:
        code = "import sys, core.config, sweep.grid; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BAD = [
    ({"backbone": None}, "backbone", "valid string, got None"),
    ({"backbone": ""}, "backbone", "at least 1"),
    ({"dataset": 3}, "dataset", "valid string, got 3"),
    ({"dataset": "my/data"}, "dataset", "depends on the current folder, write the full path: /"),
    ({"epochs": 0}, "epochs", "expected at least 1, got 0"),
    ({"epochs": "50"}, "epochs", "valid integer, got '50'"),
    ({"epochs": True}, "epochs", "valid integer, got True"),
    ({"epochs": "x", "schedule": "sched"}, "epochs", "valid integer, got 'x'"),
    ({"batch": 1.5}, "batch", "valid integer, got 1.5"),
    ({"image_size": 4}, "image_size", "greater than or equal to 8"),
    ({"backbone": "vit", "image_size": 225}, "", "image_size: .*the patch of vit, got 225"),
    ({"backbone": "vit", "image_size": 225}, "", "nearest: 224 or 240"),
    ({"backbone": "vit", "image_size": 9}, "", "nearest: 16"),
    ({"image_size": 230}, "", "expected a multiple of 4, the patch of swin"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**63}, "seed", "less than or equal to 9223372036854775807"),
    ({"precision": "fp16"}, "precision", "'fp32' or 'bf16', got 'fp16'"),
    ({"epsilon_g": 4}, "epsilon_g", r"\[0, 1\], got 4, did you mean 4/255\?"),
    ({"epsilon_g": "256/255"}, "epsilon_g", r"\[0, 1\], got 256/255$"),
    ({"epsilon_g": "-1/255"}, "epsilon_g", r"\[0, 1\], got -1/255"),
    ({"epsilon_g": "300/255"}, "epsilon_g", r"\[0, 1\]"),
    ({"epsilon_g": "four"}, "epsilon_g", "a strength such as 4/255, got 'four'"),
    ({"epsilon_g": "1/0"}, "epsilon_g", "a strength such as 4/255"),
    ({"epsilon_g": "nan"}, "epsilon_g", "a strength such as 4/255"),
    ({"epsilon_g": "1e-999999999"}, "epsilon_g", "a strength such as 4/255"),
    ({"epsilon_g": False}, "epsilon_g", "a number, got false"),
    ({"epsilon_g": 0}, "", "epsilon_g: 0 means no attack, use schedule: standard"),
    ({"optim": {"lr": "fast"}}, "optim.lr", "valid number.*got 'fast'"),
    ({"optim": {"lr": True}}, "optim.lr", "a number, got true"),
    ({"optim": {"lr": 0}}, "optim.lr", "greater than 0"),
    ({"optim": {"lr": float("nan")}}, "optim.lr", "finite"),
    ({"optim": {"lrr": 1}}, "optim.lrr", "unknown key, did you mean 'optim.lr'?"),
    ({"optim": 3}, "optim", "valid dictionary"),
    ({"epoch": 3}, "epoch", "unknown key, did you mean 'epochs'?"),
    ({"schedule": "shced"}, "schedule", "unknown schedule 'shced', did you mean 'sched'?"),
    ({"schedule": 3}, "schedule", "a preset .none, standard, fix, .*got 3"),
    ({"schedule": {"T1": 9, "T2": 3}}, "schedule", "0 <= T1 <= T2 <= 50 epochs, got T1=9, T2=3"),
    ({"schedule": {"T2": 51}}, "schedule", "0 <= T1 <= T2 <= 50 epochs, got T1=0, T2=51"),
    ({"schedule": {"T1": -1, "T2": 3}}, "schedule", "got T1=-1, T2=3"),
    ({"schedule": {"T2": 1.5}}, "schedule", "T2: expected whole epochs or a fraction"),
    ({"schedule": {"T2": "x"}}, "schedule.T2", "valid integer, got 'x'"),
    ({"schedule": {"T3": 3}}, "schedule.T3", "unknown key"),
    ({"schedule": {"kind": "auto", "T2": 3}}, "schedule", "belong to kind: two_hinge, not to 'a"),
    ({"schedule": {"kind": "fix", "T2": 3}}, "schedule", "'fix' takes no further keys"),
    ({"validation": {"images": 0}}, "validation.images", "greater than or equal to 1"),
]


class TestBadInput:
    @pytest.mark.parametrize(("data", "key", "line"), BAD)
    def test_one_line_for_each(self, data: dict[str, Any], key: str, line: str) -> None:
        found = RunConfig.check({**SWIN, **data})
        assert isinstance(found, list)
        assert [at for at, _ in found] == [key]
        assert re.search(line, found[0][1])
        assert "\n" not in found[0][1]

    def test_all_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            RunConfig.parse({"epochs": 0, "optim": {"lrr": 1}, "seed": "x"}, where="a.yaml")
        keys = [line.split(": ")[1] for line in caught.value.lines]
        assert sorted(keys) == ["backbone", "dataset", "epochs", "optim.lrr", "seed"]
        assert all(line.startswith("a.yaml: ") for line in caught.value.lines)

    def test_schedule_does_not_hide_others(self) -> None:
        with pytest.raises(ConfigError) as caught:
            parsed(schedule="shced", seed=-1)
        assert [line.split(": ")[1] for line in caught.value.lines] == ["schedule", "seed"]

    def test_config_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            parsed().seed = 3  # type: ignore[misc]

    def test_nearest(self) -> None:
        assert nearest("crs", ["cars", "cub"]) == ", did you mean 'cars'?"
        assert nearest("zzz", ["cars", "cub"]) == " (known: cars, cub)"
        assert nearest("zzz", "abcdefghij").endswith("h, ...)")


def test_a_copy_is_as_pydantic_makes_it() -> None:
    config = RunConfig.parse({"backbone": "vit", "dataset": "cars", "optim": {"lr": 0.01}})
    changes = {"seed": 3, "optim": config.optim.model_copy(update={"warmup": 0.1})}
    ours, theirs = config.model_copy(update=changes), BaseModel.model_copy(config, update=changes)
    assert ours == theirs and hash(ours) == hash(theirs) and ours.id == theirs.id
    assert ours.model_fields_set == theirs.model_fields_set == {*config.model_fields_set, *changes}
    assert ours.model_dump_json() == theirs.model_dump_json()
    assert (config.seed, config.model_copy()) == (0, config)
