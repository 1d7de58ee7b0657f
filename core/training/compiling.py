"""torch.compile and CUDA graphs for the model calls of a training step.

The profile chooses this, since it affects only execution: weights keep their names and memory, so
checkpoints, averages and evaluations use the model itself and are not affected.
"""

from __future__ import annotations

from typing import Any, assert_never, cast

import torch
from torch import Tensor, nn

from core.options import Compile

_VARIANTS = 64
"""Maximum number of compiled variants per model: attack with and without gradient, and training,
for each batch size. A smaller last micro-batch and two halvings would exceed torch's default of 8.
"""


def compiled(model: nn.Module, kind: Compile) -> nn.Module:
    """A module to call instead of `model`; it compiles at the first call with each shape. Raises
    RuntimeError, here or in a call, if compiling fails."""
    match kind:
        case "none":
            return model
        case "default":
            return _compile(model, "default")
        case "cuda_graphs":
            return _Copied(_compile(model, "reduce-overhead"))
        case _:
            assert_never(kind)


def _compile(model: nn.Module, mode: str) -> nn.Module:
    import torch._dynamo.config as settings  # 1 s, and few runs need it

    settings.recompile_limit = max(settings.recompile_limit, _VARIANTS)
    made: Any = torch.compile(model, dynamic=False, mode=mode)
    return cast(nn.Module, made)


class _Copied(nn.Module):
    """Returns copies of logits and gradients: a CUDA graph overwrites its outputs at its next
    replay, while an attack may still use them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        for parameter in inner.parameters():
            if parameter.requires_grad:
                parameter.register_hook(torch.clone)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(torch.clone)  # x is new in each call, so its hook goes with it
        logits: Tensor = self.inner(x)
        return logits.clone()
