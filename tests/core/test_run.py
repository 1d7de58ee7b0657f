"""A whole run: its progress, the folder that it leaves, and that another run repeats it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from whole_run import CONFIG, FAST, MORE, assert_keeps_its_promise, execute, flags

from core.config import EvalConfig, RunConfig
from core.data import splits
from core.evaluation import queue
from core.evaluation.queue import Search
from core.model import network
from core.run import pipeline
from core.store import checkpoint, records
from core.store.claims import Claim
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, read_jsonl


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunDir]:
    store = Store(tmp_path_factory.mktemp("finished"))
    execute(store, CONFIG, [FAST, MORE])
    return store, store.run(CONFIG.id)


def test_the_folder_of_a_finished_run(finished: tuple[Store, RunDir]) -> None:
    _, folder = finished
    assert assert_keeps_its_promise(folder)
    result = read_json(folder.result)
    assert result is not None
    assert (result["id"], result["setting"], result["epochs"]) == (CONFIG.id, "T1=0;T2=2", 3)
    assert result["evals"] == [FAST.id, MORE.id] and result["attempts"] == 1
    rows = read_jsonl(folder.metrics)
    assert result["delay"] == records.delay(rows, 3)
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in rows), abs=0.06)
    assert [row["epsilon"] * 255 for row in rows] == pytest.approx([0, 4, 8])
    assert {path.name for path in folder.path.iterdir()} == {
        *("config.yaml", "env.json", "metrics.jsonl", "checkpoint.pt", "result.json"),
        *("attempts.jsonl", "claim-0001.json", "evals"),
    }
    assert len(list((folder.path / "evals").iterdir())) == 4


def test_the_config_on_disk_is_the_run(finished: tuple[Store, RunDir]) -> None:
    stored = yaml.safe_load(finished[1].config.read_text())
    assert RunConfig.parse(stored) == CONFIG and RunConfig.parse(stored).id == finished[1].id
    assert stored["epsilon_g"] == "8/255"


def test_the_environment_on_disk(finished: tuple[Store, RunDir]) -> None:
    env = read_json(finished[1].env)
    assert env is not None and env["versions"]["torch"] == metadata.version("torch")
    assert {"commit", "dirty", "python", "host", "device", "threads"} <= set(env)
    assert env["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("asked", [FAST, MORE])
def test_rows_are_counts_of_the_flags(finished: tuple[Store, RunDir], asked: EvalConfig) -> None:
    _, folder = finished
    stored, arrays = read_json(folder.eval_json(asked.id)), flags(folder, asked)
    assert stored is not None
    assert EvalConfig.parse(stored["config"]) == asked
    n = 12 if asked is FAST else 20
    assert (stored["n"], stored["split_images"]) == (n, 20)
    assert [row["n"] for row in stored["rows"]] == [n] * len(asked.epsilons)
    counts = [int((arrays["critical"] > level).sum()) for level in range(len(asked.epsilons))]
    assert [row["correct"] for row in stored["rows"]] == counts
    assert list(records.curve(stored["rows"])) == [epsilon.number for epsilon in asked.epsilons]
    assert {row["attack"] for row in stored["rows"]} == {f"apgd-ce-{asked.steps}"}
    assert stored["forwards"] >= stored["backwards"] >= n and stored["seconds"] > 0
    assert stored["zero_gradient_images"] == 0


def test_flags_are_those_of_the_stored_weights(finished: tuple[Store, RunDir]) -> None:
    """The checkpoint that is kept is the model that was evaluated."""
    store, folder = finished
    dataset = splits.load(CONFIG, store).first(20)
    model = network.build(CONFIG, dataset.classes, store)
    state, _ = checkpoint.load(folder)
    assert state is not None and "optimizer" not in state
    model.load_state_dict(state["model"])
    split = dataset.test.first(12)
    strengths = [float(epsilon) for epsilon in FAST.epsilons]
    options: Any = {"steps": FAST.steps, "batch": 256, "device": tiny.CPU}
    again = queue.search(model, split, strengths, **options)
    arrays = flags(folder, FAST)
    assert arrays["critical"].tolist() == again.critical.tolist()
    assert arrays["label"].tolist() == split.labels.tolist()
    assert arrays["index"].tolist() == list(range(12))


def test_the_summary_is_that_of_the_rows(finished: tuple[Store, RunDir]) -> None:
    _, folder = finished
    result, stored = read_json(folder.result), read_json(folder.eval_json(FAST.id))
    assert result is not None and stored is not None
    summary = pipeline._summary(result, [FAST, MORE], CONFIG, folder)
    accuracy = [row["correct"] / row["n"] for row in stored["rows"]]
    assert [summary[f"test/apgd-ce-2/eps{i}"] for i in range(9)] == pytest.approx(accuracy)
    mean = (accuracy[0] / 2 + sum(accuracy[1:8]) + accuracy[8] / 2) / 8
    assert summary["test/apgd-ce-2/expected"] == pytest.approx(mean)
    assert summary["test/apgd-ce-2/images"] == 12 and summary["val/apgd-ce-3/images"] == 20
    assert summary["delay"] == result["delay"]
    assert "val/apgd-ce-3/expected" not in summary, "of a grid that is too thin"
    assert json.loads(json.dumps(summary)) == summary


def test_a_second_store_repeats_every_number(
    finished: tuple[Store, RunDir], tmp_path: Path
) -> None:
    other = Store(tmp_path / "other")
    execute(other, CONFIG, [FAST])
    rows = [read_jsonl(folder.metrics) for folder in (finished[1], other.run(CONFIG.id))]
    for one, two in zip(*rows, strict=True):
        for key in one.keys() - {"seconds", "images_per_s"}:
            assert one[key] == two[key], key
    pair = [flags(folder, FAST)["critical"] for folder in (finished[1], other.run(CONFIG.id))]
    assert np.array_equal(*pair)


def test_an_evaluation_that_does_not_fit_is_cut_smaller(
    store: Store, finished: tuple[Store, RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    search, sizes = queue.search, []

    def small(*arguments: Any, **options: Any) -> Search:
        if "progress" in options:
            sizes.append(options["batch"])
            if options["batch"] > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return search(*arguments, **options)

    monkeypatch.setattr(queue, "search", small)
    execute(store, CONFIG, [FAST], eval_batch=12)
    assert sizes == [12, 6, 3]
    mine, whole = flags(store.run(CONFIG.id), FAST), flags(finished[1], FAST)
    assert np.abs(mine["critical"] - whole["critical"]).max() <= 1


@pytest.mark.parametrize("options", [{"micro_batch": 3}, {"eval_batch": 5}])
def test_where_it_runs_changes_no_number_beyond_rounding(
    finished: tuple[Store, RunDir], tmp_path: Path, options: dict[str, Any]
) -> None:
    other = Store(tmp_path / "other")
    execute(other, CONFIG, [FAST], **options)
    rows = [read_jsonl(folder.metrics) for folder in (finished[1], other.run(CONFIG.id))]
    for one, two in zip(*rows, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=0.02)
    levels = [flags(folder, FAST)["critical"] for folder in (finished[1], other.run(CONFIG.id))]
    assert np.abs(levels[0] - levels[1]).max() <= 1


def test_progress_goes_through_every_phase(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim.acquire(store.run(CONFIG.id))
    assert claim
    seen: list[dict[str, Any]] = []

    class Watched(dict[str, Any]):
        pass

    setter: Callable[[Any, str, Any], None] = object.__setattr__

    def watch(self: Claim, name: str, value: Any) -> None:
        if name == "progress":
            seen.append(value)
        setter(self, name, value)

    monkeypatch.setattr(Claim, "__setattr__", watch, raising=False)
    execute(store, CONFIG, [FAST], claim=claim)
    phases = list(dict.fromkeys(state["phase"] for state in seen))
    assert phases == ["load data", "train", "validate", "evaluate"]
    assert seen[-1]["share"] == 1 and seen[-1]["images_per_s"] > 0
