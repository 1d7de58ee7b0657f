"""Workers of a search: they keep to its budget, and trials that fail or are killed are no loss."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trials
from forks import Forks
from tuned_grid import one_search, parse, searches

from core.config import ConfigError, RunConfig
from core.errors import DivergedError
from core.run import trial
from core.store.folders import Store
from core.store.json_files import read_jsonl
from sweep.grid import search
from sweep.grid.search import Progress, Search
from sweep.tune import trial_job, winners
from sweep.tune.study import Study
from sweep.tune.trial_job import TuneJob


def finish(store: Store, wanted: Search, **options: Any) -> Progress:
    """One worker does all there is to do."""
    manifest = trials.freeze(wanted, store.root / "manifest.jsonl")
    trials.work(store.root, manifest, **options)
    return search.look(wanted)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the training of trials in this process."""
    monkeypatch.setattr(trial, "train", trial.train)  # put back afterwards

    def use(train: Callable[..., trial.Judgement]) -> None:
        monkeypatch.setattr(trial, "train", train)
        monkeypatch.setattr(trials, "trainer", lambda *_: train)

    return use


def test_a_search_spends_its_budget_and_halves(store: Store, free: Callable[..., None]) -> None:
    seen = finish(store, one_search(store, "{trials: 12}"))
    assert seen.real == 12 and seen.over and seen.counts["pruned"] >= 4
    assert seen.counts["completed"] >= 1
    for one in seen.trials:
        assert one.record["epochs"] in ((9,) if one.state == "completed" else (1, 3))
        run = seen.search.trial_dir(one.number)
        assert not run.checkpoint.exists() and not run.result.exists()
        low, high = 1e-5, 1e-1
        assert all(low <= value <= high for value in one.record["params"].values())
    assert not store.runs.exists(), "trials are no results"
    best = min(seen.trials, key=lambda one: -(one.record["value"] or 0))
    winner = seen.winner
    assert winner and winner["params"] == best.record["params"]
    assert winner["trials"] == 12 and winner["completed"] == seen.counts["completed"]
    again = finish(store, seen.search)
    assert again == seen, "there is nothing left to do"


def test_a_search_repeats_itself(store: Store, free: Callable[..., None]) -> None:
    """Proposals depend on the search and on what is known, not on who asks."""
    params = []
    for name in ("a", "b"):
        other = Store(store.root / name)
        seen = finish(other, one_search(other))
        params.append([one.record["params"] for one in seen.trials])
    assert params[0] == params[1]


@pytest.mark.parametrize("moment", [(0, 1), (0, 5), (2, 1)])
def test_a_killed_worker_loses_nothing(
    store: Store, forks: Forks, moment: trials.Moment, free: Callable[..., None]
) -> None:
    """The trial goes on from its epoch with its hyper-parameters, and is one trial."""
    calm = finish(Store(store.root / "calm"), one_search(Store(store.root / "calm")))
    wanted = one_search(store)
    manifest = trials.freeze(wanted, store.root / "manifest.jsonl")
    assert forks.run(trials.work, store.root, manifest, moment) == -9
    seen = search.look(wanted)
    number, epoch = moment
    assert seen.trials[number].state == "interrupted" and not seen.over and seen.winner is None
    assert len(read_jsonl(wanted.trial_dir(number).metrics)) == epoch
    assert forks.run(trials.work, store.root, manifest) == 0
    seen = search.look(wanted)
    assert seen.real == 6 and seen.over
    outcomes = [row["outcome"] for row in read_jsonl(wanted.trial_dir(number).attempts)]
    assert outcomes == ["lost", "done"]
    assert [one.record["params"] for one in seen.trials] == [
        one.record["params"] for one in calm.trials
    ], "as if nothing had happened"


@pytest.mark.slow
def test_a_worker_may_die_at_any_moment(
    store: Store, forks: Forks, free: Callable[..., None]
) -> None:
    """Before any of the files that it puts in their places."""

    def ended(seen: Progress) -> list[Any]:
        kept = "params", "value", "epochs"
        return [(one.state, *(one.record.get(name) for name in kept)) for one in seen.trials]

    calm = ended(finish(store, one_search(store, "{trials: 3}")))
    deaths = 0
    for moment in range(1, 60, 5):
        root = Store(store.root / str(moment))
        wanted = one_search(root, "{trials: 3}")
        manifest = trials.freeze(wanted, root.root / "manifest.jsonl")
        code = forks.run(trials.die_at_rename, root.root, manifest, moment)
        for claim in wanted.path.rglob("claim-*.json"):
            if not claim.read_text():  # died before it could say who it is: only time can tell
                os.utime(claim, (0, 0))
        assert forks.run(trials.work, root.root, manifest) == 0
        seen = search.look(wanted)
        assert ended(seen) == calm and seen.winner, moment
        assert not list(wanted.path.rglob("*.pt"))
        known = Study(wanted, 99)._all()[:-1]
        assert [one.user_attrs["trial"] for one in known] == [0, 1, 2]
        assert all(one.state.is_finished() for one in known)
        deaths += code == -9
        if code == 0:
            break
    assert deaths > 5


