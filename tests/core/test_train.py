"""The training loop: costs, what its rows say, divergence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import plain
import pytest
import tiny
import torch
from torch import Tensor, nn

from core.config import RunConfig
from core.errors import DivergedError, NotOwnedError
from core.evaluation import queue
from core.store.fence import Fence, shut_out
from core.store.folders import Store
from core.store.json_files import read_jsonl
from core.training import step
from core.training.monitor import Monitor


def test_global_random_state_neither_matters_nor_changes(store: Store, tmp_path: Path) -> None:
    config = tiny.config()
    torch.manual_seed(1)
    first = tiny.trainer(store, config).fit()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = tiny.trainer(Store(tmp_path / "other"), config).fit()
    assert torch.equal(before, torch.get_rng_state())
    assert tiny.repeatable(first) == tiny.repeatable(second)


def test_another_seed_is_another_training(store: Store) -> None:
    losses = [tiny.trainer(store, tiny.config(seed=seed)).fit()[0]["train_loss"] for seed in (0, 1)]
    assert losses[0] != losses[1]


class Counting(nn.Module):
    """Counts training forwards, and evaluation forwards that ask for an input gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training_forwards = self.attack_forwards = 0
        self.dtypes: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        self.training_forwards += self.training
        self.attack_forwards += x.requires_grad and not self.training
        self.dtypes.add(logits.dtype)
        return logits


@pytest.mark.parametrize(
    ("schedule", "attacked_epochs"),
    [("standard", 0), ({"T1": 2, "T2": 2}, 1), ({"T1": 1, "T2": 3}, 1), ("fix", 3)],
    ids=str,
)
def test_attacks_only_while_the_strength_is_positive(
    store: Store, monkeypatch: pytest.MonkeyPatch, schedule: Any, attacked_epochs: int
) -> None:
    calls = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(options["epsilon"])
        return run_apgd(*arguments, **options)

    run_apgd = step.run_apgd
    monkeypatch.setattr(step, "run_apgd", counted)
    model = Counting(tiny.net())
    # No image is under attack in validation, so that every input gradient is one of training.
    validation = {"steps": 1, "images": 1}
    config = tiny.config(schedule=schedule, epochs=3, attack={"steps": 5}, validation=validation)
    rows = tiny.trainer(store, config, model=model).fit()
    assert len(calls) == 4 * attacked_epochs and all(calls)
    assert model.training_forwards == 4 * 3
    in_training = model.attack_forwards - 2 * 3  # the one validation image: clean, then attacked
    assert in_training <= 5 * 4 * attacked_epochs
    assert in_training >= 5 * 4 * attacked_epochs - 3  # where that image is wrong when clean
    for row in rows:
        assert (row["train_clean_correct"] == -1) == (row["epsilon"] == 0)


def still(**changed: Any) -> RunConfig:
    """Hardly learns and does not augment: measurements in and after an epoch see one model."""
    base = {
        "optim": {"lr": 1e-12, "warmup": 0.0},
        "augment": {"flip": False, "jitter": 0.0, "rotate": 0.0},
        "epochs": 1,
    }
    return tiny.config(**(base | changed))


