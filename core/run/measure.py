"""One evaluation of a trained run: measured, in as many pieces as it takes, and written.

Flags per image first, then the rows: where the rows are, the evaluation is whole.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from core.config import EvalConfig, show_strength
from core.data.splits import Split
from core.evaluation import audit, autoattack, corrupted, queue
from core.machine.runtime import judging
from core.store import records
from core.store.claims import Claim
from core.store.folders import RunDir, exists, read_json
from core.store.snapshot import Snapshot
from core.training.trainer import Trainer

log = logging.getLogger("epsweep")
_T = TypeVar("_T")


def remark(claim: Claim | None, text: str) -> None:
    """A line for the log and, in the process that has the claim, for the record of the attempt."""
    log.warning("%s", text)
    if claim:
        claim.note(text)


def evaluate(asked: EvalConfig, trainer: Trainer, claim: Claim | None, *, batch: int) -> None:
    """Run one evaluation, with `batch` images at once, and write its flags, then its rows; nothing
    if it is on disk. All processes of a team call this; the one with the claim writes."""
    run, team = trainer.run, trainer.team
    if team.share(exists(run.eval_json(asked.id)) and exists(run.eval_flags(asked.id))):
        return
    whole: Split = getattr(trainer.data, asked.split)
    split = whole.first(asked.images)
    started = time.perf_counter()
    first: tuple[int, float] | None = None  # what was done already when this attempt began

    def progress(done: int) -> None:
        nonlocal first
        now = time.perf_counter()
        if first is None or done < first[0]:
            first = done, now
        if claim:
            claim.progress = _progress(done, len(split), done - first[0], now - first[1])

    work = partial(_measure, asked, trainer, split, claim, progress)
    with judging():
        found, checked = _fitting(work, batch, claim)
    seconds = time.perf_counter() - started
    if claim is None:
        return
    _write_flags(run, asked, split, found)
    rows = _rows(asked, found, len(split))
    run.write_json(
        run.eval_json(asked.id),
        {
            "id": asked.id,
            "config": asked.to_dict(),
            "rows": rows,
            "expected": _expected(asked, rows),
            "n": len(split),
            "split_images": len(whole),
            "forwards": found.forwards,
            "backwards": found.backwards,
            "zero_gradient_images": found.zero_gradient_images,
            "audit": asdict(checked) if checked else None,
            "seconds": round(seconds, 3),
            "commit": (read_json(run.env) or {}).get("commit"),
        },
    )
    for part in run.evals.glob(f"*{asked.id}.*.part*"):
        run.remove(part)
    log.info("evaluated %s in %.1f s: %s", asked.id, seconds, _points(rows))


def _progress(done: int, images: int, lately: int, seconds: float) -> dict[str, Any]:
    """lately: how many of those done took so many seconds; by their speed the others are told."""
    state = {"phase": "evaluate", "share": round(done / images, 4), "images_per_s": 0.0}
    if lately:
        state["images_per_s"] = round(lately / seconds, 1)
        state["left_s"] = round((images - done) * seconds / lately, 1)
    return state


def _fitting(work: Callable[[int], _T], batch: int, claim: Claim | None) -> _T:
    """What `work` gives with this many images at once, or with half as many as often as memory
    runs out."""
    while True:
        try:
            return work(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        batch = (batch + 1) // 2
        remark(claim, f"out of memory: evaluating {batch} images at once")


def _measure(
    asked: EvalConfig,
    trainer: Trainer,
    split: Split,
    claim: Claim | None,
    progress: Callable[[int], None],
    batch: int,
) -> tuple[queue.Search, audit.Audit | None]:
    """The evaluation itself; with its audit where its mode needs one."""
    model, strengths = trainer.evaluated, [float(epsilon) for epsilon in asked.epsilons]
    run, team = trainer.run, trainer.team
    how: dict[str, Any] = {"norm": asked.norm, "batch": batch, "device": trainer.device}
    how["team"] = team
    if asked.attack == "corruptions":
        how = {"batch": batch, "device": trainer.device, "progress": progress, "team": team}
        kind: Any = {"severity": asked.severity, "per_image": asked.per_image}
        return corrupted.search(model, split, **kind, **how), None
    # What is known so far of this process's share; that of a team of another size is another.
    begun = run.eval_flags(asked.id).with_suffix(f".{team.rank}of{team.size}.part")
    look = partial(
        queue.search,
        model,
        split,
        strengths,
        steps=asked.steps,
        mode=asked.mode,
        **how,
    )
    if asked.attack == "autoattack":
        how |= {"ledger": autoattack.Ledger(begun, run.write), "progress": progress}
        return autoattack.evaluate(look, model, split, strengths, **how), None
    found = look(snapshot=Snapshot(begun, run.write), progress=progress)
    if asked.mode == "exact":
        return found, None
    how |= {"progress": progress, "failed": partial(remark, claim)}
    how["snapshot"] = Snapshot(begun.with_suffix(".exact.part"), run.write)
    return found, audit.check(found, model, split, strengths, steps=asked.steps, **how)


def _rows(asked: EvalConfig, found: queue.Search, images: int) -> list[records.ResultRow]:
    if isinstance(found, corrupted.Corrupted):
        return [
            {
                "attack": asked.name,
                "norm": asked.norm,
                "epsilon": "0",
                "type": kind,
                "n": n,
                "correct": right,
            }
            for kind, (right, n) in found.counts().items()
        ]
    return [
        records.ResultRow(
            attack=asked.name,
            norm=asked.norm,
            epsilon=show_strength(epsilon, asked.norm),
            n=images,
            correct=found.correct(level),
        )
        for level, epsilon in enumerate(asked.epsilons)
    ]


def _expected(asked: EvalConfig, rows: Sequence[records.ResultRow]) -> float | None:
    """Expected accuracy over the evaluation's whole grid; None where that is one point."""
    if asked.attack == "corruptions" or (len(rows) < 2 and asked.prior is None):
        return None
    return records.expected_over(records.curve(rows), asked.prior)


def _points(rows: Sequence[records.ResultRow]) -> str:
    return ", ".join(
        f"{row.get('type', row['epsilon'])}: {row['correct']}/{row['n']}" for row in rows
    )


def _write_flags(run: RunDir, asked: EvalConfig, split: Split, found: queue.Search) -> None:
    flags: dict[str, Any] = {
        "critical": found.critical,
        "index": np.arange(len(split), dtype=np.int32),
        "label": split.labels.numpy().astype(np.int32),
    }
    if isinstance(found, corrupted.Corrupted):
        flags["right"] = found.right
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **flags)
    run.write(run.eval_flags(asked.id), lambda file: file.write(buffer.getvalue()))
