"""One run from config to result: data, model, training, evaluations, result.json.

`execute` is what a cluster node, the local executor and `sweep run` all call.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from core import audit, autoattack, data, evaluate, models, records, runtime
from core.claims import Claim, NotOwnedError, now
from core.config import EvalConfig, RunConfig, rounded, show_strength
from core.rundir import RunDir, Store, read_json, write_atomic, write_json
from core.tracking import Mode, Tracker
from core.train import Monitor, Trainer

log = logging.getLogger("epsweep")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a run executes; nothing here changes its results."""

    tracking: Mode = "auto"
    group: str | None = None
    """Name of the sweep, for W&B."""
    micro_batch: int | None = None
    """Images per forward; None means the whole batch at once."""
    eval_batch: int = 256
    stage: Path | None = None
    """A folder on the node's own disk to copy the prepared data to."""
    images: int | None = None
    """Cut every split to its first images; for miniatures, whose numbers mean nothing."""


def execute(
    config: RunConfig,
    evals: Sequence[EvalConfig],
    store: Store,
    claim: Claim,
    options: Options,
) -> dict[str, Any]:
    """Train (or go on training) one run, evaluate it, and write its result; returns that.

    What is on disk already is not done again. Raises ConfigError, DivergedError, NotOwnedError,
    OSError and whatever the model raises; the run folder stays resumable.
    """
    run, device = store.run(config.id), runtime.device()
    run.write_config(config.to_dict())
    write_json(run.env, runtime.describe())
    claim.progress = {"phase": "load data"}
    dataset = data.load(config, store, stage=options.stage)
    if options.images:
        dataset = dataset.first(options.images)
    model = models.build(config, dataset.classes, store)
    monitor = Monitor(owned=claim.held, remark=lambda text: _remark(claim, text))
    trainer = Trainer(
        config,
        dataset,
        model,
        run,
        device=device,
        micro_batch=options.micro_batch,
        monitor=monitor,
    )
    tracker = Tracker.start(
        config,
        run,
        mode=options.tracking,
        group=options.group,
        on_failure=lambda text: _remark(claim, text),
    )

    def finished_epoch(row: records.MetricsRow) -> None:
        log.info("%s", _sentence(row, config))
        tracker.log(trainer.rows)

    monitor.epoch = finished_epoch
    monitor.progress = lambda state: setattr(claim, "progress", state)
    try:
        trainer.fit()
        tracker.log(trainer.rows)
        for item in evals:
            _evaluate(item, trainer, dataset, run, claim, options)
        trainer.finish()
        result = _write_result(trainer, evals, run, claim)
        tracker.summarise(_summary(result, evals, config, run))
    except BaseException:
        tracker.finish(failed=True)
        raise
    tracker.finish()
    return result


def _remark(claim: Claim, text: str) -> None:
    log.warning("%s", text)
    claim.note(text)


def _sentence(row: records.MetricsRow, config: RunConfig) -> str:
    clean = f"{row['val_clean_correct']}/{row['val_clean_images']}"
    adversarial = f"{row['val_adv_correct']}/{row['val_adv_images']}"
    return (
        f"epoch {row['epoch'] + 1}/{config.epochs}: eps {rounded(row['epsilon'], config.norm)}, "
        f"train loss {row['train_loss']:.3f}, val clean {clean}, "
        f"val adv {adversarial} at {row['val_epsilon']}, {row['images_per_s']:.0f} images/s"
    )


