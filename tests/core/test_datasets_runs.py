"""Datasets as runs and commands meet them: prepared from a folder, loaded, listed, verified."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import release_files
import tiny
import torch
from release_files import NAMES, SIZE, one_line, prepare

from core.config import datasets
from core.config.datasets import Entry, entries
from core.data import inputs, splits
from core.datasets import arrays, miniature
from core.datasets.own import SPLITS
from core.datasets.read import read_release
from core.store.folders import Store


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Entry]:
    """Write a miniature release and let the registry expect exactly it."""
    return release_files.registry(monkeypatch)


def test_a_folder_is_read_in_place(
    small: Callable[..., Entry], store: Store, tmp_path: Path
) -> None:
    small("dogs", tmp_path / "elsewhere")
    prepare("dogs", tmp_path, store)
    assert not (store.data / "dogs").exists()
    assert inputs.missing([tiny.config(dataset="dogs", image_size=SIZE)], store) == []


@pytest.mark.parametrize("spoil", ["truncated", "html", "empty"])
def test_a_damaged_image_is_named_and_the_rest_is_kept(
    small: Callable[..., Entry],
    tmp_path: Path,
    store: Store,
    spoil: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrays, "CHUNK", 4)
    known = small("cub", tmp_path / "cub")
    contents = read_release("cub", tmp_path / "cub", known)
    file = contents.root / contents.splits["val"][0][0]
    good = file.read_bytes()
    file.write_bytes({"truncated": good[:-200], "html": b"<html>404</html>", "empty": b""}[spoil])
    message = one_line(lambda: prepare("cub", tmp_path, store))
    assert message.startswith(f"{file}: unreadable image (")
    file.write_bytes(good)
    seen: list[Path] = []
    read_image = arrays.read_image
    monkeypatch.setattr(arrays, "read_image", lambda f, s: (seen.append(f), read_image(f, s))[1])
    prepare("cub", tmp_path, store)
    assert len(seen) <= sum(known.splits.values()) - known.splits["train"] + 4


def load(name: str, store: Store, **options: Any) -> splits.Dataset:
    return splits.load(tiny.config(dataset=name, image_size=SIZE), store, **options)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_loads_what_was_prepared(
    name: str, small: Callable[..., Entry], tmp_path: Path, store: Store
) -> None:
    known = small(name, tmp_path / "release")
    folder = prepare(name, tmp_path / "release", store)
    shutil.rmtree(tmp_path / "release")
    loaded = load(name, store)
    assert (loaded.name, loaded.classes) == (name, 3)
    found = {split: len(getattr(loaded, split)) for split in SPLITS}
    assert found == known.splits
    whole = torch.cat([getattr(loaded, split).labels for split in SPLITS])
    assert torch.equal(whole, torch.from_numpy(np.load(folder / "labels.npy")))
    images, labels = loaded.test.batch(torch.arange(2), tiny.CPU)
    for image, label in zip(images, labels, strict=True):
        colour = torch.tensor(miniature.colour(int(label), 3)) / 255
        assert (image.mean((1, 2)) - colour).abs().max() < 0.06
    assert f"{folder}/images.npy" in Path("/proc/self/maps").read_text(), "read, not mapped"


def test_a_release_in_the_data_folder_is_prepared_by_the_run(
    small: Callable[..., Entry], store: Store
) -> None:
    known = small("pets", store.data / "pets")
    assert len(load("pets", store).train) == known.splits["train"]
    assert arrays.place("pets", SIZE, store).is_dir()
    assert len(load("pets", store).train) == known.splits["train"]


def test_a_release_that_wins_over_an_own_folder_of_its_name_is_reported(
    small: Callable[..., Entry], tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    known = small("pets", tmp_path / "release")
    prepare("pets", tmp_path / "release", store)
    miniature.write_folder(store.data / "pets", classes=2, each=1)
    with caplog.at_level("INFO", "epsweep"):
        assert len(load("pets", store).train) == known.splits["train"]
    assert f"dataset pets: using prepared arrays, not {store.data}/pets" in caplog.messages


def test_a_stage_is_a_copy(small: Callable[..., Entry], store: Store, tmp_path: Path) -> None:
    small("pets", store.data / "pets")
    stage = tmp_path / "fast"
    staged = load("pets", store, stage=stage)
    assert torch.equal(staged.val.images, load("pets", store).val.images)
    assert os.listdir(stage) == [f"pets-{SIZE}"]


def test_a_miniature_never_passes_for_the_real_thing(tmp_path: Path, store: Store) -> None:
    miniature.furnish("cub", store, SIZE, tmp_path / "small")
    config = tiny.config(dataset="cub", image_size=SIZE)
    message = one_line(lambda: load("cub", store))
    assert "a miniature for dry runs, not CUB-200-2011" in message
    assert len(inputs.missing([config], store)) == 1
    assert load("cub", store, miniature=True).classes == 3


def test_missing_data_is_one_line_per_size(
    small: Callable[..., Entry], tmp_path: Path, store: Store
) -> None:
    configs = [
        tiny.config(dataset=name, image_size=size, seed=seed)
        for name in ("cub", "pets")
        for size in (SIZE, 32)
        for seed in (0, 1)
    ]
    assert len(inputs.missing(configs, store)) == 4
    small("cub", tmp_path / "cub")
    prepare("cub", tmp_path / "cub", store)
    small("pets", store.data / "pets")
    (line,) = inputs.missing(configs, store)
    assert line.startswith("dataset cub: ") and "sweep data prepare cub --from" in line
    shutil.rmtree(store.data / "pets" / "images")
    lines = inputs.missing(configs, store)
    assert len(lines) == 3 and "48 of 48 listed images are missing" in lines[1]


# The command line.

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(call: Call) -> Call:
    """`sweep data ...`."""
    return partial(call, "data")


def test_list_names_every_dataset(call: Call) -> None:
    code, out, _ = call("list")
    assert code == 0
    for name, known in entries().items():
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert known.title in line and str(known.splits["test"]) in line
    code, out, _ = call("list", "cars", "cub")
    assert all(item.url in out for item in entries()["cars"].archives)
    assert "sweep data prepare cub --from" in out
    code, out, _ = call("list", "--json")
    assert [row["name"] for row in json.loads(out)] == list(NAMES)
    code, _, err = call("list", "cup")
    assert code == 2 and err.strip() == "unknown dataset 'cup', did you mean 'cub'?"


def test_prepare_and_verify(
    call: Call, small: Callable[..., Entry], tmp_path: Path, store: Store
) -> None:
    root = ("--root", str(store.root))
    code, out, _ = call("verify", *root)
    assert code == 3 and "nothing is prepared" in out
    code, _, err = call("verify", "cub", *root)
    assert code == 2 and err.startswith("cub: not prepared in ")
    small("cub", tmp_path / "cub")
    for _ in range(2):
        code, out, _ = call("prepare", "cub", "--from", str(tmp_path), "--size", "16", *root)
        assert code == 0 and f"cub is prepared: {store.data}/prepared/cub-16" in out
    code, out, _ = call("verify", *root)
    assert code == 0 and out.strip() == "cub-16: fine"
    code, out, _ = call("list", *root)
    assert "prepared at 16" in out
    np.save(store.data / "prepared" / "cub-16" / "labels.npy", np.zeros(3))
    code, out, _ = call("verify", "cub", *root)
    assert code == 1 and "labels.npy: differs from its checksum" in out


def test_a_real_name_with_a_miniature_folder_is_refused(call: Call, tmp_path: Path) -> None:
    miniature.write("cub", tmp_path / "cub")
    code, _, err = call("prepare", "cub", "--from", str(tmp_path / "cub"))
    assert code == 2
    assert len(err.splitlines()) == 1 and "expected 200 classes, found 3" in err


def test_the_registry_is_complete() -> None:
    for name, known in datasets.entries().items():
        assert known.licence and known.page.startswith("http") and known.size.endswith(" GB"), name
        assert all(item.url.endswith(item.name) for item in known.archives)
        assert all(len(item.md5) == 32 for item in known.archives if item.md5)
