"""Makes one evaluation of a trained run, of any kind, and writes its result.

Per-image arrays are written before the JSON record, so an evaluation with a record is complete.
"""

from __future__ import annotations

import io
import logging
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from core.config import ConfigError, EvalConfig
from core.data.splits import Split
from core.evaluation import kinds
from core.evaluation.measured import Context, Measured
from core.machine.runtime import judging
from core.store.claims import Claim
from core.store.files import exists
from core.store.folders import RunDir
from core.store.json_files import read_json
from core.training.trainer import Trainer

log = logging.getLogger("epsweep")


def remark(claim: Claim | None, text: str) -> None:
    """Log a line and, in the process that has the claim, add it to the attempt's record."""
    log.warning("%s", text)
    if claim:
        claim.note(text)


def evaluate(asked: EvalConfig, trainer: Trainer, claim: Claim | None, *, batch: int) -> None:
    """Make one evaluation, with `batch` images per forward, and write its arrays and then its
    record; does nothing if both exist. All processes of a team call this; the one with the claim
    writes."""
    run, team = trainer.run, trainer.team
    if team.share(exists(run.eval_json(asked.id)) and exists(run.eval_flags(asked.id))):
        return
    whole: Split = getattr(trainer.data, asked.split)
    split = whole.first(asked.images)
    started = time.perf_counter()
    first: tuple[int, float] | None = None  # images done when this attempt began, and when that was

    def progress(done: int) -> None:
        nonlocal first
        now = time.perf_counter()
        if first is None or done < first[0]:
            first = done, now
        if claim:
            claim.progress = _progress(done, len(split), done - first[0], now - first[1])

    context = Context(
        batch=batch,
        device=trainer.device,
        part=run.eval_flags(asked.id).with_suffix(f".{team.rank}of{team.size}.part"),
        held_out=trainer.data.val,
        team=team,
        write=run.write,
        progress=progress,
        remark=partial(remark, claim),
    )
    work = partial(kinds.measure, asked, trainer.evaluated, split)
    with judging():
        found = fitting(work, context)
    seconds = time.perf_counter() - started
    if claim is None:
        return
    flags = _write_flags(run, asked, split, found)
    run.write_json(
        run.eval_json(asked.id),
        {
            "id": asked.id,
            "config": asked.to_dict(),
            "rows": found.rows,
            "expected": found.expected,
            "n": len(split),
            "split_images": len(whole),
            "forwards": found.forwards,
            "backwards": found.backwards,
            "zero_gradient_images": 0,
            "audit": None,
            **found.extras,
            **({"metrics": found.metrics} if found.metrics else {}),
            "flags_crc32": flags,
            "seconds": round(seconds, 3),
            "commit": (read_json(run.env) or {}).get("commit"),
        },
    )
    for part in run.evals.glob(f"*{asked.id}.*.part*"):
        run.remove(part)
    log.info("evaluated %s in %.1f s: %s", asked.id, seconds, _points(found))


def _progress(done: int, images: int, lately: int, seconds: float) -> dict[str, Any]:
    """The progress to show. lately: images done in the last `seconds`, from which the remaining
    time is estimated."""
    state = {"phase": "evaluate", "share": round(done / images, 4), "images_per_s": 0.0}
    if lately:
        state["images_per_s"] = round(lately / seconds, 1)
        state["left_s"] = round((images - done) * seconds / lately, 1)
    return state


def fitting(work: Callable[[Context], Measured], context: Context) -> Measured:
    """The result of `work`, which is retried with half the batch each time memory runs out."""
    while True:
        try:
            return work(context)
        except torch.OutOfMemoryError:
            if context.batch == 1:
                raise
        context = replace(context, batch=(context.batch + 1) // 2)
        context.remark(f"out of memory: evaluating {context.batch} images at once")


def _points(found: Measured) -> str:
    counts = [
        f"{row.get('type', row['epsilon'])}: {row['correct']}/{row['n']}" for row in found.rows
    ]
    return ", ".join([*counts, *(f"{name}: {value:.4g}" for name, value in found.metrics.items())])


def _write_flags(run: RunDir, asked: EvalConfig, split: Split, found: Measured) -> int:
    """Write the per-image arrays; returns the file's CRC32. Raises ConfigError if an array does not
    have one number, or row of numbers, per image."""
    arrays: dict[str, Any] = {
        **found.arrays,
        "index": np.arange(len(split), dtype=np.int32),
        "label": split.labels.numpy().astype(np.int32),
    }
    for name, values in arrays.items():
        if not values.ndim or len(values) != len(split) or values.dtype.kind not in "iufb":
            got = f"{values.dtype} {list(values.shape)}"
            raise ConfigError(
                f"attack {asked.attack}: array '{name}': expected numbers [{len(split)}, ...], one "
                f"entry per image, got {got}"
            )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    run.write(run.eval_flags(asked.id), lambda file: file.write(buffer.getvalue()))
    return zlib.crc32(buffer.getvalue())
