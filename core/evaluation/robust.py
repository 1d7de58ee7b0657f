"""Robust accuracy by APGD: runs a search for critical strengths and turns it into a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, assert_never

from torch import nn

from core.config.evaluation import AtStrengths
from core.config.evaluation_kinds import RobustAccuracy
from core.data.splits import Split
from core.evaluation import audit, queue
from core.evaluation.measured import Context, Measured
from core.evaluation.opinion import second_opinion
from core.store.records import ResultRow, curve, expected_over
from core.store.snapshot import Snapshot


def measure(asked: RobustAccuracy, model: nn.Module, split: Split, context: Context) -> Measured:
    """Run the evaluation in its mode, with an audit if that is `fast`, and a second opinion if
    `asked.audit`."""
    found = search(asked, model, split, context, mode=asked.mode, snapshot=context.snapshot())
    match asked.mode:
        case "exact":
            extras: dict[str, Any] = {}
        case "fast":
            checked = audit.check(
                found,
                model,
                split,
                asked.levels,
                steps=asked.steps,
                norm=asked.norm,
                **context.means,
                failed=context.remark,
                progress=context.progress,
                snapshot=context.snapshot("exact"),
            )
            extras = {"audit": asdict(checked)}
        case _:
            assert_never(asked.mode)
    if asked.audit:
        extras["opinion"] = second_opinion(asked, found, model, split, context)
    return measured(asked, found, **extras)


def search(
    asked: AtStrengths,
    model: nn.Module,
    split: Split,
    context: Context,
    *,
    mode: queue.Mode = "exact",
    snapshot: Snapshot | None = None,
) -> queue.Search:
    """The search that `asked` describes; continued from `snapshot` if that has a state."""
    return queue.search(
        model,
        split,
        asked.levels,
        steps=asked.steps,
        norm=asked.norm,
        **context.means,
        progress=context.progress,
        mode=mode,
        snapshot=snapshot,
    )


def measured(asked: AtStrengths, found: queue.Search, **extras: Any) -> Measured:
    """The record of a search: a row per strength, and for every image its critical level and
    the class it is taken for from there on."""
    rows = [
        ResultRow(
            attack=asked.name,
            norm=asked.norm,
            epsilon=str(epsilon),
            n=len(found.critical),
            correct=found.correct(level),
        )
        for level, epsilon in enumerate(asked.epsilons)
    ]
    return Measured(
        rows,
        {"critical": found.critical, "taken": found.taken},
        expected=_expected(asked, rows),
        forwards=found.forwards,
        backwards=found.backwards,
        extras={"zero_gradient_images": found.zero_gradient_images, **extras},
    )


def _expected(asked: AtStrengths, rows: Sequence[ResultRow]) -> float | None:
    """Expected accuracy over all strengths; None if there is only one."""
    if len(rows) < 2 and asked.prior is None:
        return None
    return expected_over(curve(rows), asked.prior)
