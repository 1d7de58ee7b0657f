"""Convolutions that CPUs compute wrongly, and how training avoids them: layout and precision.

Both faults are oneDNN's (3.12, in torch 2.13); glibc's malloc check and NaN in freed memory show
them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NARROW = 16
"""Channels in a vector of AVX-512."""


def layout(model: nn.Module) -> torch.memory_format:
    """channels_last for convolutional networks; a transformer's one convolution, over patches,
    gains nothing by it. Contiguous, too, for networks in which channels_last damages memory."""
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if len(found) < 2 or any(map(_overruns, found)):
        return torch.contiguous_format
    return torch.channels_last


def _overruns(conv: nn.Conv2d) -> bool:
    """Whether the weight gradient writes past its buffer in channels_last: 1x1, strided, of fewer
    channels than a vector holds (the stems of MobileOne and FastViT: 3 channels, stride 2)."""
    narrow = conv.in_channels // conv.groups < NARROW
    return conv.kernel_size == (1, 1) and max(conv.stride) > 1 and narrow


def guard(model: nn.Module) -> None:
    """For bf16 autocast on CPUs: strided convolutions compute in float32 on feature maps that are
    narrower than their stride (1x1 at stride 2). Their weight gradients in bf16 are made of
    uninitialised memory, in either layout: other numbers each time, or NaN."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            _Float32(module)


class _Float32:
    """Hooks of one convolution."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self._off: list[Any] = []
        conv.register_forward_pre_hook(self._enter)
        conv.register_forward_hook(self._leave, always_call=True)

    def _enter(self, conv: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        (x,) = inputs
        if x.shape[-1] >= conv.stride[-1]:  # type: ignore[index]
            return None
        self._off.append(torch.autocast("cpu", enabled=False))
        self._off[-1].__enter__()
        return (x.float(),)

    def _leave(self, *_: object) -> None:
        if self._off:
            self._off.pop().__exit__(None, None, None)
