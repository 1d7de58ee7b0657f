"""The function that measures each kind of evaluation, imported when needed."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from core.attack.apgd import attacking
from core.config import ConfigError, EvalConfig, own_code
from core.data.splits import Split
from core.evaluation.measured import Context, Measured

MEASURES = {
    "apgd-ce": "core.evaluation.robust:measure",
    "autoattack": "core.evaluation.autoattack:measure",
    "fmn": "core.evaluation.minimal:measure",
    "corruptions": "core.evaluation.corrupted:measure",
}
COUNTED = ("accuracy", "clean", "adv", "expected")
"""Metrics that tables compute from rows."""


def measure(asked: EvalConfig, model: nn.Module, split: Split, context: Context) -> Measured:
    """Make one evaluation. All processes of a team call this. A user-defined kind gets the model as
    core.attack.apgd.attacking prepares it. Raises ConfigError if it does not return a Measured
    with the metrics that its class declares."""
    if not own_code.is_own(asked.attack):
        module, _, name = MEASURES[asked.attack].partition(":")
        found: Measured = getattr(import_module(module), name)(asked, model, split, context)
        return found
    with attacking(model) as target:
        given = asked.measure(target, split, context)  # type: ignore[attr-defined]
    return _checked(asked, given)


def _checked(asked: EvalConfig, found: object) -> Measured:
    if not isinstance(found, Measured):
        wanted = "core.evaluation.measured.Measured"
        raise ConfigError(f"attack {asked.attack}: measure must return a {wanted}, got {found!r}")
    counted = {*COUNTED} if found.rows else set()
    if {*asked.metrics} - counted != {*found.metrics}:
        given = ", ".join(found.metrics) or "none"
        raise ConfigError(
            f"attack {asked.attack}: its class declares the metrics {', '.join(asked.metrics)}, "
            f"but measure returned {given} and {len(found.rows)} rows"
        )
    return found
