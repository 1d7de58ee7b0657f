"""One run from config to result: what is on disk, what a kill leaves, what is not done twice."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import killable
import numpy as np
import pytest
import tiny
import torch
import yaml
from forks import Forks

from core import autoattack, checkpoint, data, evaluate, models, records, run
from core.audit import AuditError
from core.claims import Claim, NotOwnedError
from core.config import ConfigError, EvalConfig, RunConfig
from core.evaluate import Search
from core.rundir import RunDir, Store, read_json, read_jsonl
from core.train import DivergedError, Trainer
from sweep import attempt

FAST = EvalConfig.parse({"steps": 2, "epsilons": "0..8/255", "images": 12})
MORE = EvalConfig.parse({"steps": 3, "epsilons": ["0", "1/255"], "split": "val"})


def execute(
    store: Store,
    config: RunConfig,
    evals: list[EvalConfig],
    *,
    claim: Claim | None = None,
    **options: Any,
) -> dict[str, Any]:
    claim = claim or Claim.acquire(store.run(config.id))
    assert claim
    try:
        chosen = run.Options(**{"tracking": "none", "images": 20} | options)
        return run.execute(config, evals, store, claim, chosen)
    finally:
        claim.release("interrupted")


def flags(folder: RunDir, asked: EvalConfig) -> dict[str, Any]:
    with np.load(folder.eval_flags(asked.id)) as stored:
        return dict(stored)


def assert_keeps_its_promise(folder: RunDir) -> bool:
    """If there is a result, everything it names is there and whole. True if there is one."""
    result = read_json(folder.result)
    if result is None:
        return False
    rows = read_jsonl(folder.metrics)
    assert [row["epoch"] for row in rows] == list(range(result["epochs"]))
    state, remarks = checkpoint.load(folder)
    assert state is not None and remarks == [] and len(state["rows"]) == result["epochs"]
    for eval_id in result["evals"]:
        stored = read_json(folder.eval_json(eval_id))
        assert stored is not None and stored["id"] == eval_id
        with np.load(folder.eval_flags(eval_id)) as arrays:
            assert len(arrays["critical"]) == stored["n"]
    assert yaml.safe_load(folder.config.read_text()) and read_json(folder.env)
    return True


CONFIG = tiny.config(schedule={"T1": 0, "T2": 2}, epochs=3)


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
    assert env is not None and env["versions"]["torch"] == torch.__version__
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
    assert list(records.curve(stored["rows"])) == list(asked.epsilons)
    assert {row["attack"] for row in stored["rows"]} == {f"apgd-ce-{asked.steps}"}
    assert stored["forwards"] >= stored["backwards"] >= n and stored["seconds"] > 0
    assert stored["zero_gradient_images"] == 0


def test_flags_are_those_of_the_stored_weights(finished: tuple[Store, RunDir]) -> None:
    """The checkpoint that is kept is the model that was evaluated."""
    store, folder = finished
    dataset = data.load(CONFIG, store).first(20)
    model = models.build(CONFIG, dataset.classes, store)
    state, _ = checkpoint.load(folder)
    assert state is not None and "optimizer" not in state
    model.load_state_dict(state["model"])
    split = dataset.test.first(12)
    strengths = [float(epsilon) for epsilon in FAST.epsilons]
    options: Any = {"steps": FAST.steps, "batch": 256, "device": tiny.CPU}
    again = evaluate.search(model, split, strengths, **options)
    arrays = flags(folder, FAST)
    assert arrays["critical"].tolist() == again.critical.tolist()
    assert arrays["label"].tolist() == split.labels.tolist()
    assert arrays["index"].tolist() == list(range(12))


def test_the_summary_is_that_of_the_rows(finished: tuple[Store, RunDir]) -> None:
    _, folder = finished
    result, stored = read_json(folder.result), read_json(folder.eval_json(FAST.id))
    assert result is not None and stored is not None
    summary = run._summary(result, [FAST, MORE], CONFIG, folder)
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


def count_epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    trained: list[int] = []
    epoch = Trainer._epoch

    def counted(self: Trainer, number: int) -> Any:
        trained.append(number)
        return epoch(self, number)

    monkeypatch.setattr(Trainer, "_epoch", counted)
    return trained


def count_searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of every evaluation after training (validation has its own number of steps)."""
    steps: list[int] = []
    search = evaluate.search

    def counted(*arguments: Any, **options: Any) -> Search:
        if "progress" in options:
            steps.append(options["steps"])
        return search(*arguments, **options)

    monkeypatch.setattr(evaluate, "search", counted)
    return steps


