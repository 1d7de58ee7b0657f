"""Grid files: found by path or by name, the shipped ones, and filters on their runs."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import get_args

import pytest
from grid_text import BASE, field, parse, settings_of
from pydantic import BaseModel

from core.config import ConfigError
from core.config.parts import Optim
from core.config.registry import backbones
from core.config.run import RunConfig
from core.training import objectives, schedules
from sweep.grid import definition, load_grid, select_runs, shipped_grids


class TestLoad:
    def test_by_path_and_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(BASE)
        assert load_grid(tmp_path / "a.yaml").path == tmp_path / "a.yaml"
        assert load_grid("smoke").path == shipped_grids()["smoke"]

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(BASE, "utf-8-sig")
        assert load_grid(tmp_path / "a.yaml").text == BASE

    def test_missing(self) -> None:
        with pytest.raises(ConfigError, match=r"^smok: no such grid file, did you mean 'smoke'\?"):
            load_grid("smok")
        with pytest.raises(
            ConfigError, match=r"/smok.yaml: no such grid file, did you mean 'smoke'"
        ):
            load_grid("/nowhere/smok.yaml")

    @pytest.mark.parametrize("typed", ["mine", "mien.yaml"])
    def test_a_file_beside_it_is_proposed_first(self, tmp_path: Path, typed: str) -> None:
        (tmp_path / "mine.yaml").touch()
        with pytest.raises(ConfigError, match=f"did you mean '{tmp_path}/mine.yaml'"):
            load_grid(tmp_path / typed)

    def test_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="a folder, not a grid file"):
            load_grid(tmp_path)
        (tmp_path / "a.yaml").write_bytes(b"name: \xff")
        with pytest.raises(ConfigError, match=r"a.yaml: not UTF-8 text \(byte 6\)"):
            load_grid(tmp_path / "a.yaml")

    def test_problems_name_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_text("name: a\nbse: {}\n")
        with pytest.raises(ConfigError, match=re.escape(f"{path}:2: bse: unknown key")):
            load_grid(path)

    def test_installed_grids_lie_inside_the_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sweep" / "grids").mkdir(parents=True)
        (tmp_path / "sweep" / "grids" / "mine.yaml").write_text(BASE)
        monkeypatch.setattr(
            definition, "__file__", str(tmp_path / "sweep" / "grid" / "definition.py")
        )
        assert list(shipped_grids()) == ["mine"]


ARES = {"robvit", "robswin", "robcnx", "robr50"}
"""Robust backbones of the paper that are not the guide's."""


@pytest.mark.parametrize("name", shipped_grids())
class TestShipped:
    def test_says_what_it_is(self, name: str) -> None:
        grid = load_grid(name)
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
    grid = load_grid("epsilon_scheduling")
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


def test_the_guide_is_1440_configurations_under_five_measurements() -> None:
    """Both its grids differ in how hyper-parameters are found, and in nothing else."""
    grid, tuned = load_grid("guide"), load_grid("guide_tuned")
    assert [run.id for run in grid.runs] == [run.id for run in tuned.runs]
    assert grid.tune and grid.tune.trials == 0
    assert tuned.tune and tuned.tune.trials >= 10 and tuned.tune.objective == "adversarial"
    assert grid.tune.space == tuned.tune.space
    ways = {(c.protocol, c.epochs) for c in (run.config for run in grid.runs)}
    assert ways == {("full", 50), ("full", 5), ("linear", 50)}
    losses = {(c.objective.kind, c.objective.beta) for c in (run.config for run in grid.runs)}
    assert losses == {("at", 1.0), ("trades", 1.0)}
    known = backbones()
    guide = {n for n, entry in known.items() if not n.startswith("mini_") and n not in ARES}
    assert {*field(grid, "backbone")} == guide and len(guide) == 40
    assert len({*field(grid, "dataset")}) == 6 and len(grid.runs) == 40 * 6 * 2 * 3
    assert (
        sum(config.normalisation == "guide" for config in (r.config for r in grid.runs)) == 12 * 36
    )
    (evals,) = {run.evals for run in grid.runs}
    assert [(item.attack, getattr(item, "norm", "")) for item in evals] == [
        *[("autoattack", norm) for norm in ("linf", "l2", "l1")],
        ("corruptions", ""),
    ]
    assert [str(item.epsilons[-1]) for item in evals[:3]] == ["4/255", "2", "75"]


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
        assert len(select_runs(self.GRID.runs, filters)) == count

    def test_keeps_order(self) -> None:
        runs = select_runs(self.GRID.runs, ["dataset=cub,cars"])
        assert runs == list(self.GRID.runs)

    def test_by_id(self) -> None:
        run = self.GRID.runs[3]
        assert select_runs(self.GRID.runs, [f"id={run.id}"]) == [run]

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
            select_runs(self.GRID.runs, filters)
        assert len(caught.value.lines) == len(lines)
        for line, part in zip(caught.value.lines, lines, strict=True):
            assert part in line


def test_the_smoke_grid_has_every_kind_of_training_step() -> None:
    """All values of every choice that a config offers, but LoRAs, which need an optional package;
    and the runs it always had under their ids."""
    runs = [run.config for run in load_grid("smoke").runs]
    ids = {run.id.rsplit("-", 1)[1] for run in runs}
    assert {"193122ea787003de", "86064b52ae23f56b", "23b3cc1fa8600784", "32aef09dcbd0b47f"} <= ids
    assert {run.schedule.kind for run in runs} == {*schedules.KINDS} - {"points", "none"}
    assert {run.objective.kind for run in runs} == {*objectives.KINDS} - {"autolora"}
    choices: dict[str, tuple[set[str], type[BaseModel], str, set[str]]] = {
        "protocol": ({run.protocol for run in runs}, RunConfig, "protocol", {"lora"}),
        "precision": ({run.precision for run in runs}, RunConfig, "precision", set()),
        "norm": ({run.norm for run in runs}, RunConfig, "norm", set()),
        "no_decay": ({run.optim.no_decay for run in runs}, Optim, "no_decay", set()),
    }
    for name, (found, part, key, left_out) in choices.items():
        known = set(get_args(part.model_fields[key].annotation))
        assert found == known - left_out, name
    for one in ("ema", "clip", "head_lr", "warmup"):
        assert any(getattr(run.optim, one) for run in runs), one
    assert any(run.batchnorm_images for run in runs)
