"""A training that was killed and resumed ends, to the bit, as one that was not."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import killable
import pytest
import tiny
import torch
from forks import Forks
from torch import Tensor

from core.store.json_files import read_jsonl
from core.training.monitor import Monitor

EPOCHS = 3
SETTINGS: dict[str, dict[str, Any]] = {
    "two_hinge": {"schedule": {"T1": 1, "T2": 2}},
    "uniform": {"schedule": "uniform", "optim": {"lr": 1e-3, "clip": 0.5}},
    # Converged after three epochs, whatever the accuracy; then the strength rises to the last one.
    "auto": {"schedule": {"kind": "auto", "patience": 2, "tolerance": 0.9}, "epochs": 6},
    "target": {"schedule": "target", "epochs": 6},
    "instance": {"schedule": {"kind": "instance", "levels": 3}, "epochs": 5},
    "friendly": {"schedule": "friendly"},
    "bf16": {"schedule": "fix", "precision": "bf16"},
    "long": {"schedule": {"T1": 2, "T2": 6}, "epochs": 8},
}


def fields(setting: str) -> dict[str, Any]:
    return {"epochs": EPOCHS, "dataset": "fake"} | SETTINGS[setting]


def end(root: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(root / "end.pt", weights_only=True)
    return state


def same(a: Any, b: Any) -> bool:
    """Equality to the bit, of nested state."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_same_end(root: Path, reference: Path) -> None:
    got, expected = end(root), end(reference)
    got["rows"], expected["rows"] = tiny.repeatable(got["rows"]), tiny.repeatable(expected["rows"])
    assert got["rows"] == expected["rows"]
    assert same(got, expected), "weights, optimiser or schedule differ"
    (metrics,) = (root / "runs").glob("*/metrics.jsonl")
    assert tiny.repeatable(read_jsonl(metrics)) == expected["rows"]


