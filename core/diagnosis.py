"""What went wrong in a run, by name: signatures of failure in its curves and evaluations.

Each signature is one rule over numbers that a run has left on disk, and one sentence that gives
the rule with those numbers. Torch-free: the status of a sweep, tables and the report all use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from core.config import RunConfig
from core.records import DELAY_THRESHOLD, EXACT, delay

LATE = 0.25
"""Share of the epochs after which an adaptation is late (the paper's T1 is about a quarter)."""
FAR = 0.2
"""Accuracy (20 points) by which a run must end below its standard run to be far below it."""
LOST = 0.5
"""Share of its accuracy that a collapse takes away."""
SUDDEN = 0.1
"""Share of the epochs within which a collapse follows the first attacked epoch."""
CLEAN, ROBUST = 0.2, 0.05
"""A run is not robust if it is right on more than the first share of clean images and, of those,
keeps less than the second under attack."""
GROWN = 2.0
"""Factor over the first epoch's training loss from which training diverges."""
MASKED = 0.01
"""Share of the images of an evaluation that are right and have no gradient at all from which its
attack may be blind: adversarial accuracy may be too high by a whole point."""

Row = Mapping[str, Any]


class Finding(NamedTuple):
    """One signature: its name, and a sentence with its rule and numbers."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def of_training(
    rows: Sequence[Row], epochs: int, standard: Sequence[Row] | None = None
) -> list[Finding]:
    """The signatures in a run's metrics; most show at the end of the training only.

    epochs: how many the run has to do. standard: metrics of the standard run of the same cell,
    None (or unfinished) where there is none: what needs it says so.
    """
    checks = [_diverging(rows)]
    if len(rows) >= epochs and rows[-1]["epsilon"] > 0:
        checks += [_suboptimal(rows, epochs, standard), _unstable(rows), _not_robust(rows)]
    return [finding for finding in checks if finding]


def of_end(kind: str | None, reason: str | None) -> list[Finding]:
    """The signature in how the last attempt at a run ended."""
    return [Finding("divergence", str(reason))] if kind == "diverged" else []


def of_evaluation(record: Row) -> list[Finding]:
    """The signature in an evaluation's json."""
    blind, n = record.get("zero_gradient_images", 0), record["n"]
    if not is_masked(blind, n):
        return []
    text = (
        f"{blind} of {n} images are right and have no gradient at all ({MASKED:.0%} is suspicious)"
        f" in {record['id']}; its attack may be blind"
    )
    return [Finding("gradient masking", text)]


def is_masked(zero_gradient_images: int, n: int) -> bool:
    """Whether so many images without a gradient among n make an evaluation doubtful."""
    return zero_gradient_images > MASKED * n


def _suboptimal(rows: Sequence[Row], epochs: int, standard: Sequence[Row] | None) -> Finding | None:
    adapted = delay(rows, epochs)
    if adapted < LATE * epochs:
        return None
    when = f"adapted only at epoch {adapted} of {epochs} ({LATE:.0%} of them is late)"
    if adapted >= epochs:
        when = f"never adapted in {epochs} epochs"
    final = clean(rows[-1])
    if not standard or len(standard) < epochs:
        text = f"{when}; how far its {final:.1%} is below standard fine-tuning is unknown, as the"
        return Finding("late adaptation", f"{text} standard run of this cell is not finished here")
    gap = round(clean(standard[-1]) - final, EXACT)
    if clean(standard[-1]) <= DELAY_THRESHOLD:
        text = f"{when}, and standard fine-tuning, which ends at {clean(standard[-1]):.1%}, neither"
        return Finding("no adaptation", f"{text}: no attack is to blame")
    if gap < FAR:
        return None
    text = (
        f"{when} and ends at {final:.1%} validation accuracy, {100 * gap:.1f} points below the "
        f"{clean(standard[-1]):.1%} of standard fine-tuning ({100 * FAR:.0f} points are far)"
    )
    return Finding("suboptimal transfer", text)


def _unstable(rows: Sequence[Row]) -> Finding | None:
    start = next(i for i, row in enumerate(rows) if row["epsilon"] > 0)
    window = max(1, round(SUDDEN * len(rows)))
    before = clean(rows[start - 1]) if start else 0.0
    if before <= DELAY_THRESHOLD:  # nothing to lose
        return None
    low = min(map(clean, rows[start : start + window]))
    final = clean(rows[-1])
    if round(max(low, final) - (1 - LOST) * before, EXACT) > 0:
        return None
    text = (
        f"validation accuracy fell from {before:.1%} to {low:.1%} within {window} epochs of the "
        f"first attack at epoch {start} and ends at {final:.1%} ({LOST:.0%} lost is a collapse)"
    )
    return Finding("unstable transition", text)


def _not_robust(rows: Sequence[Row]) -> Finding | None:
    last = rows[-1]
    right, kept = clean(last), last["val_adv_correct"] / last["val_adv_images"]
    if right <= CLEAN or round(kept - ROBUST * right, EXACT) >= 0:
        return None
    text = (
        f"{right:.1%} clean but {kept:.1%} adversarial validation accuracy at "
        f"{last['val_epsilon']}, less than {ROBUST:.0%} of it, though it was trained on attacks"
    )
    return Finding("no robustness", text)


def _diverging(rows: Sequence[Row]) -> Finding | None:
    if not rows or rows[-1]["train_loss"] <= GROWN * rows[0]["train_loss"]:
        return None
    first, last = rows[0]["train_loss"], rows[-1]["train_loss"]
    text = f"the training loss grew from {first:.3g} to {last:.3g} (more than {GROWN:g} times)"
    return Finding("divergence", f"{text} by epoch {rows[-1]['epoch']}")


def clean(row: Row) -> float:
    """Validation clean accuracy in [0, 1]."""
    return float(row["val_clean_correct"] / row["val_clean_images"])


def twin(config: RunConfig, schedule: str) -> RunConfig:
    """The run that differs from this one in its schedule, and what follows from that, alone."""
    return RunConfig.parse({**config.to_dict(), "schedule": schedule})


def standards(configs: Iterable[RunConfig]) -> dict[RunConfig, RunConfig]:
    """The standard runs among these, as `standard_of` looks them up."""
    return {_bare(config): config for config in configs if config.schedule.kind == "standard"}


def standard_of(config: RunConfig, known: Mapping[RunConfig, RunConfig]) -> RunConfig:
    """The standard run of the same cell: the one in `known`, else the one that would be it."""
    plain = twin(config, "standard")
    return known.get(_bare(plain), plain)


def _bare(config: RunConfig) -> RunConfig:
    """Without what may differ between standard runs of one cell: how validation attacks them."""
    plain = RunConfig.model_fields["validation"].default
    return config.model_copy(update={"validation": plain, "norm": "linf"})
