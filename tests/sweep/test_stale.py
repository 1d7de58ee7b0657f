"""A run made from images or weights that have changed since is `stale`: shown, never mixed with
others, and made anew on request alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.config import RunConfig
from core.data.digests import Known, recorded
from core.data.inputs import Sources
from core.options import Options
from core.store.folders import Store
from core.store.json_files import read_json, write_json
from sweep.grid import Grid, load_grid
from sweep.worker import attempt

Call = Callable[..., tuple[int, str, str]]
DEBUG = ("--profile", "debug", "--tracking", "none")


def images(folder: Path, each: int = 3) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("red", "blue"):
            (folder / split / name).mkdir(parents=True)
            for number in range(each):
                pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def weights(file: Path, seed: int) -> None:
    import tiny
    import torch

    from core.model import network

    file.parent.mkdir(parents=True, exist_ok=True)
    model = network.build(tiny.config(seed=seed), 2, Store(file.parent))
    torch.save(model.net.state_dict(), file)


@pytest.fixture
def grid(tmp_path: Path, store: Store) -> Grid:
    """One run from a folder of images and a local checkpoint, and one that needs neither."""
    images(tmp_path / "birds")
    weights(store.weights / "mine.pt", 0)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\n"
        "base: {backbone: test_vit, image_size: 16, epochs: 1, batch: 4, schedule: standard}\n"
        "zip:\n"
        f"  dataset: [{tmp_path / 'birds'}, fake]\n"
        "  weights: [mine.pt, random]\n"
        "evals: [{epsilons: [0], steps: 1}]\n"
    )
    return load_grid(path)


def states(call: Call, grid: Grid) -> list[str]:
    code, out, err = call("status", str(grid.path), "--json")
    assert (code, err) == (0, "")
    return [run["state"] for run in json.loads(out)["runs"]]


def more_images(tmp_path: Path, store: Store) -> str:
    for number in range(5):
        shutil.copy(tmp_path / "birds/test/red/0.png", tmp_path / f"birds/test/red/m{number}.png")
    return "the images of "


def other_pixels(tmp_path: Path, store: Store) -> str:
    """The same name, size and times, as `cp -p` leaves them."""
    file = tmp_path / "birds/train/red/0.png"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-20] ^= 1
    file.with_suffix(".new").write_bytes(content)
    os.utime(file.with_suffix(".new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(file.with_suffix(".new"), file)
    return "the images of "


def other_weights(tmp_path: Path, store: Store) -> str:
    weights(store.weights / "mine.pt", 1)
    return "the weights mine.pt have changed"


@pytest.mark.slow
@pytest.mark.parametrize("change", [more_images, other_weights])
def test_a_run_from_other_inputs_is_stale_and_remade_on_request(
    grid: Grid, store: Store, call: Call, tmp_path: Path, change: Callable[[Path, Store], str]
) -> None:
    assert call("launch", str(grid.path), *DEBUG)[0] == 0
    folder, other = (store.run(run.id) for run in grid.runs)
    before, untouched = folder.result.read_bytes(), other.result.read_bytes()
    first = read_json(folder.eval_json(grid.runs[0].evals[0].id))
    assert first and states(call, grid) == ["done", "done"]
    reason = change(tmp_path, store)
    assert states(call, grid) == ["stale", "done"]
    for verb in ("launch", "retry"):
        code, out, _ = call(verb, str(grid.path), *DEBUG)
        assert code == 3 and reason in out and "sweep retry --failed stale" in out
        assert folder.result.read_bytes() == before
    code, out, _ = call("tables", str(grid.path), "--format", "csv")
    assert code == 3 and "stale" in out
    code, out, err = call("retry", str(grid.path), "--failed", "stale", *DEBUG)
    assert code == 0, out + err
    assert states(call, grid) == ["done", "done"]
    again = read_json(folder.eval_json(grid.runs[0].evals[0].id))
    assert again and again["n"] == first["n"] + (5 if change is more_images else 0)
    assert (folder.replaced / "0001" / "result.json").read_bytes() == before
    assert other.result.read_bytes() == untouched and not other.replaced.exists()
    assert call("launch", str(grid.path), *DEBUG)[0] == 0
    assert call("retry", str(grid.path), "--failed", "stale", *DEBUG)[0] == 0


def test_what_is_half_trained_does_not_go_on_from_other_images(
    grid: Grid, store: Store, call: Call, tmp_path: Path
) -> None:
    run = grid.runs[0]
    options = Options(tracking="none")
    assert attempt.make(run.config, run.evals, store, options) == "done"
    folder = store.run(run.id)
    folder.result.unlink()
    shutil.rmtree(folder.evals)
    write_json(folder.path / "claim-0001.json", {"attempt": 1, "outcome": "interrupted"})
    assert states(call, grid)[0] == "interrupted"
    more_images(tmp_path, store)
    assert states(call, grid)[0] == "stale"
    # Nor if a worker begins it although it was not asked to.
    assert attempt.make(run.config, run.evals, store, options) == "failed"
    assert "have changed since the run began" in folder.log.read_text()
    assert not folder.result.exists() and states(call, grid)[0] == "stale"


def test_a_run_that_recorded_nothing_is_not_stale(
    grid: Grid, store: Store, call: Call, tmp_path: Path
) -> None:
    assert call("launch", str(grid.path), *DEBUG)[0] == 0
    folder = store.run(grid.runs[0].id)
    for file in (folder.result, folder.env):
        write_json(file, {k: v for k, v in (read_json(file) or {}).items() if k != "inputs"})
    more_images(tmp_path, store)
    assert states(call, grid) == ["done", "done"]


def sources(tmp_path: Path) -> Sources:
    return Sources(str(tmp_path / "birds"), 16, "test_vit", "mine.pt")


def test_digests_are_of_contents_not_of_times(grid: Grid, store: Store, tmp_path: Path) -> None:
    before = Known(store).inputs(sources(tmp_path))
    assert before["data"] and before["weights"]
    for file in (tmp_path / "birds").rglob("*.png"):
        os.utime(file)
    os.utime(store.weights / "mine.pt")
    (tmp_path / "birds" / "notes.txt").write_text("no image")
    assert Known(store).inputs(sources(tmp_path)) == before
    shutil.move(tmp_path / "birds", tmp_path / "moved")
    moved = sources(tmp_path)._replace(dataset=str(tmp_path / "moved"))
    assert Known(store).inputs(moved) == before


@pytest.mark.parametrize("change", [more_images, other_pixels, other_weights])
def test_every_change_of_content_is_seen(
    grid: Grid, store: Store, tmp_path: Path, change: Callable[[Path, Store], str]
) -> None:
    first = Known(store)
    before, signature = first.inputs(sources(tmp_path)), first.signature(sources(tmp_path))
    reason = change(tmp_path, store)
    again = Known(store)
    assert (again.changed(sources(tmp_path), before) or "").startswith(reason)
    assert again.signature(sources(tmp_path)) != signature


def test_a_file_is_read_once(
    grid: Grid, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.digests.SETTLED_NS", -(10**18))
    before = Known(store).inputs(sources(tmp_path))
    read: list[Path] = []

    def refuse(file: Path) -> str:
        read.append(file)
        return "read again"

    monkeypatch.setattr("core.data.digests._of_file", refuse)
    assert Known(store).inputs(sources(tmp_path)) == before and not read
    for cache in (store.root / "index" / "digests").iterdir():
        cache.write_bytes(b"[]")
    assert Known(store).inputs(sources(tmp_path)) != before and len(read) == 19


def test_hub_weights_that_were_fetched_again(store: Store, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    asked = Sources("fake", 32, "vit", "pretrained")

    def fetch(commit: str, content: bytes) -> None:
        from core.config.registry import hub_repo

        repo = hub / f"models--{str(hub_repo('vit')).replace('/', '--')}"
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(content)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(commit)

    fetch("one", b"weights")
    made_from = Known(store).inputs(asked, hub)
    assert made_from["weights"] and made_from["hub"] == str(hub)
    fetch("two", b"weights")
    assert Known(store).changed(asked, made_from) is None
    fetch("three", b"other weights")
    assert "weights vit have changed" in str(Known(store).changed(asked, made_from))
    shutil.rmtree(hub)
    assert Known(store).changed(asked, made_from) is None


def test_inputs_that_are_drawn_are_never_looked_at(store: Store) -> None:
    config = RunConfig.parse({"backbone": "test_vit", "weights": "random", "dataset": "glyph"})
    assert set(Known(store).inputs(Sources.of(config)).values()) == {None}
    assert recorded(store.run(config.id)) is None


def test_analysis_sees_it_through_its_index(
    grid: Grid, store: Store, call: Call, tmp_path: Path
) -> None:
    from analysis import load

    assert call("launch", str(grid.path), *DEBUG)[0] == 0
    old = 10**9
    for file in store.runs.rglob("*"):
        os.utime(file, (old, old))

    def seen() -> dict[str, Any]:
        frame = load(store.root)
        return dict(zip(frame["run_id"], frame["state"], strict=True))

    assert set(seen().values()) == {"done"}
    more_images(tmp_path, store)
    assert [seen()[run.id] for run in grid.runs] == ["stale", "done"]
