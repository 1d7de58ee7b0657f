"""What measures each kind of evaluation, imported when one is made."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from core.config import EvalConfig
from core.data.splits import Split
from core.evaluation.measured import Context, Measured

MEASURES = {
    "apgd-ce": "core.evaluation.robust:measure",
    "autoattack": "core.evaluation.autoattack:measure",
    "corruptions": "core.evaluation.corrupted:measure",
}


def measure(asked: EvalConfig, model: nn.Module, split: Split, context: Context) -> Measured:
    """Make one evaluation of a model in evaluation mode. All processes of a team call this."""
    module, _, name = MEASURES[asked.attack].partition(":")
    how: Callable[..., Any] = getattr(import_module(module), name)
    found: Measured = how(asked, model, split, context)
    return found
