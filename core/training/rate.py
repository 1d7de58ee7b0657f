"""The learning rate at each step of a training."""

from __future__ import annotations

import math
from typing import assert_never

from core.config import RunConfig


def learning_rate(config: RunConfig, step: int, steps: int, peak: float) -> float:
    """The learning rate at `step` of `steps`: linear warm-up to `peak` over the share
    `optim.warmup` of all steps, then as `optim.rate` says."""
    warm = round(config.optim.warmup * steps)
    if step < warm:
        return peak * (step + 1) / warm
    match config.optim.rate:
        case "constant":
            return peak
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        case _:
            assert_never(config.optim.rate)
