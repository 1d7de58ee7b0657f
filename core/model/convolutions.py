"""Works around two faults of convolutions on CPUs, by the choice of layout and precision.

Both are in oneDNN 3.12 (torch 2.13); glibc's malloc check, and NaN written into freed memory, make
them visible.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NARROW = 16
"""Number of float32 channels in an AVX-512 register."""


def layout(model: nn.Module) -> torch.memory_format:
    """The memory format for a network: channels_last if it is convolutional, else contiguous, since
    a transformer's single patch convolution gains nothing. Contiguous, too, if channels_last would
    corrupt memory."""
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if len(found) < 2 or any(map(_overruns, found)):
        return torch.contiguous_format
    return torch.channels_last


def _overruns(conv: nn.Conv2d) -> bool:
    """Whether the weight gradient writes past its buffer in channels_last: for strided 1x1
    convolutions of fewer than NARROW channels (stems of MobileOne and FastViT: 3, stride 2)."""
    narrow = conv.in_channels // conv.groups < NARROW
    return conv.kernel_size == (1, 1) and max(conv.stride) > 1 and narrow


def guard(model: nn.Module) -> None:
    """For bf16 autocast on CPUs: make strided convolutions use float32 on feature maps narrower
    than their stride (1x1 at stride 2). In bf16, in either layout, their weight gradients contain
    uninitialised memory: different numbers each time, or NaN."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            _Float32(module)


class _Float32:
    """Hooks that switch autocast off around the forward of a convolution."""

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