def test_rows_hold_what_they_say(store: Store) -> None:
    data = tiny.dataset(47, 30)
    model = tiny.net(norm="group", seed=4)
    # 47 images make four whole batches of ten; only those are counted.
    config = still(validation={"steps": 3, "images": 12, "epsilon": "2/255"})
    (row,) = tiny.trainer(store, config, model=model, data=data).fit()
    assert row["epoch"] == 0 and row["epsilon"] == pytest.approx(8 / 255)
    assert row["train_images"] == 40
    loss, right = queue.clean_loss(model, data.val, batch=50, device=tiny.CPU)
    assert row["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert (row["val_clean_correct"], row["val_clean_images"]) == (right, 30)
    x, y = data.val.batch(torch.arange(12), tiny.CPU)
    alone = (plain.classes(model, x, y, [0.0, 2 / 255], 3) == y).all(0)
    assert (row["val_adv_correct"], row["val_adv_images"]) == (int(alone.sum()), 12)
    assert row["val_epsilon"] == "2/255"
    assert row["seconds"] > 0 and row["images_per_s"] > 0


def test_training_measures_are_those_of_the_images_it_saw(store: Store) -> None:
    data, model = tiny.dataset(40), tiny.net(norm="group", seed=4)
    loss, right = queue.clean_loss(model, data.train, batch=40, device=tiny.CPU)
    clean = tiny.trainer(store, still(schedule="standard"), model=model, data=data).fit()[0]
    assert clean["train_loss"] == pytest.approx(loss, rel=1e-5)
    attacked = tiny.trainer(store, still(attack={"steps": 3}), model=model, data=data).fit()[0]
    assert attacked["train_clean_correct"] == right, "counted before the attack"
    x, y = data.train.batch(torch.arange(40), tiny.CPU)
    highest = plain.attack(model, x, y, [8 / 255] * 40, 3).loss.mean()
    assert attacked["train_loss"] == pytest.approx(float(highest), rel=1e-4)
    assert attacked["train_loss"] > clean["train_loss"]


def test_a_training_set_smaller_than_the_batch_is_one_step(store: Store) -> None:
    model = Counting(tiny.net())
    config = tiny.config(batch=500, epochs=1, schedule="standard")
    (row,) = tiny.trainer(store, config, model=model).fit()
    assert row["train_images"] == 40 and model.training_forwards == 1


class Poisoned(nn.Module):
    """Its n-th training forward is not a number."""

    def __init__(self, inner: nn.Module, n: int) -> None:
        super().__init__()
        self.inner, self.left = inner, n

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        logits: Tensor = self.inner(x)
        return logits * torch.nan if self.training and self.left == 0 else logits


def test_a_loss_that_is_no_number_names_epoch_and_step(store: Store) -> None:
    config = tiny.config(epochs=4, schedule="standard")
    work = tiny.trainer(store, config, model=Poisoned(tiny.net(), 7))
    with pytest.raises(DivergedError, match=r"became nan at epoch 1, step 2 \(learning rate 0.001"):
        work.fit()
    assert len(read_jsonl(work.run.metrics)) == 1, "the epoch before it is kept"
    saved = torch.load(work.run.checkpoint, weights_only=True)
    assert len(saved["rows"]) == 1
    assert all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.parametrize("schedule", ["standard", "fix"])
def test_weights_that_explode_in_the_last_step_stop_the_run(store: Store, schedule: str) -> None:
    """Every training loss was finite; the next one would not be, and no row could be written."""
    config = tiny.config(batch=40, epochs=2, schedule=schedule, optim={"lr": 1e38, "warmup": 0.0})
    work = tiny.trainer(store, config)
    with pytest.raises(DivergedError, match="epoch 0"):
        work.fit()
    assert not work.run.checkpoint.exists() and read_jsonl(work.run.metrics) == []


def test_bf16_computes_in_bf16_and_keeps_its_weights(store: Store) -> None:
    model = Counting(tiny.net())
    rows = tiny.trainer(store, tiny.config(precision="bf16"), model=model).fit()
    assert model.dtypes == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    full = tiny.trainer(store, tiny.config(), model=tiny.net()).fit()
    losses = [[row["train_loss"] for row in some] for some in (rows, full)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]


def test_learns(store: Store) -> None:
    """Classes that differ by their mean colour, without an attack."""
    config = tiny.config(
        epochs=10, schedule="standard", optim={"lr": 2e-2}, augment={"jitter": 0.0}
    )
    rows = tiny.trainer(store, config, model=tiny.net(norm="group")).fit()
    assert rows[-1]["val_clean_correct"] >= 15 > rows[0]["val_clean_correct"]
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]


def test_who_lost_the_run_writes_nothing(store: Store) -> None:
    config = tiny.config(epochs=3)
    folder = store.run(config.id)
    folder.path.mkdir(parents=True)
    fence = Fence.open(folder.path, 1)
    work = tiny.trainer(store, config)
    work.run = folder.fenced(fence)

    def taken_over(row: Any) -> None:
        if row["epoch"] == 1:
            shut_out(folder.path, 2)

    work.monitor = Monitor(epoch=taken_over)
    with pytest.raises(NotOwnedError, match="another process"):
        work.fit()
    assert len(read_jsonl(work.run.metrics)) == 2
    assert len(torch.load(work.run.checkpoint, weights_only=True)["rows"]) == 2


def test_tells_where_it_is(store: Store) -> None:
    states: list[dict[str, Any]] = []
    epochs: list[int] = []
    work = tiny.trainer(store, tiny.config())

    def epoch(row: Any) -> None:
        epochs.append(row["epoch"])
        written = [json.loads(line) for line in work.run.metrics.read_text().splitlines()]
        assert written[-1] == row, "told of an epoch that is not on disk"

    work.monitor = Monitor(progress=states.append, epoch=epoch)
    work.fit()
    assert epochs == [0, 1]
    shares = [state["share"] for state in states]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert {state["phase"] for state in states} == {"train", "validate"}
