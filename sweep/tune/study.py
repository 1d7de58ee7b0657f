"""What Optuna does in a search: it proposes hyper-parameters and says when to stop a trial early.

Its journal, one file, is shared by all workers of a search, also across nodes: every line is
appended under a lock that works on network file systems. It is only Optuna's memory: the outcome of
a trial is in the trial's folder, and is reported to Optuna later if a worker died before it could
(`Study._settle`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from core.config.seeds import derive
from core.errors import DamagedError, first_line
from sweep.grid.search import Search, record, rounded
from sweep.grid.tune_block import Range

SLOT = "trial"
"""Attribute of an Optuna trial: the number of our trial. Several may have the same one, as a trial
that failed is repeated as a new Optuna trial."""
STOPPED = "stopped"
"""Attribute of an Optuna trial that was stopped early: after how many epochs."""


class _Journal(JournalFileBackend):
    """A journal that repairs a half-written last line (after a full disk or a lost node)."""

    def __init__(self, path: Path) -> None:
        self._file, self._guard = path, JournalFileOpenLock(str(path))
        super().__init__(str(path), self._guard)
        self._mend()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._mend()
        super().append_logs(logs)

    def _mend(self) -> None:
        """Cut off an incomplete last line: under the lock, no other process is writing it."""
        self._guard.acquire()
        try:
            with open(self._file, "rb+") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                if file.read() not in (b"", b"\n"):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        finally:
            self._guard.release()


class Study:
    """Optuna's side of one of our trials, for the process that holds it. Raises DamagedError if the
    search's journal cannot be read."""

    def __init__(self, search: Search, number: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search, self.number = search, number
        os.makedirs(search.path, exist_ok=True)
        try:
            self._study = optuna.create_study(
                study_name=search.id,
                storage=JournalStorage(_Journal(search.journal)),
                direction="maximize",
                load_if_exists=True,
                pruner=SuccessiveHalvingPruner(
                    min_resource=search.grace, reduction_factor=search.reduction
                ),
            )
        except (ValueError, LookupError, TypeError) as error:  # from a line that is not Optuna's
            raise DamagedError(
                search.journal, f"not an Optuna journal ({first_line(error)})"
            ) from None
        self._settle()
        tries = len(self._ours())
        seed = derive(search.config.seed, "tune", search.id, number, tries)
        with warnings.catch_warnings():  # before Optuna 5 it calls constant_liar experimental
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study.sampler = TPESampler(seed=seed % 2**32, constant_liar=True)
        self.resumed, self._trial = self._take()
        self.params = {name: self._suggest(name, ends) for name, ends in search.ranges.items()}
        """Dotted field -> value."""

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _ours(self) -> list[FrozenTrial]:
        """All Optuna trials for our trial: the latest, and those that failed before it."""
        return [trial for trial in self._all() if trial.user_attrs.get(SLOT) == self.number]

    def _settle(self) -> None:
        """Report trials that have ended but that Optuna still takes for running."""
        for trial in self._all():
            if trial.state is TrialState.RUNNING and SLOT in trial.user_attrs:
                run = self.search.trial_dir(trial.user_attrs[SLOT])
                ended = record(run)
                if ended is not None:
                    self._tell(trial.number, ended)

    def _take(self) -> tuple[bool, optuna.Trial]:
        """(True, the Optuna trial that a former holder of our trial began) or (False, a new
        one)."""
        for trial in self._ours():
            if trial.state is TrialState.RUNNING:
                return True, optuna.Trial(self._study, trial._trial_id)
        fresh = self._study.ask()
        fresh.set_user_attr(SLOT, self.number)
        return False, fresh

    def _suggest(self, name: str, ends: Range) -> float | str:
        if isinstance(ends[0], str):
            chosen: str = self._trial.suggest_categorical(name, ends)
            return chosen
        low, high = map(float, ends)
        return rounded(self._trial.suggest_float(name, low, high, log=True), low, high)

    def promising(self, values: Sequence[float]) -> bool:
        """Whether to continue the trial, by successive halving. values: accuracy in [0, 1] after
        each epoch so far."""
        known = self._all()[self._trial.number].intermediate_values
        for epoch, value in enumerate(values, start=1):
            if epoch not in known:
                self._trial.report(value, epoch)
        stop = self._trial.should_prune()
        if stop:  # so that the next holder knows if this process dies now
            self._trial.set_user_attr(STOPPED, len(values))
        return not stop

    @property
    def stopped(self) -> int | None:
        """After how many epochs a former holder stopped the trial early, if it died before it could
        record that; else None."""
        found: int | None = self._trial.user_attrs.get(STOPPED)
        return found

    def tell(self, ended: Mapping[str, Any]) -> None:
        """Report how the trial ended. ended: the content of its trial.json."""
        self._tell(self._trial.number, ended)

    def _tell(self, number: int, ended: Mapping[str, Any]) -> None:
        # Optuna has no state for divergence: reported as stopped early, without a value.
        completed = ended["state"] == "completed"
        state = TrialState.COMPLETE if completed else TrialState.PRUNED
        value = ended["value"] if completed else None
        with suppress(UpdateFinishedTrialError):  # another worker has just reported it
            self._study.tell(number, value, state=state, skip_if_finished=True)

    def give_up(self) -> None:
        """Report that the trial failed, which says nothing about its hyper-parameters."""
        self._study.tell(self._trial, state=TrialState.FAIL)
