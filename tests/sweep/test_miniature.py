"""Miniatures: which runs share one, what is kept of a run, and datasets in their own formats."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from seen import seen

from core.config import RunConfig
from core.config.registry import backbone
from core.data import splits
from core.store.folders import Store
from core.training import schedules
from sweep.grid import Run, load_grid, parse_grid
from sweep.rehearsal import miniature
from sweep.rehearsal.miniature import Datasets, Rehearsal

GRID = """
name: big
base: {image_size: 32, weights: random, batch: 64}
grid:
  backbone: [mini_convnext]
  dataset: [fake, cars]
  epsilon_g: [4/255, 8/255]
  schedule: [standard, fix, sched, uniform, {T1: 5, T2: 25}]
  optim.lr: [1e-3, 1e-2]
seeds: [0, 1]
"""


def run(**fields: Any) -> Run:
    base: dict[str, Any] = {"backbone": "mini_convnext", "dataset": "cars", "image_size": 32}
    config = RunConfig.parse(base | {"epsilon_g": "4/255"} | fields)
    return Run(config, config.setting, ())


def shrunk(**fields: Any) -> RunConfig:
    return miniature.shrink(run(**fields), Datasets()).config


def test_one_miniature_per_backbone_dataset_and_kind_of_schedule() -> None:
    runs = parse_grid(GRID, Path("big.yaml")).runs
    small = {r.id: r for r in (miniature.shrink(run, Datasets()) for run in runs)}
    # Seeds, strengths, rates and the places of the hinges fold together.
    assert len(runs) == 2 * 2 * 2 * (1 + 2 * 4)
    kinds = {
        (r.config.dataset, r.config.schedule.kind, r.config.schedule.is_fix) for r in small.values()
    }
    assert len(small) == len(kinds) == 2 * 4
    assert all(r.config.optim.lr == 1e-4 and r.config.image_size == 32 for r in small.values())


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": {"kind": "trades"}},
        {"objective": {"kind": "autolora"}},
        {"protocol": "linear"},
        {"protocol": "lora"},
        {"precision": "bf16"},
        {"image_size": 64},
        {"norm": "l2", "epsilon_g": 2},
        {"optim": {"ema": 0.9}},
        {"optim": {"head_lr": 1e-2}},
    ],
)
def test_what_takes_another_path_has_a_separate_miniature(fields: dict[str, Any]) -> None:
    assert shrunk(**fields).id != shrunk().id
    name = next(iter(fields))
    if name != "optim":
        assert getattr(shrunk(**fields), name) == getattr(run(**fields).config, name)


@pytest.mark.parametrize(
    "schedule",
    ["fix", "sched", "uniform", {"T1": 3, "T2": 3}, {"kind": "points", "points": [[0, 0], [9, 1]]}],
)
@pytest.mark.parametrize("backbone", ["mini_convnext", "resnet18"])
def test_two_batches_with_and_without_attack(schedule: Any, backbone: str) -> None:
    config = shrunk(schedule=schedule, backbone=backbone)
    images = (
        miniature.BATCHES // config.epochs * config.batch
    )  # as sweep.worker.job cuts the splits
    assert images // config.batch * config.epochs == 2
    strengths = [schedules.make(config).alpha(epoch) for epoch in range(config.epochs)]
    assert strengths[-1] > 0
    begins_clean = schedules.make(run(schedule=schedule).config).alpha(0) == 0
    assert (strengths[0] == 0) == begins_clean == (len(strengths) == 2)
    assert config.batch == (1 if backbone == "mini_convnext" else 2)


def test_runs_that_do_the_same_share_a_miniature() -> None:
    """All of the guide's 1,440: every backbone and dataset is there, and every loss and protocol
    with every architecture."""
    runs = load_grid("guide").runs
    pairs = miniature.share([(run, miniature.shrink(run, Datasets())) for run in runs])
    assert [run for run, _ in pairs] == list(runs)
    small = {small.id: small.config for _, small in pairs}.values()
    assert len(small) < 120
    assert {c.image_size for c in small} == {224}
    assert {c.backbone for c in small} == {run.config.backbone for run in runs}
    assert {c.dataset for c in small} == {run.config.dataset for run in runs}
    for run, shared in pairs:
        one, other = run.config, shared.config
        assert (one.protocol, one.objective) == (other.protocol, other.objective)
        names = (backbone(c.backbone).timm.partition(".")[0] for c in (one, other))
        assert len({*names}) == 1 and one.normalisation == other.normalisation


def test_auto_attacks_in_the_end() -> None:
    config = shrunk(schedule="auto")
    schedule = schedules.make(config)
    for epoch in range(config.epochs - 1):
        assert schedule.alpha(epoch) == 0
        schedule.observe(seen(epoch, 0.3))
    assert schedule.alpha(config.epochs - 1) == 1


def test_an_evaluation_keeps_its_norm_split_and_mode() -> None:
    from core.config import EvalConfig

    asked = EvalConfig.parse({"norm": "l2", "epsilons": [0, 1, 2], "split": "val", "mode": "fast"})
    small = asked.shrunk()
    assert (small.norm, small.split, small.mode) == ("l2", "val", "fast")
    assert [e.number for e in small.epsilons] == [0, Fraction(2, 255)]
    assert (small.steps, small.images) == (1, 1)
    long = EvalConfig.parse({"attack": "autoattack", "epsilons": ["0", "4/255"]})
    assert long.shrunk().attack == "apgd-ce"
    corrupted = EvalConfig.parse({"attack": "corruptions", "severity": 5})
    small = corrupted.shrunk()
    assert small == EvalConfig.parse({"attack": "corruptions", "severity": 5, "images": 1})


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    monkeypatch.setenv("EPSWEEP_DATA", str(tmp_path / "real"))
    return Rehearsal(tmp_path / "rehearsal")


def test_known_datasets_go_through_their_readers(rehearsal: Rehearsal, store: Store) -> None:
    runs = [run(dataset=name) for name in ("cars", "aircraft", "caltech256", "fake")]
    found = miniature.furnish(runs, store, rehearsal)
    assert found == Datasets()
    prepared = sorted(p.name for p in (rehearsal.data / "prepared").iterdir() if p.name[0] != ".")
    assert prepared == ["aircraft-32", "caltech256-32", "cars-32"]
    assert list((rehearsal.root / "releases" / "cars-32").rglob("cars_meta.mat"))
    small = splits.load(miniature.shrink(runs[0], found).config, rehearsal, miniature=True)
    assert small.classes == 3 and small.train.images.shape[1:] == (3, 32, 32)
    assert not store.data.exists(), "the data of real runs stay as they are"


def test_a_reader_that_breaks_is_a_finding(
    rehearsal: Rehearsal, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.datasets import read

    def broken(root: Path) -> Any:
        raise KeyError("class_names")

    monkeypatch.setitem(read.READERS, "cars", broken)
    found = miniature.furnish([run(), run(dataset="cub")], store, rehearsal)
    assert found.broken == {"cars": "KeyError: 'class_names'"}


def test_a_folder_is_its_own_images_or_like_them(
    rehearsal: Rehearsal, store: Store, tmp_path: Path
) -> None:
    own = tmp_path / "photos"
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            (own / split / label).mkdir(parents=True)
            for number in range(5):
                pixels = np.full((8, 8, 3), 40 * number, np.uint8)
                Image.fromarray(pixels).save(own / split / label / f"{number}.png")
    runs = [run(dataset=str(own)), run(dataset=str(tmp_path / "absent"))]
    found = miniature.furnish(runs, store, rehearsal)
    assert not found.broken
    here, absent = (
        splits.load(miniature.shrink(each, found).config, rehearsal, miniature=True)
        for each in runs
    )
    assert here.classes == 2 and len(here.train) == 2 * miniature.EACH
    assert {int(image.max()) for image in here.train.images} == {0, 40}, "the user's own pixels"
    assert absent.classes == 3 and len(absent.val) > 0
