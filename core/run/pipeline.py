"""One run from config to result: data, model, training, evaluations, result.json.

Cluster jobs, local workers and `sweep run` all call `execute`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from core.config import ConfigError, EvalConfig, RunConfig, own_code, shown
from core.config.evaluation import AtStrengths
from core.config.strength import in_pixels, scale_of
from core.data import digests, splits
from core.data.inputs import Sources
from core.errors import StaleError
from core.machine import runtime
from core.machine.team import ALONE, Team
from core.model import lora, network, trainable
from core.options import Options
from core.run import measure
from core.run.measure import remark
from core.store import damage, records
from core.store.claims import Claim, now
from core.store.folders import RunDir, Store
from core.store.json_files import read_json
from core.store.shapes import MetricsRow
from core.store.tracking import Tracker
from core.training import memory
from core.training.microbatch import Fits
from core.training.monitor import Monitor
from core.training.trainer import Trainer

log = logging.getLogger("epsweep")


def execute(
    config: RunConfig,
    evals: Sequence[EvalConfig],
    store: Store,
    claim: Claim | None,
    options: Options,
    team: Team = ALONE,
) -> dict[str, Any]:
    """Train a run or resume its training, evaluate it, and write its result, which is returned.

    Work that is on disk is not repeated. All processes of a team call this; the leader has the
    claim and writes, the others pass None and get {}. Raises ConfigError, StaleError,
    DivergedError, NotOwnedError, TeamError, OSError and whatever the model raises; the run can then
    still be resumed.
    """
    config.check_code()
    run = store.run(config.id).fenced(team.share(claim.run.fence if claim else None))
    if claim:
        for line in damage.repair(run, [item.id for item in evals]):
            remark(claim, line)
        run.write_config(config.to_dict())
        about = runtime.describe() | {"processes": team.size, "compile": options.compile}
        made_from = digests.recorded(run)
        run.write_json(run.env, about | ({"inputs": made_from} if made_from else {}))
        claim.progress = {"phase": "load data"}
    dataset = _load(config, store, options, team)
    for item in evals:
        own_code.check(item.code)
        size = getattr(dataset, item.split).images.shape[-1]
        sizes = {} if options.rehearsal else dataset.sizes
        problem = item.lacking() or item.problem(size, dataset.classes) or item.too_few(sizes)
        if problem:
            raise ConfigError(problem)
    model = network.build(config, dataset.classes, store)
    if claim and not options.rehearsal:
        _settle_inputs(run, config, store, options, claim, about)
    team.share()
    monitor = Monitor(remark=lambda text: remark(claim, text))
    fits = Fits(config, store, runtime.device(), team.size, options.compile)
    trainer = Trainer(
        config,
        dataset,
        model,
        run,
        device=runtime.device(),
        micro_batch=options.micro_batch or fits.recall(),
        compile=options.compile,
        monitor=monitor,
        team=team,
    )
    if options.rehearsal:
        memory.watch(trainer)
    if config.adapted:
        log.info("%s", lora.sentence(model, config))
    log.info("%s", trainable.sentence(model))
    if claim is None:
        trainer.fit()
        for item in evals:
            measure.evaluate(item, trainer, None, batch=options.eval_batch)
        return {}
    return _lead(trainer, evals, claim, options, fits)


def _settle_inputs(
    run: RunDir,
    config: RunConfig,
    store: Store,
    options: Options,
    claim: Claim,
    about: dict[str, Any],
) -> None:
    """Record the inputs of a new run. Raises StaleError if those of an existing run have changed,
    unless a retry has asked to replace them: then its results are moved away first."""
    known, sources = digests.Known(store), Sources.of(config)
    made_from = digests.recorded(run)
    changed = known.changed(sources, made_from)
    if changed and digests.mark(made_from) != options.replaces:
        raise StaleError(f"{changed}; `sweep retry --failed stale` starts the run over")
    if changed:
        remark(claim, f"{changed}; its results so far are moved to {digests.put_away(run)}")
    if not run.begun:
        made_from = known.inputs(sources)
    run.write_json(run.env, about | ({"inputs": made_from} if made_from else {}))


def _load(config: RunConfig, store: Store, options: Options, team: Team) -> splits.Dataset:
    """The run's dataset. The leader loads it first, since that may prepare arrays on disk."""
    if not team.leads:
        team.share()
    dataset = splits.load(config, store, stage=options.stage, miniature=options.rehearsal)
    if team.leads:
        team.share()
    return dataset.first(options.images) if options.images else dataset


