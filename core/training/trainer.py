"""Adversarial fine-tuning under an epsilon schedule: the training loop.

The strength changes, validation takes place and a checkpoint is written once per epoch. All
randomness is derived from (seed, purpose, epoch), so that a killed and resumed run gives the same
bits as an uninterrupted one (on the same machine with the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core.config import ConfigError, RunConfig, shown
from core.config.seeds import derive
from core.data.splits import Dataset
from core.errors import DivergedError, counted
from core.evaluation import queue
from core.machine.runtime import autocast, is_halved
from core.machine.team import ALONE, Team
from core.model import convolutions, trainable
from core.options import Compile
from core.store import checkpoint
from core.store.folders import RunDir
from core.store.shapes import MetricsRow
from core.training import schedules
from core.training.augment import draw_table
from core.training.epsilon_schedule import Seen
from core.training.monitor import Clock, Monitor
from core.training.rate import learning_rate
from core.training.step import Step, Threat


class Trainer:
    """Trains one model; `fit` returns the metrics of every epoch.

    micro_batch: images per forward and backward; gradients are accumulated over config.batch
    images. compile: how training calls the model. team: the processes that share each batch; each
    has the whole model, and all make the same steps.
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
        compile: Compile = "none",
        monitor: Monitor | None = None,
        team: Team = ALONE,
    ) -> None:
        self.config, self.data, self.run, self.device = config, data, run, device
        self.team, self.monitor = team, monitor or Monitor()
        self.model = model.to(device)
        trainable.prepare(self.model, config)
        if is_halved(config.precision) and device.type == "cpu":
            convolutions.guard(self.model)
        self.batch = min(config.batch, len(data.train))
        if self.batch < team.size:
            raise ConfigError(f"batch {self.batch}: too few images for {team.size} processes")
        share = -(-self.batch // team.size)
        fixed = config.batchnorm_images
        if fixed and self.batch % (fixed * team.size):
            raise ConfigError(
                f"batchnorm_images {fixed}: does not divide a step of {self.batch} images among "
                f"{counted(team.size, 'process')}"
            )
        self.step = Step(
            config,
            self.model,
            device=device,
            micro_batch=min(micro_batch or share, share),
            compile=compile,
            team=team,
            remark=lambda text: self.monitor.remark(text),
        )
        self._has_batchnorm = trainable.has_batchnorm(self.model, config)
        self.schedule = schedules.make(config)
        self.steps_per_epoch = len(data.train) // self.batch
        self.rows: list[MetricsRow] = []
        self._clock = Clock(config.epochs, self.steps_per_epoch)

    @property
    def evaluated(self) -> nn.Module:
        """The model to evaluate: the averaged one if there is one."""
        return self.step.average.model if self.step.average else self.model

    def fit(self) -> list[MetricsRow]:
        """Train to the last epoch, from the newest checkpoint if there is one.

        Raises DivergedError, NotOwnedError, TeamError, OSError (such as a full disk).
        """
        self._resume()
        self._clock = Clock(self.config.epochs, self.steps_per_epoch, len(self.rows))
        for epoch in range(len(self.rows), self.config.epochs):
            self.rows.append(self._epoch(epoch))
            self._save()
            self.monitor.epoch(self.rows[-1])
        return self.rows

    def state(self) -> dict[str, Any]:
        """The content of a checkpoint."""
        average = {"average": self.step.average.model.state_dict()} if self.step.average else {}
        return {
            "run": self.config.id,
            "model": self.model.state_dict(),
            **average,
            "optimizer": self.step.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "rows": [dict(row) for row in self.rows],
        }

    def _resume(self) -> None:
        # Restoring, in this order:
        # 1. the newest checkpoint whose checksums fit, else the one before it, else none
        # 2. model weights and buffers (BatchNorm statistics are buffers)
        #    and their moving average, which is `model` itself once finished
        # 3. optimiser moments and step counts, onto the model's device; absent once finished
        # 4. the schedule's state, if it has one
        # 5. the rows of finished epochs; their number is the next epoch, and the global step
        #    follows from it, and with it the learning rate
        # 6. metrics.jsonl, rewritten from those rows: rows after the checkpoint are dropped
        # Random streams need no restoring: each is derived from (seed, purpose, epoch).
        state, remarks = checkpoint.load(self.run)
        for remark in remarks:
            self.monitor.remark(remark)
        found = self.team.gather(len(state["rows"]) if state else 0)
        if len(set(found)) > 1:
            raise OSError(f"processes found checkpoints of epochs {found}; is the disk shared?")
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        if self.step.average:
            self.step.average.model.load_state_dict(state.get("average", state["model"]))
        if "optimizer" in state:
            self.step.optimizer.load_state_dict(state["optimizer"])
        self.schedule.restore(state["schedule"])
        self.rows = state["rows"]
        if self.team.leads:
            self.run.write_jsonl(self.run.metrics, self.rows)
        self.monitor.remark(f"resuming after epoch {len(self.rows)} of {self.config.epochs}")

    def _save(self) -> None:
        if not self.team.leads:
            return
        if len(self.rows) == self.config.epochs:
            # Results of earlier final weights, whose checkpoint is gone, must not be mixed with
            # results of the weights trained now.
            self.run.forget_results()
        checkpoint.save(self.run, self.state())
        self.run.write_jsonl(self.run.metrics, self.rows)

    def finish(self) -> None:
        """Keep only the final weights; call it when all evaluations are on disk."""
        if self.team.leads:
            checkpoint.slim(self.run, self.state())

    def _epoch(self, epoch: int) -> MetricsRow:
        started = time.perf_counter()
        threat = self._threat(epoch)
        told = self.step.loss.begin_epoch(self.model, self._accuracy) if threat.epsilon else {}
        losses = self._train(epoch, threat)
        images = self.steps_per_epoch * self.batch
        speed = images / (time.perf_counter() - started)
        self.monitor.progress(self._clock.state("validate", epoch, speed, self.steps_per_epoch))
        row: Any = {
            "epoch": epoch,
            "classes": self.data.classes,
            **threat.told(),
            **told,
            "lr": self.step.optimizer.param_groups[0]["lr"],
            "train_loss": float(losses.mean()),
            "train_images": images,
            "micro_batch": self.step.micro_batch,
            "batchnorm_images": self.step.sizes if self._has_batchnorm else [],
            **self._validate(),
            "seconds": round(time.perf_counter() - started, 3),
            "images_per_s": round(speed, 1),
        }
        if not math.isfinite(row["val_loss"]):  # the last step may have ruined the weights
            raise DivergedError(
                f"the validation loss became {row['val_loss']} after epoch {epoch} "
                f"(learning rate {self.config.optim.lr:g}, "
                f"eps {shown(threat.epsilon, self.config.norm)})"
            )
        self.schedule.observe(_seen(row, threat))
        finished: MetricsRow = row
        return finished

    def _threat(self, epoch: int) -> Threat:
        """The attack of an epoch, from the schedule."""
        images, strength = len(self.data.train), float(self.config.epsilon_g.number)
        alpha = schedules.alpha(self.schedule, epoch)
        shares = self.schedule.strengths(epoch, images) if alpha else None
        return Threat(
            images,
            self.device,
            epsilon=float(alpha * self.config.epsilon_g.number),
            strengths=None if shares is None else torch.tensor([*map(float, shares)]) * strength,
            stop_after=self.schedule.stop_after(epoch),
        )

    def _train(self, epoch: int, threat: Threat) -> Tensor:
        """One pass over the training split. Returns the mean loss of every step [steps]."""
        config, split = self.config, self.data.train
        order = torch.randperm(len(split), generator=_generator(config.seed, "order", epoch))
        table = draw_table(config.seed, epoch, len(split))
        losses = torch.zeros(self.steps_per_epoch, device=self.device)
        trainable.train_mode(self.model, config)
        self.step.sizes = []
        steps = config.epochs * self.steps_per_epoch
        # Dropout and stochastic depth use torch's global generators: fork these for the epoch, with
        # a different seed for each process of the team.
        own = (self.team.rank,) if self.team.rank else ()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(config.seed, "dropout", epoch, *own))
            started = time.perf_counter()
            for step in range(self.steps_per_epoch):
                index = order[step * self.batch : (step + 1) * self.batch]
                done = epoch * self.steps_per_epoch + step
                self.step.set_rate(partial(learning_rate, config, done, steps))
                losses[step] = self.step.make(split, index, table, threat)
                speed = (step + 1) * self.batch / (time.perf_counter() - started)
                self.monitor.progress(self._clock.state("train", epoch, speed, step))
        self.team.total([losses, threat.clean, threat.fates])
        bad = (~losses.isfinite()).nonzero().flatten()
        if len(bad):
            raise DivergedError(
                f"the training loss became {float(losses[bad[0]])} at epoch {epoch}, step "
                f"{int(bad[0])} (learning rate {config.optim.lr:g}, "
                f"eps {shown(threat.epsilon, config.norm)})"
            )
        return losses

    def _accuracy(self) -> float:
        """The share of training images, not augmented, that are right."""
        split = self.data.train
        how: Any = {"batch": self.step.micro_batch, "device": self.device, "team": self.team}
        with autocast(self.config.precision, self.device):
            return queue.clean_loss(self.model, split, **how)[1] / len(split)

    def _validate(self) -> dict[str, Any]:
        """Clean loss and accuracy on all validation images, adversarial accuracy on the first
        ones."""
        asked, split = self.config.validation, self.data.val
        attacked = split.first(asked.images)
        how: Any = {"batch": self.step.micro_batch, "device": self.device, "team": self.team}
        with autocast(self.config.precision, self.device):
            loss, correct = queue.clean_loss(self.evaluated, split, **how)
            found = queue.search(
                self.evaluated,
                attacked,
                [0.0, float(self.config.validation_epsilon)],
                steps=asked.steps,
                norm=self.config.norm,
                **how,
            )
        return {
            "val_loss": loss,
            "val_clean_correct": correct,
            "val_clean_images": len(split),
            "val_adv_correct": found.correct(1),
            "val_adv_images": len(attacked),
            "val_epsilon": str(self.config.validation_epsilon),
        }


def _seen(row: Mapping[str, Any], threat: Threat) -> Seen:
    """An epoch's results for the schedule."""
    attacked, images = bool(threat.epsilon), row["train_images"]
    return Seen(
        epoch=row["epoch"],
        classes=row["classes"],
        val_clean=row["val_clean_correct"] / row["val_clean_images"],
        val_adv=row["val_adv_correct"] / row["val_adv_images"],
        train_clean=row["train_clean_correct"] / images if attacked else None,
        train_adv=row["train_adv_correct"] / images if attacked else None,
        fates=() if threat.strengths is None else threat.fates.tolist(),
    )


def _generator(seed: int, purpose: str, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, purpose, epoch))
