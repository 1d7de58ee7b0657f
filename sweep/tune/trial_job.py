"""What a node runs for `sweep tune`: `TuneJob` does trials of the searches in a frozen manifest.

Workers share the searches. A trial is claimed like a run, so no two workers have the same one, and
no search gets more trials than its budget. If a worker dies, the next one to claim the trial
resumes it from its last epoch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.errors import NotOwnedError
from core.store import shapes
from core.store.claims import Claim, now
from core.store.fence import newest_attempt
from core.store.folders import RunDir, Store, SweepDir
from core.store.json_files import read_jsonl
from sweep.grid import search
from sweep.grid.search import REAL, Search, trial_file, with_params
from sweep.state import breaker
from sweep.worker import attempt
from sweep.worker.job import Job, await_former, may_begin, rows_of

log = logging.getLogger("epsweep")
MOST_LOST = 3
"""A trial is given up after this many processes have died in it within a submission."""


@dataclass(frozen=True)
class TuneJob(Job):
    """Does trials of the searches in its rows until none is left. sweep: the path of the folder
    with the searches' submissions."""

    turn: int = 0
    """Row to begin with, so that workers spread over the searches."""

    def work(self) -> dict[str, int]:
        rows = rows_of(Path(self.manifest), self.first, self.count, shapes.Search)
        wanted = [Search.parse(row["search"], self.store.root / "tuned") for row in rows]
        return self.share(
            [
                (one, row.get("numbers", range(one.trials)), row["after"])
                for one, row in zip(wanted, rows, strict=True)
            ]
        )

    def share(
        self, searches: Sequence[tuple[Search, Sequence[int], Sequence[int]]]
    ) -> dict[str, int]:
        """Do trials of searches until none is left for this worker. searches: each with the numbers
        of the trials to do, and the number of earlier attempts at every trial."""
        outcomes = Counter[str]()
        turn = self.turn % len(searches)
        for wanted, numbers, after in [*searches[turn:], *searches[:turn]]:
            while outcome := self._next(wanted, numbers, after):
                outcomes[outcome] += 1
        return dict(outcomes)

    def _next(self, wanted: Search, numbers: Sequence[int], after: Sequence[int]) -> str | None:
        """Do one of these trials; None if none is left for this worker."""
        held = breaker.tripped(SweepDir(Path(self.sweep)))
        if held:
            log.warning("%s", held)
            return None
        seen = search.conclude(wanted)
        if seen.winner is not None:
            return None
        for trial in (seen.trials[number] for number in numbers):
            run = wanted.trial_dir(trial.number)
            await_former(run)
            fresh = trial.state == "new" and seen.out_of_time
            if trial.state in REAL or fresh or not may_begin(run, after[trial.number], MOST_LOST):
                continue
            claim = claim_trial(run, gpus=self.gpus)
            if claim:
                outcome = self._do(wanted, trial.number, claim)
                search.conclude(wanted)
                return outcome
        return None

    def _do(self, wanted: Search, number: int, claim: Claim) -> str:
        self.limit_threads()
        how = {"stage": self.stage, "compile": self.compile}
        return attempt.conduct(
            claim,
            lambda: conduct(wanted, number, claim, self.store, how),
            f"{wanted.name} trial {number}",
            SweepDir(Path(self.sweep)),
        )


def claim_trial(run: RunDir, *, gpus: float = 0) -> Claim | None:
    """A claim on a trial; None if another process holds it or it has just ended. In the latter case
    removes its weights, as its worker may have been killed before it could."""
    claim = attempt.claim_for(run, gpus=gpus)
    if claim and search.record(run):
        with suppress(NotOwnedError):  # then the process that has taken it over removes them
            search.forget(claim.run)
        claim.release("done")
        return None
    return claim


def conduct(
    wanted: Search, number: int, claim: Claim, store: Store, how: Mapping[str, Any]
) -> None:
    """Begin or resume a claimed trial, and record how it ended. how: keyword arguments of
    core.run.trial.train (a dict, as that module imports torch)."""
    from sweep.tune.study import Study  # imports optuna

    run, study = claim.run, Study(wanted, number)
    if not study.resumed:
        _clear(run)
    log.info("trial %d of %s: %s", number, wanted.name, study.params)
    config = with_params(wanted.config, study.params)
    try:
        ended = _stopped(study.stopped) if study.stopped else None
        ended = ended or _train(config, wanted, claim, store, study.promising, how)
    except (OSError, NotOwnedError):
        raise  # not due to the hyper-parameters (a full disk, ...): the trial can be resumed
    except Exception:
        study.give_up()
        raise
    known = {"params": study.params, "optuna": version("optuna"), "ended": now()}
    run.write_json(trial_file(run), ended | known)
    study.tell(ended)
    search.forget(run)


def _stopped(epochs: int) -> dict[str, Any]:
    """The record of a trial that was stopped early just before its process died."""
    return {"state": "pruned", "reason": None, "value": None, "images": 0, "epochs": epochs}


def _train(
    config: RunConfig,
    wanted: Search,
    claim: Claim,
    store: Store,
    promising: Callable[[Sequence[float]], bool],
    how: Mapping[str, Any],
) -> dict[str, Any]:
    """Train the trial; returns how it ended, for `trial.json`."""
    from core.errors import DivergedError
    from core.run import trial  # imports torch

    try:
        found = trial.train(
            config, wanted.goal, store, claim.run, claim, promising=promising, **how
        )
    except DivergedError as error:
        epochs = len(read_jsonl(claim.run.metrics))
        diverged = {"state": "diverged", "value": None, "images": 0, "epochs": epochs}
        return diverged | {"reason": str(error)}
    state = "pruned" if found.value is None else "completed"
    return {"state": state, "reason": None, **asdict(found)}


def _clear(run: RunDir) -> None:
    """Remove the files of an earlier, failed trial of this number, which had other
    hyper-parameters."""
    paths = (run.checkpoint, run.previous_checkpoint, run.metrics, run.config)
    for path in paths:
        run.remove(path)


def manifest_row(wanted: Search, numbers: Sequence[int]) -> dict[str, Any]:
    """A search as manifests hold it, with the trials to do and the earlier attempts at each."""
    after = [newest_attempt(wanted.trial_dir(n).path) for n in range(wanted.trials)]
    return {"search": wanted.to_dict(), "numbers": [*numbers], "after": after}
