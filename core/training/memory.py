"""Measures how much memory a training step needs, for dry runs.

No GPU is needed: autograd reports each tensor that it saves for the backward pass, and their sizes
are the same on every device.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from core.machine.runtime import is_halved
from core.training.trainer import Trainer

COPIES = 3
"""Copies of every trained weight: its gradient and AdamW's two moments."""


class Meter:
    """Counts the bytes that training forwards of `model` save, each storage once, until `take`.

    Forwards of attacks save less, since no weight needs a gradient, and are ignored.
    """

    def __init__(self, model: nn.Module) -> None:
        self.images = 0
        self.saved: dict[int, int] = {}  # address -> bytes
        self._hooks: saved_tensors_hooks | None = None
        held = list(chain(model.parameters(), model.buffers()))
        self._held = {tensor.untyped_storage().data_ptr() for tensor in held}
        # Autocast saves copies of the weights, which can be recognised only by their size.
        self._casts = {tensor.numel() * torch.bfloat16.itemsize for tensor in held}
        model.register_forward_pre_hook(self._enter)
        model.register_forward_hook(self._leave, always_call=True)

    def _enter(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters()):
            self.images = len(inputs[0])
            self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)
            self._hooks.__enter__()

    def _leave(self, *_: object) -> None:
        if self._hooks:
            self._hooks.__exit__()
            self._hooks = None

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        cast = tensor.dtype == torch.bfloat16 and storage.nbytes() in self._casts
        if not cast and storage.data_ptr() not in self._held:
            self.saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its graph alive

    def take(self) -> float:
        """Bytes per image saved since the last call, over all forwards (TRADES has two)."""
        found = sum(self.saved.values()) / max(1, self.images)
        self.saved = {}
        return found


def watch(trainer: Trainer) -> None:
    """From now on, record in the run's memory.json what its largest step needs, in bytes."""
    model, meter = trainer.model, Meter(trainer.model)
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    weights, trained = sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)
    copies = weights if trainer.step.average else 0
    copies += weights // 2 if is_halved(trainer.config.precision) else 0
    found = {"fixed": weights + COPIES * trained + copies, "per_image": 0.0}

    def stepped(*_: object) -> None:
        found["per_image"] = max(found["per_image"], meter.take())
        trainer.run.write_json(trainer.run.memory, found)

    trainer.step.optimizer.register_step_post_hook(stepped)
