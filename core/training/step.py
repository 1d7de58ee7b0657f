"""One optimiser step: attack, loss and gradients of a batch, in micro-batches that fit in memory,
divided among the processes of the team."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.attack.apgd import is_right, run_apgd
from core.config import RunConfig
from core.data.splits import Split, rows
from core.errors import first_line
from core.machine.runtime import autocast
from core.machine.team import ALONE, Team
from core.model import convolutions, trainable
from core.options import Compile
from core.training import objectives
from core.training.augment import augment_images
from core.training.averaging import Average
from core.training.compiling import compiled
from core.training.epsilon_schedule import BROKEN, HELD


class Threat:
    """The attack of an epoch on the training images, and its outcome for each of them.

    epsilon: the largest strength, 0 for no attack. strengths [n]: one per image, on the CPU, or
    None if all have `epsilon`. stop_after: as in `run_apgd`. A step may be repeated after a
    failure; `note` then overwrites the same entries.
    """

    def __init__(
        self,
        images: int,
        device: torch.device,
        *,
        epsilon: float,
        strengths: Tensor | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.epsilon, self.stop_after = epsilon, stop_after
        self.strengths, self._numbers = strengths, torch.arange(images)  # in host memory
        self.clean = torch.zeros(images, dtype=torch.int32, device=device)
        """1 for images classified correctly before the attack."""
        self.fates = torch.zeros(images, dtype=torch.int32, device=device)
        """BROKEN or HELD; 0 for images that were not attacked."""

    def of(self, index: Tensor) -> float | Tensor:
        """The strength of the images `index` [B]: one number, or a tensor [B] on the device."""
        if self.strengths is None:
            return self.epsilon
        return rows(self.strengths, index, self.fates.device)

    def note(self, index: Tensor, clean: Tensor, held: Tensor) -> None:
        index = rows(self._numbers, index, self.fates.device)
        self.clean[index] = clean.int()
        self.fates[index] = torch.where(held, HELD, BROKEN).int()

    def told(self) -> dict[str, Any]:
        """The fields of an epoch's row that describe its attack."""
        if not self.epsilon:
            return {"epsilon": 0.0, "train_clean_correct": -1, "train_adv_correct": -1}
        told: dict[str, Any] = {
            "epsilon": self.epsilon,
            "train_clean_correct": int(self.clean.sum()),
            "train_adv_correct": int((self.fates == HELD).sum()),
        }
        if self.strengths is not None:
            used = self.strengths[self.fates.cpu() > 0]
            told["epsilon"] = float(used.mean())
            told["epsilon_quartiles"] = used.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        return told


