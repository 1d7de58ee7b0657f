"""Signatures of failure, such as suboptimal transfer, in a run's curves and evaluations.

Each signature is a rule over numbers that a run has stored, with a sentence that states the rule
and these numbers. Torch-free, since status, tables and the report use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from core.config import RunConfig, Strength
from core.config.strength import NO_ATTACK
from core.store.records import EXACT, FEWEST, chance, classes_in, delay, threshold

LATE = 0.25
"""Share of the epochs after which adaptation is late (the paper's T1 is about a quarter)."""
FAR = 0.2
"""A run that adapts late is far below its standard run if its accuracy is this much lower (20
points)."""
VERY_FAR = 0.5
"""The same limit for a run that adapts in time, since robustness alone may cost 20 points."""
LOST = 0.5
"""Share of a run's accuracy above chance whose loss is a collapse."""
SUDDEN = 0.1
"""Share of the epochs, after the first attack, within which such a loss is a collapse."""
CLEAN, ROBUST = 0.2, 0.05
"""A run is not robust if its clean accuracy is above CLEAN and the threshold of adaptation, and its
adversarial accuracy is below the share ROBUST of it."""
GROWN = 2.0
"""Training diverges if its loss exceeds that of the first epoch by more than this factor."""
MASKED = 0.01
"""Gradients may be masked if more than this share of an evaluation's images are right without a
usable gradient: adversarial accuracy may then be too high by a whole point."""

Row = Mapping[str, Any]


class Finding(NamedTuple):
    """A signature found in a run: its name, and a sentence with its rule and numbers."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def of_training(
    rows: Sequence[Row],
    epochs: int,
    standard: Sequence[Row] | None = None,
    classes: int | None = None,
) -> list[Finding]:
    """The signatures in a run's metrics; most can be seen only after the last epoch.

    epochs: number of epochs of the run. standard: metrics of the standard run of the same cell, or
    None; checks that need it report it if it is missing or unfinished. classes: number of classes,
    by default that of the rows; if both are None, the paper's thresholds are used.
    """
    classes = classes or classes_in(rows)
    ended = clean(standard[-1]) if standard and len(standard) >= epochs else None
    return [
        *of_transfer(transfer_of(rows, epochs, classes), ended),
        *of_course(rows, epochs, classes),
    ]


def of_course(rows: Sequence[Row], epochs: int, classes: int | None) -> list[Finding]:
    """The signatures in a run's metrics that need no standard run."""
    checks = [_diverging(rows)]
    if rows and len(rows) >= epochs and rows[-1]["epsilon"] > 0:
        checks += [_unstable(rows, classes), _trained_for_nothing(rows[-1], classes)]
    return [finding for finding in checks if finding]


class Transfer(NamedTuple):
    """What is compared with standard fine-tuning after an adversarial training has finished."""

    adapted: int
    """Adaptation delay in epochs."""
    epochs: int
    final: float
    """Clean validation accuracy after the last epoch, in [0, 1]."""
    classes: int | None


def transfer_of(rows: Sequence[Row], epochs: int, classes: int | None) -> Transfer | None:
    """The numbers to compare; None if the run is not finished or ends without an attack."""
    if not rows or len(rows) < epochs or rows[-1]["epsilon"] <= 0:
        return None
    return Transfer(delay(rows, epochs, classes), epochs, clean(rows[-1]), classes)


def of_end(kind: str | None, reason: str | None) -> list[Finding]:
    """The signature that shows in how a run's last attempt failed: the kind and the reason."""
    return [Finding("divergence", str(reason))] if kind == "diverged" else []


def of_evaluation(
    record: Row,
    epsilon_g: Strength = NO_ATTACK,
    classes: int | None = None,
) -> list[Finding]:
    """The signatures in an evaluation's record. epsilon_g: strength that the run was trained
    against, 0 for standard fine-tuning. classes: None means the paper's thresholds."""
    found = []
    blind, n = record.get("zero_gradient_images", 0), record["n"]
    if is_masked(blind, n):
        text = (
            f"{blind} of {n} images are right and have no usable gradient ({MASKED:.0%} is "
            f"suspicious) in {record['id']}; its attack may be blind"
        )
        found.append(Finding("gradient masking", text))
    points = [row for row in record.get("rows", ()) if "type" not in row]
    judged = dict.fromkeys((Strength.parse("0", epsilon_g.norm), epsilon_g))
    accuracy = {
        strength: row["correct"] / row["n"]
        for row in points
        if (strength := Strength.parse(row["epsilon"], row["norm"])) in judged
    }
    if epsilon_g and len(accuracy) == len(judged):
        where = f"accuracy at {epsilon_g} in {record['id']}"
        right, kept = (accuracy[strength] for strength in judged)
        found += [one for one in (_not_robust(right, kept, where, classes),) if one]
    return found


def is_masked(zero_gradient_images: int, n: int) -> bool:
    """Whether too many of n images lack a usable gradient for an evaluation to be trusted."""
    return zero_gradient_images > MASKED * n


def of_transfer(run: Transfer | None, standard: float | None) -> list[Finding]:
    """The signature of late or poor adaptation. standard: final validation accuracy in [0, 1] of
    the standard run of the same cell, None if that is not finished."""
    if run is None:
        return []
    adapted, epochs, final, classes = run
    late, limit = adapted >= LATE * epochs, threshold(classes)
    rule = f" to {limit:.1%} ({classes} classes)" if classes and classes < FEWEST else ""
    when = f"adapted{rule} at epoch {adapted} of {epochs}, in time,"
    if late:
        when = f"adapted{rule} only at epoch {adapted} of {epochs} ({LATE:.0%} of them is late)"
    if adapted >= epochs:
        when = f"never adapted{rule} in {epochs} epochs"
    if standard is None:
        text = f"{when} and ends at {final:.1%}; how far below standard fine-tuning is unknown,"
        text += " since the standard run of this cell is not finished here"
        return [Finding("late adaptation", text)] if late else []
    gap = round(standard - final, EXACT)
    if late and standard <= limit:
        text = f"{when}; standard fine-tuning, which ends at {standard:.1%}, did not adapt"
        return [Finding("no adaptation", f"{text}: the attack is not the cause")]
    far = FAR if late else VERY_FAR
    if gap < far:
        return []
    text = (
        f"{when} and ends at {final:.1%} validation accuracy, {100 * gap:.1f} points below the "
        f"{standard:.1%} of standard fine-tuning ({100 * far:.0f} points are far)"
    )
    return [Finding("suboptimal transfer", text)]


def _unstable(rows: Sequence[Row], classes: int | None) -> Finding | None:
    start = next(i for i, row in enumerate(rows) if row["epsilon"] > 0)
    window = max(1, round(SUDDEN * len(rows)))
    before = clean(rows[start - 1]) if start else 0.0
    if before <= threshold(classes):  # nothing to lose
        return None
    low = min(map(clean, rows[start : start + window]))
    final, guessed = clean(rows[-1]), chance(classes)
    if round(max(low, final) - guessed - (1 - LOST) * (before - guessed), EXACT) > 0:
        return None
    text = (
        f"validation accuracy fell from {before:.1%} to {low:.1%} within {window} epochs of the "
        f"first attack at epoch {start} and ends at {final:.1%} ({LOST:.0%} lost is a collapse)"
    )
    return Finding("unstable transition", text)


def _trained_for_nothing(last: Row, classes: int | None) -> Finding | None:
    kept = last["val_adv_correct"] / last["val_adv_images"]
    where = f"validation accuracy at {last['val_epsilon']}"
    return _not_robust(clean(last), kept, where, classes)


def _not_robust(right: float, kept: float, where: str, classes: int | None) -> Finding | None:
    """The signature of missing robustness; right, kept: clean and adversarial accuracy, [0, 1]."""
    least = max(CLEAN, threshold(classes))
    if right <= least or round(kept - ROBUST * right, EXACT) >= 0:
        return None
    text = (
        f"{right:.1%} clean but {kept:.1%} adversarial {where}, less than {ROBUST:.0%} of clean, "
        "though it was trained on attacks"
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


def twin(config: RunConfig, schedule: str | Mapping[str, Any]) -> RunConfig:
    """A run that differs from this one only in its schedule and what follows from it."""
    return RunConfig.parse({**config.to_dict(), "schedule": schedule})


def standards(configs: Iterable[RunConfig]) -> dict[RunConfig, RunConfig]:
    """The standard runs among these, in the form that `standard_of` takes."""
    return {_bare(config): config for config in configs if config.schedule.kind == "standard"}


def standard_of(config: RunConfig, known: Mapping[RunConfig, RunConfig]) -> RunConfig:
    """The standard run of the same cell: the one in `known`, else its config."""
    plain = twin(config, "standard")
    return known.get(_bare(plain), plain)


def _bare(config: RunConfig) -> RunConfig:
    """The config without what may differ between standard runs of a cell: validation's attack."""
    plain = RunConfig.model_fields["validation"].default
    return config.model_copy(update={"validation": plain, "norm": "linf"})
