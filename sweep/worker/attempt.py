"""One attempt at a run: claim it, execute it, and record the outcome."""

from __future__ import annotations

import gc
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.config import EvalConfig, RunConfig
from core.data.digests import mark, recorded
from core.errors import CancelledError, NotOwnedError, StoppedError, TeamError
from core.options import Options
from core.store import damage
from core.store.claims import Claim
from core.store.fence import newest_attempt
from core.store.files import exists
from core.store.folders import RunDir, Store, SweepDir
from core.store.holder import find_holder
from core.store.json_files import read_json
from sweep.state import breaker, triage
from sweep.worker.stop import cancellable, unhidden

if TYPE_CHECKING:
    from core.machine.team import Team  # imports torch

log = logging.getLogger("epsweep")

LOOKS = 3
"""How often to look at a run that other processes begin and leave at the same time."""
JOB = "EPSWEEP_JOB"
"""Environment variable with the id of a job that was not started through submitit."""
LOST = "another process has taken this run over"


class Ending(NamedTuple):
    """How an attempt ended. leave: the exception to raise after it is recorded, if any."""

    outcome: str
    kind: str | None = None
    reason: str | None = None
    leave: BaseException | None = None


def make(
    config: RunConfig,
    evals: Sequence[EvalConfig],
    store: Store,
    options: Options,
    *,
    gpus: float = 0,
    team: Team | None = None,
) -> str:
    """Claim a run and execute it. Returns 'done', 'failed', 'cancelled', 'lost' (another process
    took it over, or one of the team died) or 'skipped' (it is done, held by another process, or
    cancelled).

    gpus: how many it occupies, may be a fraction. team: the processes that do it together, led by
    this one. A failure is recorded in the run folder and not raised; a request to stop is raised,
    as StoppedError or SystemExit.
    """
    claim = claim_unfinished(store.run(config.id), evals, options, gpus=gpus)
    if team:
        team.share(claim is not None)
    if claim is None:
        return "skipped"

    def work() -> None:
        from core.machine.team import ALONE
        from core.run.pipeline import execute  # imports torch

        execute(config, evals, store, claim, options, team or ALONE)

    sweep = store.sweep(options.group) if options.group else None
    return conduct(claim, work, config.id, sweep, team)


def claim_unfinished(
    run: RunDir, evals: Sequence[EvalConfig], options: Options, *, gpus: float = 0
) -> Claim | None:
    """A claim on a run that needs execution; None if it is done, held by another process, or
    cancelled.

    Another process may do the whole run between our look and our claim, so the claim is valid only
    if no attempt was made since the look; else we look again."""

    def over() -> bool:
        return is_done(run, evals) and not _is_replaced(run, options)

    for _ in range(LOOKS):
        former = find_holder(run)
        if (former and former.live) or exists(run.cancel) or over():
            return None
        seen = former.attempt if former else 0
        claim = claim_for(run, gpus=gpus, after=seen)
        if claim and former and over():  # its process was alive after all and has finished it
            claim.release("done")
            return None
        if claim or newest_attempt(run.path) == seen:
            return claim
    return None


def claim_for(run: RunDir, *, gpus: float = 0, after: int | None = None) -> Claim | None:
    """A claim on a run for the job that this process belongs to; None if another process holds it.
    after: the number of attempts so far; the claim fails if there are more."""
    return Claim.acquire(run, job=job_id(), gpus=gpus, after=after)


def job_id() -> str | None:
    """The id of the job that this process belongs to, as submissions record it; None outside."""
    if os.environ.get("SUBMITIT_EXECUTOR") not in (None, "debug", "slurm"):
        from submitit import JobEnvironment  # 0.1 s to import; a launch does not need it

        return str(JobEnvironment().job_id)
    return os.environ.get(JOB) or triage.own_job()


