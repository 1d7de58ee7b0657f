"""One attempt at a run: claim it, execute it, and leave word of how that ended."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from core.claims import Claim, NotOwnedError
from core.config import EvalConfig, RunConfig
from core.rundir import RunDir, Store, read_json
from sweep import breaker, triage
from sweep.stop import CancelledError, StoppedError, cancellable

log = logging.getLogger("epsweep")


class Ending(NamedTuple):
    """How an attempt ended; `leave` is what this process has to leave by, if it has to."""

    outcome: str
    kind: str | None = None
    reason: str | None = None
    leave: BaseException | None = None


def make(
    config: RunConfig,
    evals: Sequence[EvalConfig],
    store: Store,
    options: dict[str, Any],
    *,
    gpus: float = 0,
) -> str:
    """Claim a run and execute it. Returns 'done', 'failed', 'cancelled', 'lost' (another process
    took it over) or 'skipped' (it is done, held by another, or asked not to run).

    options: the fields of core.run.Options (a dict, since importing that imports torch). A failure
    is recorded in the run folder and does not raise; what told this process to stop does.
    """
    run = store.run(config.id)
    if is_done(run, evals) or run.cancel.exists():
        return "skipped"
    job = triage.own_job() or os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    claim = Claim.acquire(run, job=job, gpus=gpus)
    if claim is None:
        return "skipped"
    with logging_to(run.log):
        log.info("attempt %d of %s", claim.attempt, config.id)
        ending = _execute(config, evals, store, claim, options)
        if claim.held():
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
    except (CancelledError, NotOwnedError):
        if not claim.held():
            return Ending("lost", "lost", "another process has taken this run over")
        return Ending("cancelled", "cancelled", "cancelled on request")
    except (StoppedError, SystemExit) as stop:
        kind, reason = triage.why_stopped(stop)
        if claim.run.cancel.exists():
            kind, reason = "cancelled", "cancelled on request"
        return Ending("cancelled" if kind == "cancelled" else "interrupted", kind, reason, stop)
    except Exception as error:
        log.error("%s", traceback.format_exc())
        kind, reason = triage.classify(error)
        if options["group"] and kind in breaker.SYSTEMATIC:
            breaker.note(store.sweep(options["group"]), config.id, error, reason)
        return Ending("failed", kind, reason, error if kind == "timeout" else None)
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