@pytest.fixture(scope="module")
def references(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One uninterrupted training per setting."""
    found = {}
    for setting in SETTINGS:
        found[setting] = tmp_path_factory.mktemp(setting)
        assert forks.run(killable.train, found[setting], fields(setting), None) == 0
    return found


def test_the_settings_show_something(references: dict[str, Path]) -> None:
    def strengths(name: str) -> list[float]:
        return [row["epsilon"] * 255 for row in end(references[name])["rows"]]

    assert strengths("two_hinge") == pytest.approx([0, 0, 8])
    assert strengths("auto") == pytest.approx([0, 0, 0, 8 / 3, 16 / 3, 8])
    assert len(set(strengths("uniform"))) == EPOCHS
    for name in ("target", "instance", "friendly"):
        attacked = [row for row in end(references[name])["rows"] if row["epsilon"]]
        assert attacked
        assert all(0 <= row["train_adv_correct"] <= row["train_clean_correct"] for row in attacked)
    *_, last = end(references["instance"])["rows"]
    low, middle, high = (255 * strength for strength in last["epsilon_quartiles"])
    assert 0 < low <= middle <= high <= 8.0001 and low <= 255 * last["epsilon"] <= 8.0001
    ends = [end(root)["model"]["0.weight"] for root in references.values()]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(ends, 2))


# Every rename of the first two epochs: of the draft, of the former checkpoint, of the new one, of
# metrics.jsonl.
RENAMES = [("replace", n) for n in range(1, 8)]
WRITES = [("write", 1, 0.5), ("write", 2, 0.01), ("write", 2, 0.999), ("write", 3, 0.5)]
STEPS = [("train", 0), ("train", 2), ("validate", 0), ("validate", 2)]


@pytest.mark.parametrize("moment", [*RENAMES, *WRITES, *STEPS], ids=str)
def test_killed_and_resumed_ends_the_same(
    forks: Forks, references: dict[str, Path], tmp_path: Path, moment: killable.Moment
) -> None:
    assert forks.run(killable.train, tmp_path, fields("two_hinge"), moment) == -9
    assert not (tmp_path / "end.pt").exists()
    assert forks.run(killable.train, tmp_path, fields("two_hinge"), None) == 0
    assert_same_end(tmp_path, references["two_hinge"])


@pytest.mark.parametrize("setting", ["uniform", "auto", "target", "instance", "friendly", "bf16"])
def test_killed_in_every_epoch_ends_the_same(
    forks: Forks, references: dict[str, Path], tmp_path: Path, setting: str
) -> None:
    """`auto` is killed before, at and after the epoch that decides its strengths."""
    for epoch in range(fields(setting)["epochs"]):
        moment = ("train", epoch)
        assert forks.run(killable.train, tmp_path, fields(setting), moment) == -9
    assert forks.run(killable.train, tmp_path, fields(setting), None) == 0
    assert_same_end(tmp_path, references[setting])
    resumed = (tmp_path / "remarks.txt").read_text().splitlines()
    epochs = fields(setting)["epochs"]
    # The first two attempts find no checkpoint: the first one died in epoch 0.
    assert resumed == [f"resuming after epoch {n} of {epochs}" for n in range(1, epochs)]


def test_killed_from_outside_at_any_time_ends_the_same(
    forks: Forks, references: dict[str, Path], tmp_path: Path
) -> None:
    chance, patience, killed = random.Random(0), 0.02, 0
    while not (tmp_path / "end.pt").exists():
        process = forks.start(killable.train, tmp_path, fields("long"), None)
        process.join(patience * chance.uniform(0.5, 1))
        process.kill()
        process.join()
        killed += process.exitcode == -9
        patience *= 1.4  # on a slow machine, too, one of them gets to the end
    assert killed >= 2, "too fast to be killed"
    assert_same_end(tmp_path, references["long"])


def damaged(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "flipped":
        middle = len(content) // 2
        for place in range(middle, middle + 128):  # more than the padding between two tensors
            content[place] ^= 1
    else:
        del content[len(content) // 2 :]
    file.write_bytes(content)


def copied(reference: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A finished training in a store of its own; its folder and its two checkpoints."""
    shutil.copytree(reference / "runs", tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    return folder, folder / "checkpoint.pt", folder / "checkpoint.previous.pt"


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_falls_back_to_the_checkpoint_before_a_damaged_one(
    references: dict[str, Path], tmp_path: Path, how: str
) -> None:
    _, newest, _ = copied(references["two_hinge"], tmp_path)
    damaged(newest, how)
    remarks: list[str] = []
    work = killable.trainer(tmp_path, fields("two_hinge"), Monitor(remark=remarks.append))
    rows = work.fit()
    assert len(remarks) == 2
    assert remarks[0].startswith("checkpoint.pt is damaged (")
    assert remarks[1] == f"resuming after epoch {EPOCHS - 1} of {EPOCHS}"
    assert tiny.repeatable(rows) == tiny.repeatable(end(references["two_hinge"])["rows"])
    assert same(work.state()["model"], end(references["two_hinge"])["model"])


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_starts_over_if_both_checkpoints_are_damaged(
    references: dict[str, Path], tmp_path: Path, how: str
) -> None:
    _, newest, previous = copied(references["two_hinge"], tmp_path)
    damaged(newest, how)
    damaged(previous, how)
    remarks: list[str] = []
    work = killable.trainer(tmp_path, fields("two_hinge"), Monitor(remark=remarks.append))
    rows = work.fit()
    assert [remark.split(" (")[0] for remark in remarks] == [
        "checkpoint.pt is damaged",
        "checkpoint.previous.pt is damaged",
    ]
    assert tiny.repeatable(rows) == tiny.repeatable(end(references["two_hinge"])["rows"])


def test_a_finished_training_is_not_trained_again(
    references: dict[str, Path], tmp_path: Path
) -> None:
    folder, newest, _ = copied(references["two_hinge"], tmp_path)
    before = newest.read_bytes()
    (folder / "metrics.jsonl").write_text('{"epoch": 77}\n')
    work = killable.trainer(tmp_path, fields("two_hinge"))
    assert len(work.fit()) == EPOCHS
    assert newest.read_bytes() == before
    # Rows that no checkpoint vouches for are gone.
    assert tiny.repeatable(read_jsonl(folder / "metrics.jsonl")) == tiny.repeatable(work.rows)