def conduct(
    claim: Claim,
    work: Callable[[], object],
    name: str,
    sweep: SweepDir | None,
    team: Team | None = None,
) -> str:
    """Call `work`, record the outcome, release the claim, and return or raise as `make` does.

    name: the run's name in the log and in the sweep's record of failures.
    """
    with logging_to(claim.run.log):
        log.info("attempt %d of %s", claim.attempt, name)
        ending = _ending(claim, work, name, sweep, team)
        ending = _recorded(claim, ending)
    _let_go()
    if ending.leave:
        raise ending.leave
    return ending.outcome


def _recorded(claim: Claim, ending: Ending) -> Ending:
    """Release the claim with this ending; returns it, or a 'lost' one if another process has taken
    the run over."""
    if claim.release(ending.outcome, kind=ending.kind, reason=ending.reason):
        log.info("%s%s", ending.outcome, f": {ending.reason}" if ending.reason else "")
        return ending
    return ending._replace(outcome="lost", kind="lost", reason=LOST)


def _ending(
    claim: Claim,
    work: Callable[[], object],
    name: str,
    sweep: SweepDir | None,
    team: Team | None,
) -> Ending:
    try:
        with unhidden(), cancellable(claim):
            work()
    except (CancelledError, NotOwnedError):
        if not claim.held():
            return Ending("lost", "lost", LOST)
        return Ending("cancelled", "cancelled", "cancelled on request")
    except (StoppedError, SystemExit) as stop:
        kind, reason = triage.why_stopped(stop)
        if exists(claim.run.cancel):
            kind, reason = "cancelled", "cancelled on request"
        return Ending("cancelled" if kind == "cancelled" else "interrupted", kind, reason, stop)
    except Exception as error:
        if team and isinstance(error, TeamError):
            return _of_team(team, error)
        log.error("%s", traceback.format_exc())
        kind, reason = triage.classify(error)
        if sweep and kind in breaker.SYSTEMATIC:
            with suppress(OSError):  # disk full, or folder removed: still record the failure
                breaker.note(sweep, name, error, reason)
        return Ending("failed", kind, reason, error if kind == "timeout" else None)
    return Ending("done")


def _of_team(team: Team, error: Exception) -> Ending:
    """The leader's ending after another process of the team has ended: the one it reported, or
    'lost' if it reported none."""
    word = team.word()
    if word is None:
        return Ending("lost", "lost", str(error))
    log.error("%s", word["traceback"])
    return Ending("failed", word["kind"], f"process {word['rank']}: {word['reason']}")


def assist(
    config: RunConfig,
    evals: Sequence[EvalConfig],
    store: Store,
    options: Options,
    team: Team,
) -> str:
    """Do this process's share of a run that the leader of the team has claimed, without writing to
    the run folder.

    Returns 'done' or 'skipped'. After a failure, reports it to the leader and ends the process.
    """
    from core.run.pipeline import execute

    try:
        if not team.share():
            return "skipped"
        with unhidden():
            execute(config, evals, store, None, options, team)
    except TeamError as error:
        log.warning("%s", error)
        os._exit(0)
    except Exception as error:
        kind, reason = triage.classify(error)
        text = traceback.format_exc()
        log.error("%s", text)
        team.tell({"rank": team.rank, "kind": kind, "reason": reason, "traceback": text})
        os._exit(1)
    _let_go()
    return "done"


def _let_go() -> None:
    """Free the model, optimiser and weight average of an ended run before the next one begins. They
    form reference cycles, and Python collects those by the number of objects, not by their size."""
    gc.collect()


def is_done(run: RunDir, evals: Sequence[EvalConfig]) -> bool:
    """Whether the run's result and these evaluations are there and undamaged."""
    wanted = [item.id for item in evals]
    if damage.find(run, wanted):
        return False
    result = read_json(run.result)
    return result is not None and run.holds(result, wanted)


def _is_replaced(run: RunDir, options: Options) -> bool:
    """Whether a retry asks to train this stale run anew, and the recorded inputs are still the old
    ones."""
    return bool(options.replaces) and options.replaces == mark(recorded(run))


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append log lines to the file at `path`, with the time in UTC."""
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