def _evaluate(
    asked: EvalConfig,
    trainer: Trainer,
    dataset: data.Dataset,
    run: RunDir,
    claim: Claim,
    options: Options,
) -> None:
    """Run one evaluation and write its flags, then its rows; nothing if it is on disk."""
    if run.eval_json(asked.id).exists() and run.eval_flags(asked.id).exists():
        return
    whole: data.Split = getattr(dataset, asked.split)
    split = whole.first(asked.images)
    started = time.perf_counter()

    def progress(done: int) -> None:
        speed = done / (time.perf_counter() - started)
        share = round(done / len(split), 4)
        state = {"phase": "evaluate", "share": share, "images_per_s": round(speed, 1)}
        if done:
            state["left_s"] = round((len(split) - done) / speed, 1)
        claim.progress = state

    measure = partial(_measure, asked, trainer, split, run, claim, progress)
    found, checked = _fitting(measure, options.eval_batch, claim)
    seconds = time.perf_counter() - started
    _must_own(run, claim)
    _write_flags(run, asked, split, found)
    rows = [
        records.ResultRow(
            attack=f"{asked.attack}-{asked.steps}",
            norm=asked.norm,
            epsilon=show_strength(epsilon, asked.norm),
            n=len(split),
            correct=found.correct(level),
        )
        for level, epsilon in enumerate(asked.epsilons)
    ]
    write_json(
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
    _ledger(run, asked).file.unlink(missing_ok=True)
    log.info("evaluated %s in %.1f s: %s", asked.id, seconds, _points(rows))


def _must_own(run: RunDir, claim: Claim) -> None:
    if not claim.held():
        raise NotOwnedError(f"{run.id}: another process has taken this run over")


def _fitting(work: Callable[[int], _T], batch: int, claim: Claim) -> _T:
    """What `work` gives with this many images at once, or with half as many as often as memory
    runs out."""
    while True:
        try:
            return work(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        batch = (batch + 1) // 2
        _remark(claim, f"out of memory: evaluating {batch} images at once")


def _ledger(run: RunDir, asked: EvalConfig) -> autoattack.Ledger:
    return autoattack.Ledger(run.eval_flags(asked.id).with_suffix(".part"))


def _measure(
    asked: EvalConfig,
    trainer: Trainer,
    split: data.Split,
    run: RunDir,
    claim: Claim,
    progress: Callable[[int], None],
    batch: int,
) -> tuple[evaluate.Search, audit.Audit | None]:
    """The evaluation itself; with its audit where its mode needs one."""
    model, strengths = trainer.evaluated, [float(epsilon) for epsilon in asked.epsilons]
    how: dict[str, Any] = {
        "norm": asked.norm,
        "batch": batch,
        "device": trainer.device,
    }
    look = partial(evaluate.search, model, split, strengths, steps=asked.steps, **how)
    if asked.attack == "autoattack":
        ledger = _ledger(run, asked)
        first, owned = partial(look, progress=progress), partial(_must_own, run, claim)
        return autoattack.evaluate(
            first, model, split, strengths, ledger=ledger, owned=owned, **how
        ), None
    found = look(mode=asked.mode, progress=progress)
    if asked.mode == "exact":
        return found, None
    return found, audit.check(found, model, split, strengths, steps=asked.steps, **how)


def _expected(asked: EvalConfig, rows: Sequence[records.ResultRow]) -> float | None:
    """Expected accuracy over the evaluation's whole grid; None where that is one point."""
    if len(rows) < 2 and asked.prior is None:
        return None
    return records.expected_over(records.curve(rows), asked.prior)


def _points(rows: Sequence[records.ResultRow]) -> str:
    return ", ".join(f"{row['epsilon']}: {row['correct']}/{row['n']}" for row in rows)


def _write_flags(run: RunDir, asked: EvalConfig, split: data.Split, found: evaluate.Search) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        critical=found.critical,
        index=np.arange(len(split), dtype=np.int32),
        label=split.labels.numpy().astype(np.int32),
    )
    write_atomic(run.eval_flags(asked.id), lambda file: file.write(buffer.getvalue()))


def _write_result(
    trainer: Trainer, evals: Sequence[EvalConfig], run: RunDir, claim: Claim
) -> dict[str, Any]:
    """result.json: written last, and only by the owner; names every evaluation on disk."""
    _must_own(run, claim)
    config = trainer.config
    before = read_json(run.result) or {"evals": []}
    names = [*before["evals"], *(item.id for item in evals)]
    result = {
        "id": config.id,
        "setting": config.setting,
        "epochs": config.epochs,
        "delay": records.delay(trainer.rows, config.epochs),
        "evals": list(dict.fromkeys(names)),
        "finished": now(),
        "attempts": claim.attempt,
        "seconds": round(sum(row["seconds"] for row in trainer.rows), 1),
    }
    write_json(run.result, result)
    return result


def _summary(
    result: dict[str, Any], evals: Sequence[EvalConfig], config: RunConfig, run: RunDir
) -> dict[str, Any]:
    """Final values for W&B: delay, and per evaluation clean, adv and expected accuracy."""
    summary: dict[str, Any] = {"delay": result["delay"], "setting": result["setting"]}
    for item in evals:
        stored = read_json(run.eval_json(item.id))
        if stored is None:
            continue
        accuracy = records.curve(stored["rows"])
        prefix, unit = f"{item.split}/{item.attack}-{item.steps}", 255
        if item.norm != "linf":
            prefix, unit = f"{prefix}-{item.norm}", 1
        summary[f"{prefix}/images"] = stored["n"]
        summary |= {f"{prefix}/eps{float(e) * unit:g}": value for e, value in accuracy.items()}
        if item.norm == config.norm == "linf" and config.epsilon_g:
            # Of a grid that is too thin there is none.
            with contextlib.suppress(ValueError):
                expected = records.expected_accuracy(accuracy, config.epsilon_g)
                summary[f"{prefix}/expected"] = expected
    return summary