def test_a_trial_that_kills_its_workers_is_given_up_for_now(store: Store, forks: Forks) -> None:
    wanted = one_search(store, "{trials: 1}")
    manifest = trials.freeze(wanted, store.root / "manifest.jsonl")
    for _ in range(3):
        assert forks.run(trials.die_always, store.root, manifest) == -9
    assert forks.run(trials.work, store.root, manifest) == 0
    assert search.look(wanted).real == 0
    again = trials.freeze(wanted, store.root / "again.jsonl")
    assert forks.run(trials.work, store.root, again) == 0, "another submission tries again"
    assert search.look(wanted).real == 1


def test_a_trial_that_was_done_in_this_moment_is_not_done_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, free: Callable[..., None]
) -> None:
    wanted = one_search(store, "{trials: 1}")

    def late(*_: object) -> bool:
        """Another worker is quicker, between our look and our claim."""
        if not search.look(wanted).real:
            trials.end(wanted, 0, "completed", 0.125)
        return True

    monkeypatch.setattr(trial_job, "may_begin", late)
    seen = finish(store, wanted)
    assert seen.values == [0.125] and not wanted.journal.exists()


def test_a_trial_that_fails_does_not_count(store: Store, free: Callable[..., None]) -> None:
    wanted = one_search(store, "{trials: 4}")
    proposed = []

    def broken(config: RunConfig, *given: Any, **options: Any) -> trial.Judgement:
        if given[2].id == "0001":
            proposed.append(config.optim.lr)
            raise RuntimeError("no such kernel")
        return whole(config, *given, **options)

    whole = trials.trainer()
    free(broken)
    seen = finish(store, wanted)
    assert (seen.real, seen.counts["failed"]) == (3, 1)
    assert not seen.over and seen.winner is None
    assert "no such kernel" in (seen.trials[1].reason or "")
    free(whole)
    seen = finish(store, wanted)
    assert seen.real == 4 and seen.over
    assert seen.trials[1].record["params"]["optim.lr"] not in proposed
    assert (seen.winner or {})["failed"] == 0


def test_a_full_disk_is_not_held_against_the_hyper_parameters(
    store: Store, free: Callable[..., None]
) -> None:
    wanted, tried, whole = one_search(store, "{trials: 1}"), [], trials.trainer()

    def full(config: RunConfig, *_: Any, **__: Any) -> trial.Judgement:
        tried.append(config.optim.lr)
        raise OSError(28, "No space left on device", "checkpoint.pt")

    free(full)
    assert finish(store, wanted).counts["failed"] == 1
    free(whole)
    seen = finish(store, wanted)
    assert seen.trials[0].record["params"]["optim.lr"] == tried[0]


def test_divergence_is_an_answer(store: Store, free: Callable[..., None]) -> None:
    def diverge(*_: Any, **__: Any) -> trial.Judgement:
        raise DivergedError("the training loss became nan at epoch 0")

    free(diverge)
    seen = finish(store, one_search(store, "{trials: 3}"))
    assert (seen.real, seen.counts["diverged"], seen.over) == (3, 3, True)
    assert seen.winner and seen.winner["params"] is None and seen.winner["spread"] is None
    every = [finish(store, one) for one in searches(store, "{trials: 3}")]
    assert all(one.over for one in every)
    with pytest.raises(ConfigError, match="no trial was completed in the search for mini_conv"):
        winners.require(winners.apply(parse("{trials: 3}"), store))


def test_a_spent_budget_of_minutes_ends_a_search(store: Store, free: Callable[..., None]) -> None:
    wanted = one_search(store, "{trials: 50, minutes: 0.001}")
    trials_done = finish(store, wanted, seconds=0.02)
    assert 1 <= trials_done.real < 50 and trials_done.out_of_time and trials_done.over
    assert trials_done.winner and trials_done.winner["trials"] == trials_done.real
    longer = finish(store, replace(wanted, minutes=None, trials=trials_done.real + 1))
    assert longer.real == trials_done.real + 1, "a larger budget goes on with the same trials"
    assert wanted.winner() == trials_done.winner, "and changes nothing for the smaller one"


def test_the_job_can_be_sent_to_a_node(tmp_path: Path) -> None:
    import pickle

    job = TuneJob(str(tmp_path), str(tmp_path), str(tmp_path / "manifest.jsonl"), 0, 1)
    assert pickle.loads(pickle.dumps(job)) == job
    assert len(pickle.dumps(job)) < 1000