def test_an_evaluation_added_later_reuses_the_training(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.run(CONFIG.id)
    execute(store, CONFIG, [FAST])
    before = {path: path.read_bytes() for path in (folder.eval_json(FAST.id), folder.metrics)}
    weights = checkpoint.load(folder)[0]
    epochs, searches = count_epochs(monkeypatch), count_searches(monkeypatch)
    result = execute(store, CONFIG, [MORE])
    assert epochs == [] and searches == [3]
    assert result["evals"] == [FAST.id, MORE.id] and result["attempts"] == 2
    assert all(path.read_bytes() == content for path, content in before.items())
    after = checkpoint.load(folder)[0]
    assert weights is not None and after is not None
    assert all(torch.equal(weights["model"][k], after["model"][k]) for k in weights["model"])
    assert assert_keeps_its_promise(folder)
    # Asking for what is there does nothing; and names stay, whoever asks for fewer.
    assert execute(store, CONFIG, [FAST, MORE])["evals"] == [FAST.id, MORE.id]
    assert epochs == [] and searches == [3]


@pytest.mark.parametrize("lost", ["json", "npz"])
def test_an_evaluation_of_which_half_is_lost_is_done_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    folder = store.run(CONFIG.id)
    execute(store, CONFIG, [FAST])
    before = flags(folder, FAST)["critical"]
    (folder.eval_json(FAST.id) if lost == "json" else folder.eval_flags(FAST.id)).unlink()
    searches = count_searches(monkeypatch)
    execute(store, CONFIG, [FAST])
    assert searches == [2] and np.array_equal(before, flags(folder, FAST)["critical"])


@pytest.mark.slow
def test_a_kill_between_any_two_writes_leaves_no_false_result(forks: Forks, tmp_path: Path) -> None:
    """Killed before the n-th rename of a file, for every n, then finished: each attempt is picked
    up by the next."""
    asked = [item.model_copy(update={"images": 4, "steps": 1}) for item in (FAST, MORE)]
    evals = [item.to_dict() for item in asked]
    quick = {"schedule": "standard", "validation": {"steps": 1, "images": 2}}
    fields = {"epochs": 1, "batch": 20, **quick}
    finished, moment = 0, 0
    outcomes = []
    while not finished:
        moment += 1
        root = tmp_path / str(moment)
        code = forks.run(killable.execute, root, fields, evals, ("replace", moment))
        (path,) = (root / "runs").iterdir()
        outcomes.append(assert_keeps_its_promise(RunDir(path)))
        finished = code == 0
    # Once there is a result, there is one after every later kill, too.
    assert outcomes == sorted(outcomes) and outcomes[-1]
    assert outcomes.count(False) > 12, "too few moments: is os.replace still how files are placed?"
    reference = RunDir(path)
    for moment in range(4, len(outcomes), 4):
        root = tmp_path / str(moment)
        assert forks.run(killable.execute, root, fields, evals, None) == 0
        folder = Store(root).run(reference.id)
        assert assert_keeps_its_promise(folder)
        for item in asked:
            one, two = (flags(place, item)["critical"] for place in (reference, folder))
            assert np.array_equal(one, two)
        lost, done = read_jsonl(folder.attempts)
        assert (lost["outcome"], done["outcome"]) == ("lost", "done")


def test_who_is_taken_over_during_an_evaluation_writes_no_result(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, search = store.run(CONFIG.id), evaluate.search

    def meanwhile(*arguments: Any, **options: Any) -> Search:
        found = search(*arguments, **options)
        if "progress" in options:
            (folder.path / "claim-0002.json").write_text("{}")
        return found

    monkeypatch.setattr(evaluate, "search", meanwhile)
    with pytest.raises(NotOwnedError, match="another process"):
        execute(store, CONFIG, [FAST])
    assert not folder.result.exists()
    assert not folder.eval_json(FAST.id).exists() and not folder.eval_flags(FAST.id).exists()
    assert read_jsonl(folder.attempts)[-1]["outcome"] is None, "and does not close the row"


def test_another_norm_from_training_to_result(store: Store) -> None:
    config = tiny.config(norm="l2", epsilon_g="1/2", epochs=1)
    asked = EvalConfig.parse(
        {"norm": "l1", "steps": 2, "epsilons": [0, 1, 4], "images": 6, "prior": [1, 2, 1]}
    )
    result = execute(store, config, [asked])
    folder = store.run(config.id)
    stored = read_json(folder.eval_json(asked.id))
    assert stored is not None and [row["norm"] for row in stored["rows"]] == ["l1"] * 3
    assert [row["epsilon"] for row in stored["rows"]] == ["0", "1", "4"]
    right = [row["correct"] / 6 for row in stored["rows"]]
    assert stored["expected"] == pytest.approx((right[0] + 2 * right[1] + right[2]) / 4)
    (row,) = read_jsonl(folder.metrics)
    assert (row["epsilon"], row["val_epsilon"]) == (0.5, "1/2")
    summary = run._summary(result, [asked], config, folder)
    assert "test/apgd-ce-2-l1/eps4" in summary
    assert not any(name.endswith("/expected") for name in summary)


def test_a_strength_off_the_grid_has_no_expected_accuracy(store: Store) -> None:
    config = tiny.config(epsilon_g=0.03, epochs=1)
    result = execute(store, config, [FAST])
    summary = run._summary(result, [FAST], config, store.run(config.id))
    assert "test/apgd-ce-2/eps8" in summary and "test/apgd-ce-2/expected" not in summary


def test_autoattack_goes_on_in_the_run_folder(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second batch; the next attempt repeats neither APGD nor the first one."""
    asked = EvalConfig.parse({"attack": "autoattack", "steps": 2, "epsilons": [0, "1/255"]})
    folder, batches, broken = store.run(CONFIG.id), [], []

    def attack(model: Any, x: Any, y: Any, epsilon: float, norm: str) -> Any:
        if len(batches) == 1 and not broken:
            broken.append(True)
            raise KeyboardInterrupt
        batches.append(len(x))
        return torch.arange(len(x)) % 2 == 0

    monkeypatch.setattr(autoattack, "require", lambda: None)
    monkeypatch.setattr(autoattack, "_attack", attack)
    monkeypatch.setattr(evaluate._Queue, "_step", right_at_first_sight)
    searches = count_searches(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        execute(store, CONFIG, [asked], eval_batch=8)
    assert not folder.eval_json(asked.id).exists() and len(searches) == 1
    execute(store, CONFIG, [asked], eval_batch=8)
    stored = read_json(folder.eval_json(asked.id))
    assert stored is not None and len(searches) == 1 and batches == [8, 8, 4]
    assert [row["correct"] for row in stored["rows"]] == [20, 10]
    assert {row["attack"] for row in stored["rows"]} == {"autoattack-2"}
    assert sorted(path.suffix for path in (folder.path / "evals").iterdir()) == [".json", ".npz"]


def right_at_first_sight(queue: Any, slots: Any, path: Any) -> torch.Tensor:
    """A search in which every image is right at every strength."""
    queue.found.critical[slots.index.numpy()] = len(queue.strengths)
    return torch.arange(len(slots.index))


def test_an_evaluation_that_does_not_fit_is_cut_smaller(
    store: Store, finished: tuple[Store, RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    search, sizes = evaluate.search, []

    def small(*arguments: Any, **options: Any) -> Search:
        if "progress" in options:
            sizes.append(options["batch"])
            if options["batch"] > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return search(*arguments, **options)

    monkeypatch.setattr(evaluate, "search", small)
    execute(store, CONFIG, [FAST], eval_batch=12)
    assert sizes == [12, 6, 3]
    mine, whole = flags(store.run(CONFIG.id), FAST), flags(finished[1], FAST)
    assert np.abs(mine["critical"] - whole["critical"]).max() <= 1


QUICK = FAST.model_copy(update={"mode": "fast"})


def test_a_fast_evaluation_carries_its_audit(store: Store) -> None:
    folder = store.run(CONFIG.id)
    assert QUICK.id != FAST.id
    result = execute(store, CONFIG, [FAST, QUICK])
    stored, exact = read_json(folder.eval_json(QUICK.id)), read_json(folder.eval_json(FAST.id))
    assert QUICK.id in result["evals"] and stored is not None and exact is not None
    assert exact["audit"] is None
    # Twelve images are all audited, so all have their exact results.
    assert stored["audit"]["images"] == 12 and stored["audit"]["disagreeing"] == 0
    assert stored["audit"]["forwards"] == exact["forwards"]
    assert [row["correct"] for row in stored["rows"]] == [row["correct"] for row in exact["rows"]]


def test_an_evaluation_that_fails_its_audit_is_not_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, search = store.run(CONFIG.id), evaluate.search

    def optimistic(*arguments: Any, **options: Any) -> Search:
        found = search(*arguments, **options)
        if options.get("mode") == "fast":
            found.critical[0] += 1
        return found

    monkeypatch.setattr(evaluate, "search", optimistic)
    with pytest.raises(AuditError, match="disagrees with mode exact on 1 of 96"):
        execute(store, CONFIG, [QUICK])
    assert not folder.eval_json(QUICK.id).exists() and not folder.eval_flags(QUICK.id).exists()
    assert not folder.result.exists()


def test_who_is_taken_over_before_the_result_writes_none(store: Store) -> None:
    claim = Claim.acquire(store.run(CONFIG.id))
    assert claim
    answers = iter([True] * CONFIG.epochs)
    claim.held = lambda: next(answers, False)  # type: ignore[method-assign]
    with pytest.raises(NotOwnedError):
        execute(store, CONFIG, [], claim=claim)
    assert not store.run(CONFIG.id).result.exists()


def test_a_run_that_diverges_has_no_result(store: Store) -> None:
    config = tiny.config(optim={"lr": 1e30, "warmup": 0.0})
    with pytest.raises(DivergedError, match="epoch 0"):
        execute(store, config, [FAST])
    assert not store.run(config.id).result.exists()


def test_bad_data_stops_before_training(store: Store, tmp_path: Path) -> None:
    config = tiny.config(dataset=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"nowhere/train: no such folder"):
        execute(store, config, [FAST])
    names = set(os.listdir(store.run(config.id).path))
    assert not {"metrics.jsonl", "checkpoint.pt", "result.json"} & names


def test_damage_is_remarked_in_log_and_attempts(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    folder = store.run(CONFIG.id)
    execute(store, CONFIG, [FAST])
    folder.result.unlink()
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING, logger="epsweep"):
        execute(store, CONFIG, [FAST])
    (note,) = read_jsonl(folder.attempts)[-1]["notes"]
    assert note.startswith("checkpoint.pt is unusable (") and note in caplog.text
    assert assert_keeps_its_promise(folder)


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


def test_standard_fine_tuning_has_no_strength_of_its_own(store: Store) -> None:
    """Its summary gives accuracies, but no expected one: each table asks for its own eps_g."""
    config = tiny.config(schedule="standard", epochs=1)
    result = execute(store, config, [FAST])
    summary = run._summary(result, [FAST], config, store.run(config.id))
    assert "test/apgd-ce-2/eps8" in summary and "test/apgd-ce-2/expected" not in summary
    assert config.epsilon_g == Fraction(0) and result["setting"] == "standard"


@pytest.mark.parametrize("lr, outcome", [(1e-3, "done"), (1e30, "failed")])
def test_a_worker_keeps_nothing_of_a_run_that_has_ended(
    store: Store, lr: float, outcome: str
) -> None:
    """Its next run needs the memory; Python's own collection may not look for many runs."""
    config = tiny.config(optim={"lr": lr})
    gc.disable()
    try:
        made = attempt.make(config, [FAST], store, {"tracking": "none", "group": None})
        alive = [
            type(item) for item in gc.get_objects() if type(item) in (Trainer, torch.optim.AdamW)
        ]
    finally:
        gc.enable()
    assert made == outcome and alive == []
