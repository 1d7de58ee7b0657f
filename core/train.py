"""Adversarial fine-tuning under an epsilon schedule: the training loop.

One epoch is the unit of everything: of the schedule, of validation, of the checkpoint. All
randomness is derived from (seed, purpose, epoch), so that a killed and resumed run repeats an
uninterrupted one bit for bit (on the same machine with the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import checkpoint, evaluate, schedules
from core.attacks import apgd
from core.augment import augment, draw_table
from core.config import RunConfig, show_strength
from core.data import Dataset, Split
from core.records import MetricsRow
from core.rundir import RunDir, write_jsonl
from core.runtime import autocast
from core.seeds import derive


class DivergedError(RuntimeError):
    """The training loss became infinite or NaN."""


@dataclass
class Monitor:
    """What the trainer tells the outside; every function may be called often and must be cheap."""

    progress: Callable[[dict[str, Any]], None] = lambda state: None
    """Where the run is: phase, epoch, epochs, images_per_s."""
    epoch: Callable[[MetricsRow], None] = lambda row: None
    """A finished epoch, after its checkpoint is on disk."""
    remark: Callable[[str], None] = lambda text: None
    """A line for the log, such as a damaged checkpoint."""
    owned: Callable[[], bool] = lambda: True
    """Whether this process may still write into the run folder."""


class NotOwnedError(RuntimeError):
    """Another process took the run over; this one must not write any more."""


def learning_rate(config: RunConfig, step: int, steps: int) -> float:
    """Linear warm-up over the first `optim.warmup` of all steps, then cosine to 0."""
    warm = round(config.optim.warmup * steps)
    if step < warm:
        return config.optim.lr * (step + 1) / warm
    return config.optim.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Trainer:
    """Trains one model; `fit` returns the metrics of every epoch.

    micro_batch: images per forward and backward; the effective batch stays config.batch, by
    accumulation. eval_batch: images per evaluation forward.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Dataset,
        model: nn.Module,
        run: RunDir,
        *,
        device: torch.device,
        micro_batch: int | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self.config, self.data, self.run, self.device = config, data, run, device
        self.model = model.to(device)
        self.batch = min(config.batch, len(data.train))
        self.micro_batch = min(micro_batch or self.batch, self.batch)
        self.monitor = monitor or Monitor()
        self.schedule = schedules.make(config)
        self.steps_per_epoch = len(data.train) // self.batch
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=config.optim.lr,
            weight_decay=config.optim.weight_decay,
            fused=True,
        )
        self.rows: list[MetricsRow] = []

    def fit(self) -> list[MetricsRow]:
        """Train to the last epoch, from the newest checkpoint where there is one.

        Raises DivergedError, NotOwnedError, OSError (a full disk; resumable).
        """
        self._resume()
        for epoch in range(len(self.rows), self.config.epochs):
            self.rows.append(self._epoch(epoch))
            self._save()
            self.monitor.epoch(self.rows[-1])
        return self.rows

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "run": self.config.id,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "rows": [dict(row) for row in self.rows],
        }

    def _resume(self) -> None:
        # Restoring, in this order:
        # 1. the newest checkpoint whose checksums fit, else the one before it, else none
        # 2. model weights and buffers (BatchNorm statistics are buffers)
        # 3. optimiser moments and step counts, onto the model's device; absent once finished
        # 4. the schedule's state (only `auto` has one)
        # 5. the rows of finished epochs; their number is the next epoch, and the global step
        #    follows from it, and with it the learning rate
        # 6. metrics.jsonl, rewritten from those rows: rows after the checkpoint are dropped
        # Random streams need no restoring: each is derived from (seed, purpose, epoch).
        state, remarks = checkpoint.load(self.run)
        for remark in remarks:
            self.monitor.remark(remark)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.restore(state["schedule"])
        self.rows = state["rows"]
        write_jsonl(self.run.metrics, self.rows)
        self.monitor.remark(f"resuming after epoch {len(self.rows)} of {self.config.epochs}")

    def _save(self) -> None:
        if not self.monitor.owned():
            raise NotOwnedError(f"{self.run.id}: another process has taken this run over")
        checkpoint.save(self.run, self.state())
        write_jsonl(self.run.metrics, self.rows)

    def _epoch(self, epoch: int) -> MetricsRow:
        started = time.perf_counter()
        alpha = self.schedule.alpha(epoch)
        epsilon = float(alpha * self.config.epsilon_g)
        losses, clean_correct = self._train(epoch, epsilon)
        images = self.steps_per_epoch * self.batch
        speed = images / (time.perf_counter() - started)
        self._report("validate", epoch, speed)
        row: Any = {
            "epoch": epoch,
            "epsilon": epsilon,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": float(losses.mean()),
            "train_clean_correct": clean_correct,
            "train_images": images,
            **self._validate(),
            "seconds": round(time.perf_counter() - started, 3),
            "images_per_s": round(speed, 1),
        }
        if not math.isfinite(row["val_loss"]):  # the last step broke what no later one will see
            raise DivergedError(
                f"the validation loss became {row['val_loss']} after epoch {epoch} "
                f"(learning rate {self.config.optim.lr:g}, eps {epsilon * 255:.3g}/255)"
            )
        self.schedule.observe(epoch, row["val_clean_correct"] / row["val_clean_images"])
        finished: MetricsRow = row
        return finished

    def _train(self, epoch: int, epsilon: float) -> tuple[Tensor, int]:
        """One pass over the training split. Returns the loss of every step, and the number of
        images that were right before the attack (-1 where there was none)."""
        config, split = self.config, self.data.train
        order = torch.randperm(len(split), generator=_generator(config.seed, "order", epoch))
        table = draw_table(config.seed, epoch, len(split))
        losses = torch.zeros(self.steps_per_epoch, device=self.device)
        correct = torch.zeros((), dtype=torch.long, device=self.device)
        self.model.train()
        # Dropout and stochastic depth draw from torch's global streams: fork them for the epoch.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(config.seed, "dropout", epoch))
            started = time.perf_counter()
            for step in range(self.steps_per_epoch):
                index = order[step * self.batch : (step + 1) * self.batch]
                lr = learning_rate(
                    config,
                    epoch * self.steps_per_epoch + step,
                    config.epochs * self.steps_per_epoch,
                )
                losses[step], right = self._step(split, index, table, epsilon, lr)
                correct += right
                speed = (step + 1) * self.batch / (time.perf_counter() - started)
                self._report("train", epoch, speed, step)
        bad = (~losses.isfinite()).nonzero().flatten()
        if len(bad):
            raise DivergedError(
                f"the training loss became {float(losses[bad[0]])} at epoch {epoch}, step "
                f"{int(bad[0])} (learning rate {config.optim.lr:g}, eps {epsilon * 255:.3g}/255)"
            )
        return losses, int(correct) if epsilon else -1

    def _step(
        self, split: Split, index: Tensor, table: Tensor, epsilon: float, lr: float
    ) -> tuple[Tensor, Tensor]:
        """One optimiser step. Returns its mean loss and the number right before the attack."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.long, device=self.device)
        for part in index.split(self.micro_batch):
            x, y = split.batch(part, self.device)
            x = augment(x, table[part].to(self.device), self.config.augment)
            x = x.contiguous(memory_format=torch.channels_last)
            with autocast(self.config.precision, self.device):
                if epsilon:
                    x, clean = apgd(
                        self.model, x, y, epsilon=epsilon, steps=self.config.attack.steps
                    )
                    correct += (clean.argmax(1) == y).sum()
                logits = self.model(x)
            loss = F.cross_entropy(logits.float(), y, reduction="sum") / len(index)
            loss.backward()
            loss_sum += loss.detach()
        if self.config.optim.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss_sum, correct

    def _validate(self) -> dict[str, Any]:
        """Clean loss and accuracy on all validation images, adversarial on the first ones."""
        asked, split = self.config.validation, self.data.val
        attacked = split.first(asked.images)
        with autocast(self.config.precision, self.device):
            loss, correct = evaluate.clean_loss(
                self.model, split, batch=self.micro_batch, device=self.device
            )
            found = evaluate.search(
                self.model,
                attacked,
                [0.0, float(self.config.validation_epsilon)],
                steps=asked.steps,
                batch=self.micro_batch,
                device=self.device,
            )
        return {
            "val_loss": loss,
            "val_clean_correct": correct,
            "val_clean_images": len(split),
            "val_adv_correct": found.correct(1),
            "val_adv_images": len(attacked),
            "val_epsilon": show_strength(self.config.validation_epsilon),
        }

    def _report(self, phase: str, epoch: int, speed: float, step: int = 0) -> None:
        share = (epoch + step / self.steps_per_epoch) / self.config.epochs
        if phase == "validate":
            share = (epoch + 1) / self.config.epochs
        self.monitor.progress(
            {
                "phase": phase,
                "epoch": epoch,
                "epochs": self.config.epochs,
                "share": round(share, 4),
                "images_per_s": round(speed, 1),
            }
        )


def _generator(seed: int, purpose: str, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, purpose, epoch))