def _lead(
    trainer: Trainer, evals: Sequence[EvalConfig], claim: Claim, options: Options, fits: Fits
) -> dict[str, Any]:
    """What the leader does: train, evaluate, write the result, report to W&B."""
    config, run = trainer.config, trainer.run
    begun_with = trainer.step.micro_batch
    tracker = Tracker.start(
        config,
        run,
        mode=options.tracking,
        group=options.group,
        on_failure=lambda text: remark(claim, text),
    )

    def finished_epoch(row: MetricsRow) -> None:
        log.info("%s", _sentence(row, config))
        tracker.log(trainer.rows)
        if trainer.step.micro_batch < begun_with:
            fits.remember(trainer.step.micro_batch)

    trainer.monitor.epoch = finished_epoch
    trainer.monitor.progress = lambda state: setattr(claim, "progress", state)
    try:
        trainer.fit()
        tracker.log(trainer.rows)
        for item in evals:
            measure.evaluate(item, trainer, claim, batch=options.eval_batch)
        trainer.finish()
        result = _write_result(trainer, evals, run, claim)
        tracker.summarise(_summary(result, evals, config, run))
    except BaseException:
        tracker.finish(failed=True)
        raise
    tracker.finish()
    return result


def _sentence(row: MetricsRow, config: RunConfig) -> str:
    clean = f"{row['val_clean_correct']}/{row['val_clean_images']}"
    adversarial = f"{row['val_adv_correct']}/{row['val_adv_images']}"
    return (
        f"epoch {row['epoch'] + 1}/{config.epochs}: eps {shown(row['epsilon'], config.norm)}, "
        f"train loss {row['train_loss']:.3f}, val clean {clean}, "
        f"val adv {adversarial} at {row['val_epsilon']}, {row['images_per_s']:.0f} images/s"
    )


def _write_result(
    trainer: Trainer, evals: Sequence[EvalConfig], run: RunDir, claim: Claim
) -> dict[str, Any]:
    """Write result.json, the last file of a run; it lists every evaluation on disk."""
    config = trainer.config
    before = read_json(run.result) or {"evals": sorted(run.evals_on_disk())}
    names = list(dict.fromkeys([*before["evals"], *(item.id for item in evals)]))
    result = {
        "id": config.id,
        "setting": config.setting,
        "epochs": config.epochs,
        "classes": trainer.data.classes,
        "delay": records.delay(trainer.rows, config.epochs),
        "evals": names,
        "finished": now(),
        "attempts": claim.attempt,
        "batchnorm_images": records.batchnorm_images(trainer.rows),
        "seconds": round(sum(row["seconds"] for row in trainer.rows), 1),
        "crc32": damage.checksums(run, names),
    }
    if made_from := (read_json(run.env) or {}).get("inputs"):
        result["inputs"] = made_from
    run.write_json(run.result, result)
    return result


def _summary(
    result: dict[str, Any], evals: Sequence[EvalConfig], config: RunConfig, run: RunDir
) -> dict[str, Any]:
    """Final values for W&B: delay, and accuracies and metrics of each evaluation."""
    summary: dict[str, Any] = {"delay": result["delay"], "setting": result["setting"]}
    for item in evals:
        stored = read_json(run.eval_json(item.id))
        if stored is None:
            continue
        prefix = f"{item.split}/{item.name}"
        summary[f"{prefix}/images"] = stored["n"]
        summary |= {f"{prefix}/{key}": value for key, value in stored.get("metrics", {}).items()}
        if isinstance(item, AtStrengths):
            summary |= _curve(prefix, item, stored["rows"], config)
        elif stored["rows"]:
            summary[f"{prefix}/accuracy"] = records.overall_accuracy(stored["rows"])
    return summary


def _curve(
    prefix: str, item: AtStrengths, rows: Sequence[Any], config: RunConfig
) -> dict[str, float]:
    """Accuracy at every strength, and expected accuracy if the evaluation has the run's norm."""
    accuracy, unit = records.curve(rows), scale_of(item.norm)
    if not in_pixels(item.norm):
        prefix += f"-{item.norm}"
    found = {f"{prefix}/eps{float(e) * unit:g}": value for e, value in accuracy.items()}
    exact = records.expected_exactly(rows, config.epsilon_g) if item.norm == config.norm else None
    if exact is not None and item.prior is None:
        found[f"{prefix}/expected"] = exact
    elif item.norm == config.norm and in_pixels(config.norm) and config.epsilon_g:
        # Too few strengths up to eps_g raise ValueError: no expected accuracy then.
        with contextlib.suppress(ValueError):
            found[f"{prefix}/expected"] = records.expected_up_to(
                accuracy, config.epsilon_g, item.prior
            )
    return found
