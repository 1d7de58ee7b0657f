"""Evaluations of a run: added later, repeated, resumed and audited; nothing is done twice."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from whole_run import CONFIG, FAST, MORE, assert_keeps_its_promise, execute, flags

from core.config import EvalConfig, RobustAccuracy
from core.evaluation import autoattack, queue
from core.evaluation.queue import Search
from core.machine.team import ALONE
from core.run import measure, pipeline
from core.store import checkpoint
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl
from core.store.tracking import curves
from core.training.trainer import Trainer


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
    search = queue.search

    def counted(*arguments: Any, **options: Any) -> Search:
        if "mode" in options:
            steps.append(options["steps"])
        return search(*arguments, **options)

    monkeypatch.setattr(queue, "search", counted)
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


TEXTS = (".yaml", ".json", ".jsonl")


def test_another_norm_from_training_to_result(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "epsweep")
    config = tiny.config(norm="l2", epsilon_g="1/5", epochs=1)
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
    assert (row["epsilon"], row["val_epsilon"]) == (0.2, "0.2")
    assert curves(row, config.norm)["train/epsilon"] == 0.2 and "1: eps 0.2, " in caplog.text
    texts = [path.read_text() for path in folder.path.rglob("*") if path.suffix in TEXTS]
    assert any("epsilon_g: '0.2'" in text for text in texts)
    assert not any("51/255" in text or "1/5" in text for text in (*texts, caplog.text))
    summary = pipeline._summary(result, [asked], config, folder)
    assert "test/apgd-ce-2-l1/eps4" in summary
    assert not any(name.endswith("/expected") for name in summary)


def test_what_is_left_is_told_by_the_speed_of_this_attempt(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 of 10 images are known from before; the tenth takes as long as it takes."""
    told: list[dict[str, Any]] = []
    clock = iter((0.0, 0.0, 50.0, 50.0))
    monkeypatch.setattr(measure, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))

    def look(*_: Any, progress: Callable[[int], None], **__: Any) -> Search:
        for done in (8, 9):
            progress(done)
            told.append(dict(claim.progress))
        return Search.blank(10)

    monkeypatch.setattr(queue, "search", look)
    trainer: Any = types.SimpleNamespace(
        data=tiny.dataset(val=10), run=store.run("r"), evaluated=None, device=tiny.CPU, team=ALONE
    )
    claim = Claim.acquire(store.run("r"))
    assert claim
    measure.evaluate(RobustAccuracy(), trainer, claim, batch=10)
    claim.release("done")
    assert told[0]["share"] == 0.8 and "left_s" not in told[0]
    assert (told[1]["share"], told[1]["left_s"], told[1]["images_per_s"]) == (0.9, 50.0, 0.0)


def test_the_summary_expects_by_the_prior_too(store: Store) -> None:
    asked = EvalConfig.parse({"steps": 2, "epsilons": "0..2/255", "prior": [3, 1, 5], "images": 6})
    config = tiny.config(epsilon_g="1/255", epochs=1)
    summary = pipeline._summary(
        execute(store, config, [asked]), [asked], config, store.run(config.id)
    )
    clean, adversarial = (summary[f"test/apgd-ce-2/eps{k}"] for k in (0, 1))
    expected = summary["test/apgd-ce-2/expected"]
    assert expected == pytest.approx((3 * clean + adversarial) / 4)


def test_a_strength_off_the_grid_has_no_expected_accuracy(store: Store) -> None:
    config = tiny.config(epsilon_g=0.03, epochs=1)
    result = execute(store, config, [FAST])
    summary = pipeline._summary(result, [FAST], config, store.run(config.id))
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
        return torch.where(torch.arange(len(x)) % 2 == 0, y + 1, y)

    monkeypatch.setattr(autoattack, "require", lambda: None)
    monkeypatch.setattr(autoattack, "_attack", attack)
    monkeypatch.setattr(queue._Queue, "step", right_at_first_sight)
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


def right_at_first_sight(queue: Any, slots: Any) -> torch.Tensor:
    """A search in which every image is right at every strength."""
    queue.found.critical[slots.index.numpy()] = len(queue.strengths)
    return torch.arange(len(slots.index))


QUICK = FAST.model_copy(update={"mode": "fast"})


def test_a_fast_evaluation_carries_its_audit(store: Store) -> None:
    folder = store.run(CONFIG.id)
    assert QUICK.id != FAST.id
    result = execute(store, CONFIG, [FAST, QUICK])
    stored, exact = read_json(folder.eval_json(QUICK.id)), read_json(folder.eval_json(FAST.id))
    assert QUICK.id in result["evals"] and stored is not None and exact is not None
    assert exact["audit"] is None
    seen = stored["audit"]
    doubtful = int((flags(folder, FAST)["critical"] > 2).sum())
    assert seen["doubtful"] == seen["images"] == doubtful > 0, "few are all audited"
    assert (seen["wrong"], seen["at_most"], seen["fell_back"]) == (0, 0, False)
    assert (seen["pairs"], seen["disagreeing"]) == (8 * doubtful, 0)
    assert [row["correct"] for row in stored["rows"]] == [row["correct"] for row in exact["rows"]]


def test_an_evaluation_that_fails_its_audit_falls_back_to_exact(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same numbers as in mode exact, written under its own id; the log and the record of the
    attempt say so."""
    folder, search = store.run(CONFIG.id), queue.search

    def optimistic(*arguments: Any, **options: Any) -> Search:
        found = search(*arguments, **options)
        if options.get("mode") == "fast":
            found.critical[:] = 9
            found.zero_gradient_images = 12
        return found

    monkeypatch.setattr(queue, "search", optimistic)
    result = execute(store, CONFIG, [QUICK, FAST])
    stored, exact = read_json(folder.eval_json(QUICK.id)), read_json(folder.eval_json(FAST.id))
    assert stored is not None and exact is not None
    for name in ("rows", "expected", "n", "zero_gradient_images"):
        assert stored[name] == exact[name]
    assert flags(folder, QUICK)["critical"].tolist() == flags(folder, FAST)["critical"].tolist()
    seen = stored["audit"]
    assert seen["fell_back"] and seen["doubtful"] == seen["images"] == 12
    assert 0 < seen["wrong"] == seen["at_most"] and seen["forwards"] == 2 * exact["forwards"]
    told = (
        f"mode fast is wrong on {seen['wrong']} of 12 audited images, hence on up to "
        f"{seen['wrong']} of 12 doubtful ones (limit 1%); evaluating in mode exact"
    )
    assert told in caplog.messages
    assert told in read_jsonl(folder.attempts)[-1]["notes"]
    assert QUICK.id in result["evals"] and not list(folder.evals.glob("*.part"))


def test_standard_fine_tuning_has_no_training_strength(store: Store) -> None:
    """Its summary gives accuracies, but no expected one: each table asks for its own eps_g."""
    config = tiny.config(schedule="standard", epochs=1)
    result = execute(store, config, [FAST])
    summary = pipeline._summary(result, [FAST], config, store.run(config.id))
    assert "test/apgd-ce-2/eps8" in summary and "test/apgd-ce-2/expected" not in summary
    assert not config.epsilon_g and result["setting"] == "standard"
