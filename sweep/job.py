"""What a node runs: `RunJob` works through rows of a frozen manifest, one run after another.

It is pickled by reference and holds only paths and numbers; the state of a run lives in the run's
folder. Workers that share a manifest share the work: each claims the next run nobody holds.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from core.claims import Claim, Holder, holder
from core.config import EvalConfig, RunConfig
from core.rundir import RunDir, Store, read_json, read_jsonl
from core.tracking import Mode
from sweep import triage

log = logging.getLogger("epsweep")


class StoppedError(BaseException):
    """A signal asked this process to stop; no `except Exception` on the way may catch that."""


@dataclass(frozen=True)
class RunJob:
    """Runs rows [first, first + count) of a manifest that are neither done nor claimed."""

    root: str
    sweep: str
    manifest: str
    first: int
    count: int
    tracking: Mode = "auto"
    threads: int | None = None
    max_attempts: int = 3
    """Attempts at one run within this submission; more means that it kills its workers."""
    images: int | None = None
    """Cut every split to its first images (miniatures only)."""

    def __call__(self) -> dict[str, int]:
        """Returns how many runs ended how, e.g. {'done': 3, 'failed': 1, 'skipped': 2}."""
        rows = read_jsonl(Path(self.manifest))[self.first : self.first + self.count]
        tally: dict[str, int] = {}
        with stoppable():
            if self.threads:
                import torch  # 2 s, and only a node needs it

                torch.set_num_threads(self.threads)
            for row in rows:
                outcome = self._one(row)
                tally[outcome] = tally.get(outcome, 0) + 1
        return tally

    def _one(self, row: dict[str, Any]) -> str:
        config = RunConfig.parse(row["config"], where=row["id"])
        evals = [EvalConfig.parse(item) for item in row["evals"].values()]
        store = Store(Path(self.root))
        since = holder(store.run(config.id))
        if since and since.attempt > row["after"] and not self._again(since, row["after"]):
            return "skipped"
        options = {"tracking": self.tracking, "group": self.sweep, "images": self.images}
        return attempt(config, evals, store, options)

    def _again(self, since: Holder, after: int) -> bool:
        """Whether a run that this submission has already begun may be begun again: if it was
        stopped or lost, but not for ever, and never if it failed."""
        ended = since.info.get("outcome") in ("failed", "cancelled", "done")
        return not ended and since.attempt - after < self.max_attempts


def attempt(
    config: RunConfig,
    evals: Sequence[EvalConfig],
    store: Store,
    options: dict[str, Any],
) -> str:
    """Claim a run and execute it. Returns 'done', 'failed' or 'skipped' (done, or held by another).
    `options` are the fields of core.run.Options (a dict: importing that imports torch).

    A failure is recorded in the run folder and does not raise; StoppedError passes through.
    """
    run = store.run(config.id)
    if is_done(run, evals):
        return "skipped"
    claim = Claim.acquire(run, job=_job_id())
    if claim is None:
        return "skipped"
    with logging_to(run.log):
        log.info("attempt %d of %s", claim.attempt, config.id)
        try:
            from core.run import Options, execute  # imports torch

            execute(config, evals, store, claim, Options(**options))
        except (StoppedError, KeyboardInterrupt):
            log.warning("stopped by a signal; resumable")
            claim.release("interrupted", kind="stopped", reason="stopped by a signal")
            raise
        except Exception as error:
            kind, reason = triage.classify(error)
            log.error("failed (%s): %s\n%s", kind, reason, traceback.format_exc())
            claim.release("failed", kind=kind, reason=reason)
            return "failed"
        log.info("done")
        claim.release("done")
        return "done"


def is_done(run: RunDir, evals: Sequence[EvalConfig]) -> bool:
    """Whether the result is there and names every evaluation asked for."""
    result = read_json(run.result)
    return result is not None and {item.id for item in evals} <= set(result["evals"])


def _job_id() -> str | None:
    """This job as Slurm or submitit's local executor calls it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID")


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGINT raise StoppedError in the main thread, once; a second one is ignored
    while the run folder is being put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise StoppedError(signal.Signals(signum).name)

    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append the run's log lines to its own file, with the time (UTC)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
