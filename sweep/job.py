"""What a node runs: `RunJob` works through rows of a frozen manifest, one run after another.

It is pickled by reference and holds only paths and numbers; the state of a run lives in the run's
folder. Workers that share a manifest share the work: each claims the next run nobody holds.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import submitit

from core.claims import Claim, Holder, holder
from core.config import EvalConfig, RunConfig
from core.rundir import RunDir, Store, read_json, read_jsonl
from core.tracking import Mode
from slurm import environment
from sweep import breaker, triage
from sweep.stop import CancelledError, StoppedError, cancellable, stoppable

log = logging.getLogger("epsweep")


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
    together: bool = False
    """Run the rows at the same time, each in a process of its own, instead of one by one."""
    staging: bool = False
    """Copy the prepared data to the node's own disk first, where it has one."""
    images: int | None = None
    """Cut every split to its first images (miniatures only)."""

    def __call__(self) -> dict[str, int]:
        """Returns how many runs ended how, e.g. {'done': 3, 'failed': 1, 'skipped': 2}."""
        with stoppable():
            if self.together and self.count > 1:
                return self._side_by_side()
            if self.threads:
                import torch  # 2 s, and only a node needs it

                torch.set_num_threads(self.threads)
            return dict(Counter(self._one(row) for row in self._rows()))

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit queues again on a time limit or a preemption: the same job, since every
        run goes on from its own checkpoint."""
        return submitit.helpers.DelayedSubmission(self)

    def _rows(self) -> list[dict[str, Any]]:
        return read_jsonl(Path(self.manifest))[self.first : self.first + self.count]

    def _side_by_side(self) -> dict[str, int]:
        """One process per row on the same GPU; one that dies leaves the others alone."""
        threads = max(1, self.threads // self.count) if self.threads else None
        singles = [
            replace(self, first=row, count=1, together=False, threads=threads)
            for row in range(self.first, self.first + self.count)
        ]
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=single) for single in singles]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join()
        except BaseException:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
            raise
        failed = sum(process.exitcode != 0 for process in processes)
        return {"ended": len(processes) - failed, "died": failed}

    def _one(self, row: dict[str, Any]) -> str:
        config = RunConfig.parse(row["config"], where=row["id"])
        evals = [EvalConfig.parse(item) for item in row["evals"].values()]
        store = Store(Path(self.root))
        since = holder(store.run(config.id))
        if since and since.attempt > row["after"] and not self._again(since, row["after"]):
            return "skipped"
        stop = breaker.tripped(store.sweep(self.sweep))
        if stop:
            log.warning("%s: %s", config.id, stop)
            return "held back"
        options = {
            "tracking": self.tracking,
            "group": self.sweep,
            "images": self.images,
            "stage": environment.node_tmpdir() if self.staging else None,
        }
        return attempt(config, evals, store, options)

    def _again(self, since: Holder, after: int) -> bool:
        """Whether a run that this submission has already begun may be begun again: if it was
        stopped or lost, but not for ever, and never if it failed."""
        ended = since.info.get("outcome") in ("failed", "cancelled", "done")
        return not ended and since.attempt - after < self.max_attempts


class Ending(NamedTuple):
    """How an attempt ended; `leave` is what this process has to leave by, if it has to."""

    outcome: str
    kind: str | None = None
    reason: str | None = None
    leave: BaseException | None = None


def attempt(
    config: RunConfig, evals: Sequence[EvalConfig], store: Store, options: dict[str, Any]
) -> str:
    """Claim a run and execute it. Returns 'done', 'failed', 'cancelled' or 'skipped' (it is done,
    held by another, or asked not to run).

    options: the fields of core.run.Options (a dict, since importing that imports torch). A failure
    is recorded in the run folder and does not raise; StoppedError and SystemExit do.
    """
    run = store.run(config.id)
    if is_done(run, evals) or run.cancel.exists():
        return "skipped"
    job = environment.current().id or os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    claim = Claim.acquire(run, job=job)
    if claim is None:
        return "skipped"
    with logging_to(run.log):
        log.info("attempt %d of %s", claim.attempt, config.id)
        ending = _execute(config, evals, store, claim, options)
        log.info("%s%s", ending.outcome, f": {ending.reason}" if ending.reason else "")
        claim.release(ending.outcome, kind=ending.kind, reason=ending.reason)
    if ending.leave:
        raise ending.leave
    return ending.outcome


def _execute(
    config: RunConfig,
    evals: Sequence[EvalConfig],
    store: Store,
    claim: Claim,
    options: dict[str, Any],
) -> Ending:
    try:
        with cancellable(claim):
            from core.run import Options, execute  # imports torch

            execute(config, evals, store, claim, Options(**options))
    except CancelledError:
        return Ending("cancelled", "cancelled", "cancelled on request")
    except (StoppedError, SystemExit) as stop:
        kind, reason = triage.why_stopped(stop)
        return Ending("cancelled" if kind == "cancelled" else "interrupted", kind, reason, stop)
    except Exception as error:
        log.error("%s", traceback.format_exc())
        kind, reason = triage.classify(error)
        if options["group"] and kind in breaker.SYSTEMATIC:
            breaker.note(store.sweep(options["group"]), config.id, error, reason)
        return Ending("failed", kind, reason)
    return Ending("done")


def is_done(run: RunDir, evals: Sequence[EvalConfig]) -> bool:
    """Whether the result is there and names every evaluation asked for."""
    result = read_json(run.result)
    return result is not None and {item.id for item in evals} <= set(result["evals"])


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
