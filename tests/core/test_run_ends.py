"""However a run ends, killed, taken over, diverged or done, it leaves no false result."""

from __future__ import annotations

import gc
import logging
import os
import signal
from pathlib import Path
from typing import Any

import killable
import numpy as np
import pytest
import tiny
import torch
from forks import Forks
from whole_run import CONFIG, FAST, MORE, assert_keeps_its_promise, execute, flags

from core.config import ConfigError
from core.errors import DivergedError, NotOwnedError, StoppedError
from core.evaluation import queue
from core.evaluation.queue import Search
from core.options import Options
from core.store.folders import RunDir, Store
from core.store.json_files import read_jsonl
from core.training.trainer import Trainer
from sweep.worker import attempt
from sweep.worker.stop import stoppable


@pytest.mark.slow
def test_a_kill_between_any_two_writes_leaves_no_false_result(forks: Forks, tmp_path: Path) -> None:
    """Killed before the n-th rename of a file, for every n, then finished: each attempt is picked
    up by the next."""
    asked = [item.model_copy(update={"images": 4, "steps": 1}) for item in (FAST, MORE)]
    evals = [item.to_dict() for item in asked]
    quick = {"schedule": "standard", "validation": {"steps": 1, "images": 2}}
    fields = {"epochs": 1, "batch": 20, **quick}
    finished, moment = 0, 0
    outcomes = []
    while not finished:
        moment += 1
        root = tmp_path / str(moment)
        code = forks.run(killable.execute, root, fields, evals, ("replace", moment))
        (path,) = (root / "runs").iterdir()
        outcomes.append(assert_keeps_its_promise(RunDir(path)))
        finished = code == 0
    # Once there is a result, there is one after every later kill, too.
    assert outcomes == sorted(outcomes) and outcomes[-1]
    assert outcomes.count(False) > 12, "too few moments: is os.replace still how files are placed?"
    reference = RunDir(path)
    # The last rename of all is that of a claim which says that the run is done.
    for moment in range(4, len(outcomes) - 1, 4):
        root = tmp_path / str(moment)
        assert forks.run(killable.execute, root, fields, evals, None) == 0
        folder = Store(root).run(reference.id)
        assert assert_keeps_its_promise(folder)
        for item in asked:
            one, two = (flags(place, item)["critical"] for place in (reference, folder))
            assert np.array_equal(one, two)
        lost, done = read_jsonl(folder.attempts)
        assert (lost["outcome"], done["outcome"]) == ("lost", "done")


def test_who_is_taken_over_during_an_evaluation_writes_no_result(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, search = store.run(CONFIG.id), queue.search

    def meanwhile(*arguments: Any, **options: Any) -> Search:
        found = search(*arguments, **options)
        if "progress" in options:
            (folder.path / "claim-0002.json").write_text("{}")
        return found

    monkeypatch.setattr(queue, "search", meanwhile)
    with pytest.raises(NotOwnedError, match="another process"):
        execute(store, CONFIG, [FAST])
    assert not folder.result.exists()
    assert not folder.eval_json(FAST.id).exists() and not folder.eval_flags(FAST.id).exists()
    assert read_jsonl(folder.attempts)[-1]["outcome"] is None, "and does not close the row"


def test_a_run_that_diverges_has_no_result(store: Store) -> None:
    config = tiny.config(optim={"lr": 1e30, "warmup": 0.0})
    with pytest.raises(DivergedError, match="epoch 0"):
        execute(store, config, [FAST])
    assert not store.run(config.id).result.exists()


def test_bad_data_stops_before_training(store: Store, tmp_path: Path) -> None:
    config = tiny.config(dataset=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"nowhere: no such folder"):
        execute(store, config, [FAST])
    names = set(os.listdir(store.run(config.id).path))
    assert not {"metrics.jsonl", "checkpoint.pt", "result.json"} & names


def test_damage_is_remarked_in_log_and_attempts(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    folder = store.run(CONFIG.id)
    execute(store, CONFIG, [FAST])
    folder.result.unlink()
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING, logger="epsweep"):
        execute(store, CONFIG, [FAST])
    (note,) = read_jsonl(folder.attempts)[-1]["notes"]
    assert note.startswith("checkpoint.pt is damaged (") and note in caplog.text
    assert assert_keeps_its_promise(folder)


@pytest.mark.parametrize("lr, outcome", [(1e-3, "done"), (1e30, "failed")])
def test_a_worker_keeps_nothing_of_a_run_that_has_ended(
    store: Store, lr: float, outcome: str
) -> None:
    """Its next run needs the memory; Python's own collection may not look for many runs."""
    config = tiny.config(optim={"lr": lr})
    gc.disable()
    try:
        made = attempt.make(config, [FAST], store, Options(tracking="none"))
        alive = [
            type(item) for item in gc.get_objects() if type(item) in (Trainer, torch.optim.AdamW)
        ]
    finally:
        gc.enable()
    assert made == outcome and alive == []


def test_a_stop_is_no_failure_of_what_it_interrupts(store: Store) -> None:
    """A library whose cleanup fails when a signal interrupts it hides the signal behind that."""
    run = store.run("interrupted")
    claim = attempt.claim_for(run)
    assert claim

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise OSError("the file is in an unfinished state")

    with stoppable(), pytest.raises(StoppedError):
        attempt.conduct(claim, work, "interrupted", None)
    (row,) = read_jsonl(run.attempts)
    assert (row["outcome"], row["reason"]) == ("interrupted", "stopped by SIGTERM")
