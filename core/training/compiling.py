"""torch.compile and CUDA graphs for the model calls of a training step.

A matter of execution, chosen by the profile: weights keep their names and their memory, so that
checkpoints, averages and evaluations, which all use the model itself, know nothing of it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from core.errors import first_line
from core.options import Compile

_VARIANTS = 64
"""Programs per model: attack with and without gradient, and training, for each size of batch. The
default of 8 would be used up by the last, smaller part of a batch and two halvings."""


def compiled(model: nn.Module, kind: Compile) -> nn.Module:
    """What to call in place of `model`; the first call of each kind compiles. Raises RuntimeError,
    here or in a call, where compiling fails."""
    if kind == "none":
        return model
    import torch._dynamo.config as settings  # 1 s, and few runs need it

    settings.recompile_limit = max(settings.recompile_limit, _VARIANTS)
    if kind == "default":
        return _compile(model, "default")
    return _Copied(_compile(model, "reduce-overhead"))


def _compile(model: nn.Module, mode: str) -> nn.Module:
    made: Any = torch.compile(model, dynamic=False, mode=mode)
    return cast(nn.Module, made)


def reason(error: Exception) -> str:
    """Why compiling failed, in one line."""
    return first_line(error)


class _Copied(nn.Module):
    """Hands out copies of logits and gradients: a CUDA graph writes them to the same memory again
    at its next replay, while an attack still holds the last ones."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        for parameter in inner.parameters():
            if parameter.requires_grad:
                parameter.register_hook(torch.clone)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(torch.clone)  # ends with x, which an attack makes anew each time
        logits: Tensor = self.inner(x)
        return logits.clone()
