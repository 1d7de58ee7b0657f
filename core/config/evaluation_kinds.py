"""Parses a mapping into an evaluation of the kind that it names, or into a list of its problems."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from core.config import own_code
from core.config.evaluation import (
    USUAL,
    AutoAttack,
    Corruptions,
    EvalConfig,
    MinimalNorm,
    Problems,
    RobustAccuracy,
)
from core.config.values import problems
from core.errors import ConfigError, first_line

KINDS: Mapping[str, type[EvalConfig]] = {
    "apgd-ce": RobustAccuracy,
    "autoattack": AutoAttack,
    "fmn": MinimalNorm,
    "corruptions": Corruptions,
}
_ELSEWHERE = {
    "norm": "linf",
    "steps": 10,
    "epsilons": ["0"],
    "prior": None,
    "mode": "exact",
    "audit": False,
    "margins": False,
    "pseudo_images": None,
    "severity": 3,
    "per_image": "one",
}
"""Values that older records store for fields that belong to other kinds; accepted and ignored."""


def _kind(named: object) -> type[EvalConfig]:
    """The class of a kind: a built-in one by its name, a user-defined one by its import path.
    Raises ConfigError."""
    if isinstance(named, str) and named in KINDS:
        return KINDS[named]
    if not isinstance(named, str) or not own_code.is_own(named):
        known = ", ".join(f"'{name}'" for name in KINDS)
        raise ConfigError(
            f"expected {known} or the import path of your own class (MODULE:NAME), got {named!r}"
        )
    kind = own_code.load(named)
    if not isinstance(kind, type) or not issubclass(kind, EvalConfig):
        raise ConfigError(f"{named}: expected a subclass of core.config.EvalConfig, got {kind!r}")
    if lacks := sorted({*kind.__abstractmethods__} | {"measure"} - {*dir(kind)}):
        raise ConfigError(f"{named}: has no method '{lacks[0]}'")
    return kind


def understood(data: object) -> EvalConfig | Problems:
    """The evaluation that a mapping describes, or everything that is wrong with it."""
    if not isinstance(data, Mapping):
        return [("", f"expected a mapping such as {{attack: {USUAL}}}, got {data!r}")]
    named = data.get("attack", USUAL)
    try:
        kind = _kind(named)
        if own_code.is_own(named):
            stored = {name: value for name, value in data.items() if name != "metrics"}
            data = {"code": own_code.digests([named])} | stored
        elif data.get("code"):
            return [("code", "code: is computed, for kinds of your own only; remove it")]
    except ConfigError as error:
        return [("attack", f"attack: {error.lines[0]}")]
    foreign = {name for name in data if name in _ELSEWHERE and name not in kind.model_fields}
    found = [
        (name, f"{name}: does not apply to attack '{named}', remove it")
        for name in data
        if name in foreign and data[name] != _ELSEWHERE[name]
    ]
    own = {name: value for name, value in data.items() if name not in foreign}
    try:
        evaluation = kind.model_validate(own)
    except ValidationError as error:
        return found + problems(error, kind)
    return found or _untried(evaluation) or evaluation


def _untried(evaluation: EvalConfig) -> Problems:
    """Call what planning calls of a user-defined class, so that errors in it are reported with
    their place in the grid."""
    if not evaluation.code:
        return []
    try:
        float(evaluation.passes(1, 0.5))
        evaluation.shrunk().to_dict()
    except Exception as error:  # it is the user's code
        told = f"{type(error).__name__}: {first_line(error)}"
        return [("attack", f"attack: {evaluation.attack}: passes() or shrunk() fails: {told}")]
    return []
