"""One run from config to result: data, model, training, evaluations, result.json.

`execute` is what a cluster node, the local executor and `sweep run` all call.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import audit, checkpoint, data, evaluate, models, records, runtime
from core.claims import Claim, now
from core.config import EvalConfig, RunConfig, show_strength
from core.rundir import RunDir, Store, read_json, write_atomic, write_json
from core.tracking import Mode, Tracker
from core.train import Monitor, NotOwnedError, Trainer

log = logging.getLogger("epsweep")


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
        log.info("%s", _sentence(row, config.epochs))
        tracker.log(trainer.rows)

    monitor.epoch = finished_epoch
    monitor.progress = lambda state: setattr(claim, "progress", state)
    try:
        trainer.fit()
        tracker.log(trainer.rows)
        for item in evals:
            _evaluate(item, trainer, dataset, run, claim, options)
        checkpoint.slim(run, trainer.state())
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


def _sentence(row: records.MetricsRow, epochs: int) -> str:
    clean = f"{row['val_clean_correct']}/{row['val_clean_images']}"
    adversarial = f"{row['val_adv_correct']}/{row['val_adv_images']}"
    return (
        f"epoch {row['epoch'] + 1}/{epochs}: eps {row['epsilon'] * 255:.3g}/255, "
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
        claim.progress = {"phase": "evaluate", "share": share, "images_per_s": round(speed, 1)}

    model, strengths = trainer.model, [float(epsilon) for epsilon in asked.epsilons]
    how: dict[str, Any] = {
        "steps": asked.steps,
        "batch": options.eval_batch,
        "device": trainer.device,
    }
    found = evaluate.search(model, split, strengths, mode=asked.mode, progress=progress, **how)
    checked = None
    if asked.mode == "fast":
        checked = asdict(audit.check(found, model, split, strengths, **how))
    seconds = time.perf_counter() - started
    if not claim.held():
        raise NotOwnedError(f"{run.id}: another process has taken this run over")
    _write_flags(run, asked, split, found)
    rows = [
        records.ResultRow(
            attack=f"{asked.attack}-{asked.steps}",
            norm=asked.norm,
            epsilon=show_strength(epsilon),
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
            "n": len(split),
            "split_images": len(whole),
            "forwards": found.forwards,
            "backwards": found.backwards,
            "zero_gradient_images": found.zero_gradient_images,
            "audit": checked,
            "seconds": round(seconds, 3),
            "commit": (read_json(run.env) or {}).get("commit"),
        },
    )
    log.info("evaluated %s in %.1f s: %s", asked.id, seconds, _points(rows))


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
    if not claim.held():
        raise NotOwnedError(f"{run.id}: another process has taken this run over")
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
        prefix = f"{item.split}/{item.attack}-{item.steps}"
        summary[f"{prefix}/images"] = stored["n"]
        summary |= {f"{prefix}/eps{float(e) * 255:g}": value for e, value in accuracy.items()}
        if config.epsilon_g and all(e in accuracy for e in records.unit_grid(config.epsilon_g)):
            expected = records.expected_accuracy(accuracy, config.epsilon_g)
            summary[f"{prefix}/expected"] = expected
    return summary
