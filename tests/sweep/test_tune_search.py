"""A search knows its trials from its journal and their records; real trials see no test image."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import optuna
import pytest
import trials
from forks import Forks
from tuned_grid import one_search

from core.errors import DamagedError
from core.run import trial
from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl
from sweep.grid import search
from sweep.grid.search import Progress, Trial
from sweep.tune.study import Study


def test_two_workers_share_a_search_and_keep_to_its_budget(store: Store, forks: Forks) -> None:
    wanted = one_search(store, "{trials: 14}")
    manifest = trials.freeze(wanted, store.root / "manifest.jsonl")
    workers = [forks.start(trials.work, store.root, manifest, None, 0.01) for _ in range(2)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    seen = search.look(wanted)
    assert seen.real == 14 and seen.over and seen.winner
    done = [read_json(path) or {} for path in store.root.glob("worker-*.json")]
    assert sum(item["done"] for item in done) == 14 and all(item["done"] for item in done)
    for one in seen.trials:
        # One that has just ended may be claimed by the other worker, which finds it done.
        attempts = read_jsonl(wanted.trial_dir(one.number).attempts)
        assert {attempt["outcome"] for attempt in attempts} == {"done"}
    journal = Study(wanted, 99)._all()[:-1]  # but for the one it asks for here
    states = Counter(one.state.name for one in journal)
    assert states == {"COMPLETE": seen.counts["completed"], "PRUNED": seen.counts["pruned"]}
    assert sorted(one.user_attrs["trial"] for one in journal) == list(range(14))


def test_a_trial_that_was_given_up_stays_so(store: Store, forks: Forks) -> None:
    """Its worker may die before it has put that on record."""
    wanted = one_search(store, "{trials: 2}")
    trials.end(wanted, 0, "completed", 0.9)
    first = Study(wanted, 0)
    assert first.promising([0.9])
    second = Study(wanted, 1)
    assert not second.promising([0.1])
    assert Study(wanted, 1).stopped == 1
    manifest = trials.freeze(wanted, store.root / "manifest.jsonl")
    assert forks.run(trials.work, store.root, manifest) == 0
    seen = search.look(wanted)
    assert seen.trials[1].state == "pruned" and seen.trials[1].record["epochs"] == 1
    assert not wanted.trial_dir(1).metrics.exists(), "nothing was trained for it any more"


def test_a_half_written_line_does_not_spoil_the_journal(store: Store) -> None:
    wanted = one_search(store)
    asked = Study(wanted, 0)
    with open(wanted.journal, "ab") as file:
        file.write(b'{"op_code":4,"worker')
    assert asked.promising([0.5]), "a worker that had it open goes on"
    later = Study(wanted, 0)
    assert later.resumed and later.params == asked.params
    with open(wanted.journal, "ab") as file:
        file.write(b"{")
    assert Study(wanted, 0).resumed


@pytest.mark.parametrize("line", [b"\0\0\0\0\n", b"<html>\n", b"{}\n", b"[1]\n"])
def test_a_damaged_line_in_the_journal_is_one_line(store: Store, line: bytes) -> None:
    wanted = one_search(store)
    Study(wanted, 0)
    first, rest = wanted.journal.read_bytes().split(b"\n", 1)
    wanted.journal.write_bytes(first + b"\n" + line + rest)
    with pytest.raises(DamagedError) as error:
        Study(wanted, 0)
    assert str(error.value).startswith(f"{wanted.journal}: damaged, not an Optuna journal (")
    assert "\n" not in str(error.value)


def test_what_a_dead_worker_could_not_tell_is_told_later(store: Store) -> None:
    wanted = one_search(store)
    Study(wanted, 0)
    trials.end(wanted, 0, "completed", 0.5)
    known = Study(wanted, 1)._all()
    assert known[0].state is optuna.trial.TrialState.COMPLETE and known[0].value == 0.5


def test_trials_under_way_are_finished_when_time_is_up(store: Store) -> None:
    wanted = one_search(store, "{trials: 3, minutes: 1}")

    def progress(*states: str) -> Progress:
        given = [Trial(number, state, {}, 40.0) for number, state in enumerate(states)]
        return Progress(wanted, given, None)

    assert progress("completed", "pruned", "new").over
    assert progress("completed", "failed", "new").over
    for state in ("running", "interrupted"):
        assert not progress("completed", state, "new").over
    assert not Progress(wanted, [Trial(0, "completed"), Trial(1, "new")], None).over


# A real trial


def test_a_trial_is_judged_on_the_validation_split_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny

    from core.data import splits
    from core.store.claims import Claim

    seen = []
    whole = splits.load

    def load(*given: Any, **options: Any) -> splits.Dataset:
        seen.append(whole(*given, **options))
        poison = replace(seen[-1].test, labels=seen[-1].test.labels * 0 - 1)
        return replace(seen[-1], test=poison)

    monkeypatch.setattr(splits, "load", load)
    values: dict[str, float] = {}
    for goal in ("clean", "adversarial", "expected"):
        run = search.RunDir(store.root / goal)
        claim = Claim.acquire(run)
        assert claim
        told: list[list[float]] = []
        judged = trial.train(
            tiny.config(),
            goal,  # type: ignore[arg-type]
            store,
            run,
            claim,
            promising=lambda got, told=told: bool(told.append(list(got))) or True,  # type: ignore[misc]
        )
        claim.release("done")
        assert judged.epochs == 2 and judged.images == (60 if goal == "clean" else 10)
        assert len(told) == 1, "after the last epoch there is nothing to ask"
        assert judged.value is not None
        values[goal] = judged.value
        rows = read_jsonl(run.metrics)
        assert len(rows) == 2
        search.forget(run)
        assert not list(run.path.glob("*.pt")) and run.metrics.exists()
    last = rows[-1]
    assert values["clean"] == last["val_clean_correct"] / 60
    assert values["adversarial"] == last["val_adv_correct"] / 10
    assert values["adversarial"] <= values["expected"] <= 1


def test_an_unpromising_trial_stops_after_its_epoch(store: Store) -> None:
    import tiny

    from core.store.claims import Claim

    run = search.RunDir(store.root / "trial")
    claim = Claim.acquire(run)
    assert claim
    judged = trial.train(
        tiny.config(epochs=5), "clean", store, run, claim, promising=lambda got: len(got) < 2
    )
    claim.release("done")
    assert judged == trial.Judgement(None, 2, 60)
    assert run.checkpoint.exists(), "until the search has taken note"
