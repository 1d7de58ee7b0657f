"""Several processes on one run: they share its batches and its evaluations, and fail as one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from forks import Forks, die

from core.config import EvalConfig, RunConfig
from core.errors import TeamError
from core.evaluation import queue
from core.evaluation.queue import Search, joined
from core.machine import team
from core.machine.team import ALONE, Team
from core.model import network
from core.options import Options
from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl
from sweep.worker import attempt

CONFIG = {"backbone": "mini_convnext", "image_size": 32, "epochs": 3, "schedule": "sched"}
EVALS = [EvalConfig.parse({"epsilons": "0..4/255", "steps": 2})]
OPTIONS = Options(tracking="none", eval_batch=7)


def work(root: Path, rank: int, size: int, fields: dict[str, Any]) -> None:
    """What rank `rank` of a job does."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    together = team.join(root / "team.json", rank, size)
    config, store = tiny.config(**CONFIG | fields), Store(root)
    if rank:
        attempt.assist(config, EVALS, store, OPTIONS, together)
    else:
        attempt.make(config, EVALS, store, OPTIONS, team=together)
    together.part()


def done(forks: Forks, root: Path, size: int, **fields: Any) -> Store:
    """The store after `size` processes have done a run."""
    root.mkdir()
    processes = [forks.start(work, root, rank, size, fields) for rank in range(size)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * size
    return Store(root)


def weights(store: Store, config: RunConfig) -> dict[str, torch.Tensor]:
    state = torch.load(store.run(config.id).checkpoint, weights_only=True)
    found: dict[str, torch.Tensor] = state["model"]
    return found


AVERAGED: dict[str, Any] = {"optim": {"lr": 1e-3, "clip": 0.1, "ema": 0.9}, "schedule": "instance"}


BRANCHED = {"objective": {"kind": "autolora"}, "lora": {"targets": ["mlp.fc1"]}}


@pytest.mark.parametrize("fields", [BRANCHED, AVERAGED], ids=str)
def test_two_processes_do_what_one_does(forks: Forks, tmp_path: Path, fields: Any) -> None:
    """Up to rounding: the same sums in another order."""
    config = tiny.config(**CONFIG | fields)
    alone = done(forks, tmp_path / "alone", 1, **fields)
    both = done(forks, tmp_path / "both", 2, **fields)
    before = network.build(config, 10, Store(tmp_path)).state_dict()
    ours, theirs = weights(both, config), weights(alone, config)
    for name, value in theirs.items():
        moved = (value - before[name]).abs().max() if name in before else torch.tensor(1.0)
        torch.testing.assert_close(ours[name], value, rtol=0, atol=float(0.02 * moved) + 1e-7)
    rows = [read_jsonl(store.run(config.id).metrics) for store in (alone, both)]
    for one, two in zip(*rows, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-4)
        assert one["val_loss"] == pytest.approx(two["val_loss"], rel=1e-3)
        for key in ("train_images", "val_clean_images", "val_adv_images", "epsilon", "lr"):
            assert one[key] == two[key]
        assert abs(one["val_clean_correct"] - two["val_clean_correct"]) <= 1
        assert abs(one["train_adv_correct"] - two["train_adv_correct"]) <= 1
    found = [read_json(store.run(config.id).eval_json(EVALS[0].id)) for store in (alone, both)]
    assert found[0] and found[1]
    for one, two in zip(found[0]["rows"], found[1]["rows"], strict=True):
        assert one["n"] == two["n"] == 60 and abs(one["correct"] - two["correct"]) <= 1
    env = read_json(both.run(config.id).env)
    assert env and env["processes"] == 2
    assert not list((tmp_path / "both").rglob("*.part"))


def test_resumed_by_another_number_of_processes(forks: Forks, tmp_path: Path) -> None:
    """A checkpoint is that of the run, however many wrote it."""
    root = tmp_path / "root"
    root.mkdir()
    config = tiny.config(**CONFIG)
    dying = forks.start(die_after_an_epoch, root)
    dying.join(120)
    assert dying.exitcode == -signal.SIGKILL
    processes = [forks.start(work, root, rank, 2, {}) for rank in range(2)]
    for process in processes:
        process.join(120)
    rows = read_jsonl(Store(root).run(config.id).attempts)
    assert [row["outcome"] for row in rows] == ["lost", "done"]
    assert len(read_jsonl(Store(root).run(config.id).metrics)) == 3


def die_after_an_epoch(root: Path) -> None:
    from core.training.trainer import Trainer

    saved = Trainer._save
    Trainer._save = lambda self: (saved(self), die())[0]  # type: ignore[method-assign, func-returns-value]
    attempt.make(tiny.config(**CONFIG), EVALS, Store(root), OPTIONS)


def shard(file: Path, rank: int, size: int, out: Path) -> None:
    """Search a split as one process of a team; rank 0 writes what came out."""
    together = team.join(file, rank, size)
    found = searched(together)
    if rank == 0:
        np.savez(
            out, critical=found.critical, taken=found.taken, costs=[found.forwards, found.backwards]
        )
    together.part()


def searched(by: Team) -> Search:
    trained = tiny.train_one()
    how: dict[str, Any] = {"steps": 3, "batch": 16, "device": tiny.CPU}
    strengths = [i / 255 for i in range(0, 9, 2)]
    return queue.search(trained.net, trained.test.first(61), strengths, team=by, **how)


def test_a_search_in_shards_finds_the_same(forks: Forks, tmp_path: Path) -> None:
    out = tmp_path / "found.npz"
    processes = [forks.start(shard, tmp_path / "team.json", rank, 3, out) for rank in range(3)]
    for process in processes:
        process.join(120)
    whole = searched(ALONE)
    with np.load(out) as found:
        assert np.array_equal(found["critical"], whole.critical)
        assert np.array_equal(found["taken"], whole.taken)
        assert found["costs"].tolist() == [whole.forwards, whole.backwards]


@pytest.mark.parametrize(
    "rows", [[[0, 2], []], [[0, 2], [1, 1]], [[0, 1, 2], [2]], [[0, 1, 3], [2]]], ids=str
)
def test_a_missing_or_doubled_image_is_no_result(rows: list[list[int]]) -> None:
    parts = [(np.array(part, int), Search.blank(len(part))) for part in rows]
    with pytest.raises(TeamError, match="each of 3 images evaluated once"):
        joined(parts, 3)


def failing(root: Path, rank: int, how: str) -> None:
    """A team whose rank 1 fails in its second epoch."""
    from core.training.step import Step

    made, steps = Step.make, []

    def make(self: Step, *arguments: Any) -> Any:
        steps.append(1)
        if rank == 1 and len(steps) > 25:
            if how == "killed":
                die()
            raise (torch.OutOfMemoryError if how == "oom" else ValueError)("no more")
        return made(self, *arguments)

    Step.make = make  # type: ignore[method-assign]
    work(root, rank, 2, {})


@pytest.mark.parametrize(
    ("how", "outcome", "kind", "said"),
    [
        ("oom", "failed", "oom", "process 1: OutOfMemoryError: no more"),
        ("bug", "failed", "bug", "process 1: ValueError: no more"),
        ("killed", "lost", "lost", "another process of this run is gone"),
    ],
)
def test_the_leader_tells_why_another_process_ended(
    forks: Forks, tmp_path: Path, how: str, outcome: str, kind: str, said: str
) -> None:
    processes = [forks.start(failing, tmp_path, rank, how) for rank in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "nobody waits for one that is gone"
    (row,) = read_jsonl(Store(tmp_path).run(tiny.config(**CONFIG).id).attempts)
    assert (row["outcome"], row["kind"]) == (outcome, kind)
    assert said in row["reason"]


def leaving(file: Path, rank: int) -> None:
    team.join(file, rank, 2)
    if rank:
        time.sleep(600)
    die()


def test_nobody_outlives_the_leader(forks: Forks, tmp_path: Path) -> None:
    """Whatever the others wait for."""
    processes = [forks.start(leaving, tmp_path / "team.json", rank) for rank in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0]


@pytest.mark.slow
def test_a_stale_meeting_place_is_passed_over(forks: Forks, tmp_path: Path) -> None:
    """Left by a job of the same id that died: nobody listens there."""
    file = tmp_path / "team.json"
    file.write_text(json.dumps({"host": "localhost", "port": 9}))
    late = forks.start(shard, file, 1, 2, tmp_path / "out.npz")
    first = forks.start(shard, file, 0, 2, tmp_path / "out.npz")
    for process in (late, first):
        process.join(120)
    assert [late.exitcode, first.exitcode] == [0, 0]


def test_a_leader_that_never_comes_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "JOIN_S", 0.5)
    with pytest.raises(TeamError, match="rank 0 did not publish"):
        team.join(tmp_path / "team.json", 1, 2)


def test_a_batch_smaller_than_the_team(forks: Forks, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="batch 10: too few images for 11 processes"):
        from core.training.trainer import Trainer

        Trainer(
            tiny.config(),
            tiny.dataset(),
            tiny.net(),
            Store(tmp_path).run("x"),
            device=tiny.CPU,
            team=Team(0, 11),
        )
