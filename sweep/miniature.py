"""The rehearsal of `sweep dry-run`: every distinct run of a grid, shrunk to seconds, for real.

A shrunk run keeps its backbone, dataset, image size, schedule kind, optimiser and precision, and
loses its length: two epochs of two batches, random weights, few images, short attacks. It goes
through the same submission, job, training, evaluation and files, in a folder that is removed.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from rich.console import Console
from rich.text import Text

from core import inputs
from core.config import EvalConfig, RunConfig
from core.inputs import dataset_folder
from core.rundir import Store
from slurm import profile as profiles
from sweep import breaker, local, submit, watch
from sweep.grid import Grid, Run
from sweep.plan import Plan

BATCH = 2
IMAGES = 2 * BATCH


def shrink(run: Run, store: Store) -> Run:
    """The miniature of a run; runs that differ only in seed, strength or length share one."""
    config = run.config
    schedule = config.schedule
    if schedule.kind == "two_hinge" and not schedule.is_fix:
        # Epoch 0 is clean, epoch 1 is attacked at half strength: both kinds of step are taken.
        schedule = schedule.model_copy(update={"T1": 0, "T2": 2})
    changes = {
        "weights": "random",
        "dataset": config.dataset if has_data(config, store) else "fake",
        "schedule": schedule.model_copy(update={"patience": 1}),
        "epsilon_g": Fraction(2, 255) if config.epsilon_g else Fraction(0),
        "epochs": 2,
        "batch": BATCH,
        "attack": {"steps": 2},
        "validation": {"steps": 2},
        "seed": 0,
    }
    data = {name: getattr(config, name) for name in type(config).model_fields} | changes
    if schedule.kind == "standard":
        del data["epsilon_g"]
    evals = {shrunk_eval(item) for item in run.evals}
    return Run(RunConfig.model_validate(data), run.setting, tuple(evals))


def shrunk_eval(item: EvalConfig) -> EvalConfig:
    """Clean and two strengths, two steps each."""
    strengths = tuple(Fraction(i, 255) for i in range(3))
    changes = {
        "epsilons": strengths,
        "steps": 2,
        "images": None,
        "prior": None,
        "attack": "apgd-ce",
    }
    return item.model_copy(update=changes)


def has_data(config: RunConfig, store: Store) -> bool:
    """Whether the dataset is on this machine."""
    return inputs.is_drawn(config.dataset) or dataset_folder(config.dataset, store).is_dir()


def rehearse(grid: Grid, seen: Plan, store: Store, console: Console) -> Plan:
    """Run every distinct miniature of the plan's runs; returns their final plan."""
    runs = [status.run for status in seen.statuses]
    absent = sorted({run.config.dataset for run in runs if not has_data(run.config, store)})
    if absent:
        console.print(
            Text(
                f"not on this machine, noise images stand in: {', '.join(absent)} "
                f"(looked in {store.data})",
                style="yellow",
            )
        )
    shrunk = list({run.id: run for run in (shrink(run, store) for run in runs)}.values())
    console.print(f"{len(shrunk)} distinct runs in miniature:")
    profile = profiles.load("local").model_copy(update={"tracking": "none"})
    os.environ["EPSWEEP_DATA"] = str(store.data)
    with tempfile.TemporaryDirectory(prefix="epsweep-dry-run-") as folder:
        rehearsal = Store(Path(folder))
        sweep = submit.record_grid(replace(grid, runs=tuple(shrunk)), rehearsal)
        submission = local.start(shrunk, sweep, rehearsal, profile, images=IMAGES)
        final = watch.wait(submission, rehearsal, console)
        held = breaker.tripped(sweep)
        if held:
            console.print(Text(str(held), style="red"), soft_wrap=True)
        return final