class Step:
    """Makes the steps of a training; holds what they change: weights, optimiser, average.

    micro_batch: images per forward and backward of this process; gradients are accumulated over the
    whole batch. When memory runs out it is reduced for the rest of the training, unless the config
    fixes the images per BatchNorm statistic. compile: how to call the model; if compiling fails,
    the model is called uncompiled.
    """

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module,
        *,
        device: torch.device,
        micro_batch: int,
        compile: Compile = "none",
        team: Team = ALONE,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config, self.device, self.team, self.remark = config, device, team, remark
        self.model = model
        self.loss = objectives.make(config.objective)
        self.micro_batch = config.batchnorm_images or micro_batch
        self.sizes: list[int] = []  # distinct micro-batches used in this epoch
        self.optimizer = torch.optim.AdamW(
            trainable.groups(model, config), betas=config.optim.betas, fused=True
        )
        decay = config.optim.ema
        self.average = Average(model, decay) if decay else None
        self.layout = convolutions.layout(model)
        self.network = model  # the module to call: compiled, or the model itself
        try:
            self.network = compiled(model, compile)
        except RuntimeError as error:
            self._uncompile(first_line(error))

    def set_rate(self, share: Callable[[float], float]) -> None:
        """Set the learning rate of each group. share: maps the group's peak to the current rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = share(group["peak"])

    def make(self, split: Split, index: Tensor, table: Tensor, threat: Threat) -> Tensor:
        """One step on the images `index` [B] of a split, augmented with rows of `table`.

        Returns this process's share of the mean loss; outcomes of the attack go to `threat`.
        """
        loss = self._fitting(split, index, table, threat)
        if self.micro_batch not in self.sizes:
            self.sizes.append(self.micro_batch)
        weights = [weight for weight in self.model.parameters() if weight.grad is not None]
        self.team.total(weight.grad for weight in weights if weight.grad is not None)
        # Running statistics of BatchNorm become those of the whole batch.
        self.team.mean(b for b in self.model.buffers() if b.is_floating_point())
        if self.config.optim.clip:
            nn.utils.clip_grad_norm_(weights, self.config.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model)
        return loss

    def _fitting(self, split: Split, index: Tensor, table: Tensor, threat: Threat) -> Tensor:
        """`_accumulate`, repeated with half the micro-batch each time memory runs out, and without
        the compiler if that fails. Each time, random states, buffers (BatchNorm statistics) and
        gradients are reset."""
        devices = [self.device] if self.device.type == "cuda" else []
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        streams = torch.get_rng_state(), [torch.cuda.get_rng_state(on) for on in devices]
        while True:
            try:
                return self._accumulate(split, index, table, threat)
            except torch.OutOfMemoryError:
                if self.micro_batch == 1 or self.config.batchnorm_images:
                    raise
                failure = None
            except RuntimeError as error:
                if self.network is self.model:
                    raise
                failure = first_line(error)
            # Outside the handlers, since their tracebacks keep the activations in memory.
            if failure:
                self._uncompile(failure)
            else:
                self.micro_batch = half(self.micro_batch)
                self.remark(f"out of memory: going on with micro-batches of {self.micro_batch}")
            self.optimizer.zero_grad(set_to_none=True)
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)
            torch.set_rng_state(streams[0])
            for on, stream in zip(devices, streams[1], strict=True):
                torch.cuda.set_rng_state(stream, on)
                torch.cuda.empty_cache()

    def _parts(self, index: Tensor) -> list[Tensor]:
        """This process's share of a batch, in micro-batches. If the config fixes the number of
        images per BatchNorm statistic, these are the same images for any number of processes."""
        if self.config.batchnorm_images:
            return list(index.split(self.micro_batch))[self.team.rank :: self.team.size]
        return list(self.team.mine(index).split(self.micro_batch))

    def _uncompile(self, failure: str) -> None:
        self.network = self.model
        self.remark(f"compiling failed, going on without: {failure}")

    def _accumulate(self, split: Split, index: Tensor, table: Tensor, threat: Threat) -> Tensor:
        """Compute gradients of this process's share of the batch; returns its share of the loss."""
        total = torch.zeros((), device=self.device)
        for part in self._parts(index):
            x, y = split.batch(part, self.device)
            x = augment_images(x, rows(table, part, self.device), self.config.augment)
            x = x.contiguous(memory_format=self.layout)
            adv = x
            with autocast(self.config.precision, self.device):
                if threat.epsilon:
                    attacked = run_apgd(
                        # With stop_after, steps have ever fewer images: each would be compiled
                        # anew.
                        self.network if threat.stop_after is None else self.model,
                        x,
                        y,
                        epsilon=threat.of(part),
                        steps=self.config.attack.steps,
                        norm=self.config.norm,
                        trusted=True,  # augmented pixels stay in [0, 1]
                        stop_after=threat.stop_after,
                    )
                    adv = attacked.images
                    threat.note(part, is_right(attacked.clean_logits, y), attacked.held)
                loss = self.loss.loss_sum(self.network, x, adv, y) / len(index)
            loss.backward()
            total += loss.detach()
        return total


def half(batch: int) -> int:
    """The largest power of two below a batch of at least 2."""
    return 1 << (batch - 1).bit_length() - 1
