"""One trial of a hyper-parameter search: a training whose result is its validation accuracy.

It uses the same trainer as a run and can be resumed after a kill, but it never reads the test
split, may be stopped early by the search, and its weights are not kept.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import assert_never

from core.config import RunConfig
from core.data import splits
from core.evaluation import queue
from core.machine import runtime
from core.model import network
from core.options import Compile
from core.run.measure import remark
from core.store.claims import Claim
from core.store.folders import RunDir, Store
from core.store.records import Goal, expected_over, judged_on, reached
from core.store.shapes import MetricsRow
from core.training.microbatch import Fits
from core.training.monitor import Monitor
from core.training.trainer import Trainer

log = logging.getLogger("epsweep")
POINTS = 4
"""Number of intervals of [0, eps_g] for the final measurement of `expected`."""


class _UnpromisingError(Exception):
    """The search stops this trial early."""


@dataclass(frozen=True)
class Judgement:
    """Result of a trial. value: accuracy in [0, 1] after the last epoch, None if it was stopped
    early; epochs: number trained; images: number of validation images behind the value."""

    value: float | None
    epochs: int
    images: int


def train(
    config: RunConfig,
    goal: Goal,
    store: Store,
    run: RunDir,
    claim: Claim,
    *,
    promising: Callable[[Sequence[float]], bool],
    stage: Path | None = None,
    compile: Compile = "none",
) -> Judgement:
    """Train a trial in the folder `run`, or resume its training, and measure its value.

    promising: called after every epoch with the values of all epochs so far; returns whether to go
    on. stage, compile: as for a run. Raises DivergedError, ConfigError, NotOwnedError, OSError; the
    trial can then still be resumed.
    """
    config.check_code()
    run.write_config(config.to_dict())
    run.write_json(run.env, runtime.describe())
    claim.progress = {"phase": "load data"}
    dataset = splits.load(config, store, stage=stage)
    dataset = replace(dataset, test=dataset.test.first(0))  # so it cannot be used
    model, device = network.build(config, dataset.classes, store), runtime.device()
    monitor = Monitor(remark=lambda text: remark(claim, text))
    fits = Fits(config, store, device, compile=compile)
    trainer = Trainer(
        config,
        dataset,
        model,
        run,
        device=device,
        micro_batch=fits.recall(),
        compile=compile,
        monitor=monitor,
    )

    begun_with = trainer.step.micro_batch

    def finished_epoch(row: MetricsRow) -> None:
        if trainer.step.micro_batch < begun_with:
            fits.remember(trainer.step.micro_batch)
        values = [reached(row, goal) for row in trainer.rows]
        log.info("epoch %d/%d: %s %.4f", len(values), config.epochs, goal, values[-1])
        if len(values) < config.epochs and not promising(values):
            raise _UnpromisingError

    monitor.epoch = finished_epoch
    monitor.progress = lambda state: setattr(claim, "progress", state)
    value = None
    with contextlib.suppress(_UnpromisingError):
        trainer.fit()
        value = _final(trainer, dataset.val, goal)
    return Judgement(value, len(trainer.rows), judged_on(trainer.rows[-1], goal))


def _final(trainer: Trainer, split: splits.Split, goal: Goal) -> float:
    """The goal's value after the last epoch."""
    match goal:
        case "clean" | "adversarial":
            return reached(trainer.rows[-1], goal)
        case "expected":
            return _expected(trainer, split)
        case _:
            assert_never(goal)


def _expected(trainer: Trainer, split: splits.Split) -> float:
    """Expected accuracy by the trapezoidal rule on five strengths from 0 to eps_g, on the images of
    the adversarial validation."""
    config = trainer.config
    strengths = [config.validation_epsilon.number * Fraction(i, POINTS) for i in range(POINTS + 1)]
    images = split.first(config.validation.images)
    found = queue.search(
        trainer.evaluated,
        images,
        [float(epsilon) for epsilon in strengths],
        steps=config.validation.steps,
        norm=config.norm,
        batch=trainer.step.micro_batch,
        device=trainer.device,
    )
    levels = enumerate(strengths)
    return expected_over({eps: found.correct(level) / len(images) for level, eps in levels})
