"""Workers of a search whose trials cost nothing, in processes that may be killed: only the training
is made up, with an accuracy that tells how far the learning rate is from 1e-3."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import killable
from forks import die

from core.config import RunConfig
from core.run import trial
from core.store.claims import Claim
from core.store.fence import newest_attempt
from core.store.folders import RunDir, Store
from core.store.json_files import read_jsonl, write_json, write_jsonl
from sweep.grid.search import Search, trial_file
from sweep.tune import trial_job

Moment = tuple[int, int]
"""When to die: in this trial, after so many epochs."""


def accuracy(config: RunConfig, epoch: int) -> float:
    """Grows with the epochs; best at a learning rate of 1e-3."""
    return (1 - abs(math.log10(config.optim.lr) + 3) / 4) * epoch / config.epochs


def trainer(moment: Moment | None = None, seconds: float = 0.0) -> Callable[..., trial.Judgement]:
    """In the place of core.run.trial.train."""

    def train(
        config: RunConfig,
        goal: str,
        store: Store,
        run: RunDir,
        claim: Claim,
        *,
        promising: Callable[[Sequence[float]], bool],
        stage: Path | None = None,
        compile: str = "none",
    ) -> trial.Judgement:
        run.write_config(config.to_dict())
        run.checkpoint.touch()
        for epoch in range(len(read_jsonl(run.metrics)) + 1, config.epochs + 1):
            time.sleep(seconds)
            write_jsonl(run.metrics, [{"epoch": i} for i in range(epoch)])
            if moment == (int(run.id), epoch) and claim.attempt == 1:
                die()
            values = [accuracy(config, i) for i in range(1, epoch + 1)]
            if epoch < config.epochs and not promising(values):
                return trial.Judgement(None, epoch, 60)
        return trial.Judgement(accuracy(config, config.epochs), config.epochs, 60)

    return train


def work(root: Path, manifest: Path, moment: Moment | None = None, seconds: float = 0.0) -> None:
    """One worker, from beginning to end; what it did goes to a file of its own."""
    trial.train = trainer(moment, seconds)  # type: ignore[assignment]
    count = len(read_jsonl(manifest))
    job = trial_job.TuneJob(str(root), str(root / "tune"), str(manifest), 0, count)
    ended = job()
    write_json(root / f"worker-{len(list(root.glob('worker-*')))}-{time.time_ns()}.json", ended)


def die_always(root: Path, manifest: Path) -> None:
    """A worker that ends without a word in every trial."""

    def train(*_: object, **__: object) -> trial.Judgement:
        die()
        raise AssertionError

    trial.train = train  # type: ignore[assignment]
    trial_job.TuneJob(str(root), str(root / "tune"), str(manifest), 0, 1)()


def freeze(search: Search, path: Path) -> Path:
    """A manifest of one search."""
    write_jsonl(path, [trial_job.manifest_row(search, range(search.trials))])
    return path


def end(search: Search, number: int, state: str, value: float | None = None, **record: Any) -> None:
    """Let a trial have ended."""
    claim = Claim.acquire(search.trial_dir(number))
    assert claim
    if state != "failed":
        params = {name: 1e-3 * (number + 1) for name in search.ranges}
        about = {"state": state, "params": params, "value": value, "images": 60, "epochs": 3}
        about |= {"reason": None, "optuna": "5", "ended": "now"}
        write_json(trial_file(claim.run), about | record)
    claim.release("failed" if state == "failed" else "done", reason=record.get("reason"))
    assert newest_attempt(claim.run.path)


def die_at_rename(root: Path, manifest: Path, n: int) -> None:
    """A worker that dies before it puts the n-th file in its place."""
    killable.arrange(("replace", n))
    work(root, manifest)
