"""Searching hyper-parameters: the block of a grid, who shares a search, workers, winners."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import trials
from forks import Forks

from core import trial
from core.config import ConfigError, RunConfig
from core.rundir import Store, read_json, read_jsonl
from core.train import DivergedError
from sweep import grid as grids
from sweep import launch, search, submit, tunejob, tunetable, tuning, winners
from sweep.grid import Grid
from sweep.search import REAL, Progress, Search, Trial
from sweep.study import Study
from sweep.tunejob import TuneJob

GRID = """\
name: tiny
base: {weights: random, image_size: 32, epochs: 9, batch: 50, attack.steps: 1,
       validation: {steps: 1, images: 20}, backbone: mini_convnext, dataset: fake}
grid:
  epsilon_g: [2/255, 4/255]
  schedule: [standard, fix, sched]
seeds: [0, 1]
evals:
  - {epsilons: 0..4/255, steps: 1, images: 20}
"""


def parse(tune: str | None = "{trials: 6}", text: str = GRID) -> Grid:
    block = "" if tune is None else f"tune: {tune}\n"
    return grids.parse(text + block, Path("tiny.yaml"))


def searches(store: Store, tune: str = "{trials: 6}", text: str = GRID) -> list[Search]:
    return tuning.searches(parse(tune, text), store)


def one_search(store: Store, tune: str = "{trials: 6}") -> Search:
    """That of the runs at 2/255."""
    return searches(store, tune)[1]


# The block


BAD = [
    ("12", "tiny.yaml:10: tune: expected a mapping, got 12"),
    ("{trails: 5}", "tiny.yaml:10: tune.trails: unknown key, did you mean 'trials'?"),
    ("{trials: 0}", "tiny.yaml:10: tune.trials: input should be greater than or equal to 1, got 0"),
    ("{trials: 2.5}", "tune.trials: input should be a valid integer, got 2.5"),
    ("{minutes: -1}", "tune.minutes: input should be greater than 0, got -1"),
    ("{objective: test}", "tune.objective: input should be 'clean', 'adversarial' or 'expected'"),
    ("{schedule: sched}", "tune.schedule: input should be 'fix' or 'each', got 'sched'"),
    ("{separate_head: 1}", "tune.separate_head: input should be a valid boolean, got 1"),
    ("{reduction: 1}", "tune.reduction: input should be greater than or equal to 2, got 1"),
    ("{space: {}}", "tune.space: expected a mapping of fields to ranges"),
    ("{space: {optim.rl: [1, 2]}}", "'optim.rl' cannot be searched, did you mean 'optim.lr'?"),
    ("{space: {optim.lr: 0.1}}", "tune.space: optim.lr: expected [lowest, highest], got 0.1"),
    ("{space: {optim.lr: [1e-1, 1e-5]}}", "optim.lr: expected 0 < lowest < highest, got [0.1, "),
    ("{space: {optim.lr: [0, 1]}}", "optim.lr: expected 0 < lowest < highest, got [0, 1]"),
    ("{epochs: 5, schedule: each}", "tune.epochs: shorter trials need schedule: fix"),
]


@pytest.mark.parametrize(("block", "expected"), BAD)
def test_a_bad_block_is_one_line_with_its_place(block: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(block)
    (line,) = caught.value.lines
    assert line.startswith("tiny.yaml:10: tune") and expected in line


def test_a_problem_stands_at_its_own_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("\n  trials: 0\n  space:\n    optim.weight_decay: [1, 0.5]\n    optim.lr: [1, 2]")
    places = [line.split(": ")[0] for line in caught.value.lines]
    assert places == ["tiny.yaml:11", "tiny.yaml:13"]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("attack.steps: 1", "attack.steps: 1, optim.lr: 1e-3", "tiny.yaml:2: optim.lr"),
        ("attack.steps: 1", "optim: {lr: 1e-3, warmup: 0.1}", "tiny.yaml:2: optim.lr"),
        ("seeds:", "  optim.weight_decay: [0, 0.1]\nseeds:", "tiny.yaml:7: optim.weight_decay"),
        ("seeds:", "include: [{optim.lr: 1}]\nseeds:", "tiny.yaml:7: optim.lr"),
    ],
)
def test_a_field_is_searched_or_set_and_never_both(old: str, new: str, place: str) -> None:
    text = GRID.replace(old, new)
    with pytest.raises(ConfigError) as caught:
        parse("{}", text)
    (line,) = caught.value.lines
    assert line.startswith(place) and "searched by tune (line " in line
    assert len(parse(None, text).runs) >= 10


def test_a_frozen_backbone_has_no_second_pair_of_values() -> None:
    text = GRID.replace("attack.steps: 1", "attack.steps: 1, protocol: linear")
    assert parse("{}", text)
    with pytest.raises(ConfigError, match="protocol linear trains the head alone"):
        parse("{separate_head: true}", text)


def test_the_head_gets_the_ranges_of_the_rest() -> None:
    tune = parse("{separate_head: true, space: {optim.lr: [1e-4, 1e-2]}}").tune
    assert tune and tune.ranges == {"optim.lr": (1e-4, 1e-2), "optim.head_lr": (1e-4, 1e-2)}
    tune = parse("{}").tune
    assert tune and tune.ranges == dict.fromkeys(
        ("optim.lr", "optim.weight_decay"), (1e-5, 1e-1)
    ), "the paper's"


# Who shares a search


def test_runs_differ_from_those_without_a_search_only_once_it_is_through(store: Store) -> None:
    plain = [run.id for run in parse(None).runs]
    grid = parse()
    assert [run.id for run in grid.runs] == plain
    seen = winners.apply(grid, store)
    assert [run.id for run in seen.runs] == plain and len(seen.searches) == 3
    assert winners.apply(parse(None), store) == parse(None)


def test_sched_takes_the_search_of_fix_and_standard_has_its_own(store: Store) -> None:
    grid = parse()
    found = winners.by_run(grid, store)
    of = {(r.config.epsilon_g * 255, r.setting, r.config.seed): found[r.id] for r in grid.runs}
    assert len({one.id for one in of.values()}) == 3
    for strength in (2, 4):
        shared = {of[strength, setting, seed].id for setting in ("fix", "sched") for seed in (0, 1)}
        (name,) = shared
        assert of[strength, "fix", 0].config.schedule.is_fix and f"eps{strength}-fix-s0" in name
    assert of[0, "standard", 0] == of[0, "standard", 1]
    assert of[0, "standard", 0].config.schedule.kind == "standard"


def test_each_setting_may_have_a_search_of_its_own(store: Store) -> None:
    found = searches(store, "{schedule: each}")
    assert [one.config.setting for one in found] == ["standard", "fix", "sched", "fix", "sched"]


def test_a_search_is_named_by_what_it_tries_and_not_by_its_budget(store: Store) -> None:
    first = one_search(store)
    assert one_search(store, "{trials: 9, minutes: 3, least: 1}").id == first.id
    others = [
        "{objective: adversarial}",
        "{space: {optim.lr: [1e-5, 1e-1]}}",
        "{separate_head: true}",
        "{epochs: 4}",
        "{grace: 2}",
        "{reduction: 4}",
    ]
    assert len({first.id, *(one_search(store, other).id for other in others)}) == 7
    budgets = {one_search(store, b).winner_file for b in ("{}", "{trials: 9}", "{minutes: 9}")}
    assert len(budgets) == 3
    assert Search.parse(json.loads(json.dumps(first.to_dict())), first.folder) == first


# Workers


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
        (attempt,) = read_jsonl(wanted.trial_dir(one.number).attempts)
        assert attempt["outcome"] == "done"
    journal = Study(wanted, 99)._all()[:-1]  # but for the one it asks for here
    states = Counter(one.state.name for one in journal)
    assert states == {"COMPLETE": seen.counts["completed"], "PRUNED": seen.counts["pruned"]}
    assert sorted(one.user_attrs["trial"] for one in journal) == list(range(14))


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

    monkeypatch.setattr(tunejob, "may_begin", late)
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


def test_what_a_dead_worker_could_not_tell_is_told_later(store: Store) -> None:
    wanted = one_search(store)
    Study(wanted, 0)
    trials.end(wanted, 0, "completed", 0.5)
    known = Study(wanted, 1)._all()
    assert known[0].state is optuna.trial.TrialState.COMPLETE and known[0].value == 0.5


def test_a_spent_budget_of_minutes_ends_a_search(store: Store, free: Callable[..., None]) -> None:
    wanted = one_search(store, "{trials: 50, minutes: 0.001}")
    trials_done = finish(store, wanted, seconds=0.02)
    assert 1 <= trials_done.real < 50 and trials_done.out_of_time and trials_done.over
    assert trials_done.winner and trials_done.winner["trials"] == trials_done.real
    longer = finish(store, replace(wanted, minutes=None, trials=trials_done.real + 1))
    assert longer.real == trials_done.real + 1, "a larger budget goes on with the same trials"
    assert wanted.winner() == trials_done.winner, "and changes nothing for the smaller one"


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


# Winners


def through(store: Store, tune: str = "{trials: 3}") -> None:
    """Let every search of the grid be through; the best trial is the second one."""
    for wanted in searches(store, tune):
        for number, value in enumerate((0.25, 0.75, 0.5)[: wanted.trials]):
            trials.end(wanted, number, "completed", value)
        search.conclude(wanted)


def test_the_record_of_a_winner(store: Store) -> None:
    wanted = one_search(store, "{trials: 6, minutes: 240}")
    for number, value in enumerate((0.25, 0.75, 0.5)):
        trials.end(wanted, number, "completed", value)
    trials.end(wanted, 3, "pruned")
    trials.end(wanted, 4, "diverged")
    assert search.conclude(wanted).winner is None, "one trial is left"
    trials.end(wanted, 5, "pruned")
    record = search.conclude(wanted).winner
    assert record
    given = {key: record[key] for key in ("trials", *REAL, "failed", "value", "trial", "images")}
    assert given == {
        "trials": 6,
        "completed": 3,
        "pruned": 2,
        "diverged": 1,
        "failed": 0,
        "value": 0.75,
        "trial": 1,
        "images": 60,
    }
    assert record["params"] == {"optim.lr": 2e-3, "optim.weight_decay": 2e-3}
    assert record["second"]["value"] == 0.5 and record["second"]["params"]["optim.lr"] == 3e-3
    assert record["spread"] == {"lowest": 0.25, "highest": 0.75, "std": 0.25}
    assert record["budget"] == {"trials": 6, "minutes": 240} and record["objective"] == "clean"
    assert record["optuna"] and record["recorded"] and record["seed"] == 0
    before = wanted.winner_file.read_bytes()
    search.conclude(wanted)
    assert wanted.winner_file.read_bytes() == before, "written once"


def test_all_runs_take_winners_or_none(store: Store) -> None:
    grid = parse("{trials: 3, least: 2}")
    first, *others = tuning.searches(grid, store)
    for number in range(3):
        trials.end(first, number, "completed", 0.5)
    search.conclude(first)
    some = winners.apply(grid, store)
    assert some.runs == grid.runs and not any(run.tuned for run in some.runs)
    with pytest.raises(ConfigError) as caught:
        winners.require(some)
    (line,) = caught.value.lines
    assert line.startswith("tiny: 2 of 3 searches are not through (mini_convnext-fake-eps2-fix-s0")
    assert "0 of 3 trials" in line and "sweep tune tiny.yaml" in line
    for wanted in others:
        for number in range(3):
            trials.end(wanted, number, "completed", number / 3)
        search.conclude(wanted)
    full = winners.apply(grid, store)
    winners.require(full)
    by_setting = {(run.setting, run.config.epsilon_g): run for run in full.runs}
    assert len({run.id for run in full.runs} | {run.id for run in grid.runs}) == 20
    for (setting, _), run in by_setting.items():
        best = 0 if setting == "standard" else 2
        assert run.config.optim.lr == pytest.approx(1e-3 * (best + 1))
        assert run.tuned and run.tuned["least"] == 2
        assert submit.manifest_row(run)["tuned"]["trials"] == 3
    assert winners.apply(grid, store) == full, "whoever looks sees the same runs"
    assert winners.apply(parse("{trials: 4}"), store).runs == grid.runs, "of this budget"


def test_launch_refuses_a_grid_that_nobody_has_looked_into(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"run: sweep tune tiny\.yaml"):
        winners.require(parse())


def test_too_few_trials_are_flagged(store: Store) -> None:
    through(store)
    grid = winners.apply(parse("{trials: 3}"), store)
    few = [str(line) for line in winners.lines(grid)]
    assert "searched with fewer than 10 trials: mini_convnext-fake-standard-s0 (3)" in few[1]
    assert all(item["few_trials"] for item in winners.as_dict(grid)["tuning"])
    enough = winners.apply(parse("{trials: 3, least: 3}"), store)
    assert len(winners.lines(enough)) == 1 and not winners.weak(enough)
    seen = tunetable.as_dict(tuning.look(grid.searches), 10)["searches"]
    assert [item["few_trials"] for item in seen] == [True] * 3
    assert [
        item["few_trials"] for item in tunetable.as_dict(tuning.look(grid.searches), 3)["searches"]
    ] == [False] * 3


Call = Callable[..., tuple[int, str, str]]


def test_the_command_line_tells_what_is_missing(call: Call, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"{GRID}tune: {{trials: 3}}\n")
    code, out, _ = call("plan", str(path))
    assert code == 0 and "not tuned yet: 3 of 3 searches are not through" in out
    code, _, err = call("launch", str(path), "--tracking", "none")
    assert code == 2 and len(err.splitlines()) == 1 and "sweep tune" in err
    assert not store.root.exists(), "nothing is written"
    code, out, _ = call("tune", str(path), "--status")
    assert code == 3 and "0 of 3 searches are through, 0 of 9 trials" in out
    through(store)
    code, out, _ = call("tune", str(path))
    assert code == 0 and "75.00" in out and "50.00" in out and "25.00" in out
    assert "3 trials, expected at least 10; its results are flagged" in out
    code, out, _ = call("status", str(path))
    assert "searched with fewer than 10 trials" in out
    _, out, _ = call("plan", str(path), "--json")
    plan = json.loads(out)
    assert {run["config"]["optim"]["lr"] for run in plan["runs"]} == {2e-3}
    assert len(plan["tuning"]) == 3 and plan["tuning"][0]["winner"]["value"] == 0.75
    path.write_text(GRID)
    code, _, err = call("tune", str(path))
    assert code == 2 and "has no `tune:` block" in err


def test_a_trial_needs_no_team(call: Call, tmp_path: Path) -> None:
    path, profile = tmp_path / "tiny.yaml", tmp_path / "two.yaml"
    path.write_text(f"{GRID}tune: {{}}\n")
    profile.write_text("executor: local\ngpus_per_run: 2\n")
    code, _, err = call("tune", str(path), "--profile", str(profile))
    assert code == 2 and "a trial trains in one process" in err


@pytest.mark.slow
def test_from_search_to_table(tmp_path: Path) -> None:
    """Real workers, one of them killed; the grid then runs with what they have found."""
    path, root = tmp_path / "tiny.yaml", tmp_path / "root"
    text = GRID.replace("epochs: 9", "epochs: 3").replace("[2/255, 4/255]", "[2/255]")
    path.write_text(text.replace("seeds: [0, 1]", "seeds: [0]") + "tune: {trials: 4}\n")
    command = [sys.executable, "-m", "sweep.cli"]

    def sweep(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *arguments, "--root", str(root)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    tuner = sweep("tune", str(path), "--max-parallel", "2")
    claims = root / "tuned"
    killed = None
    while killed is None and tuner.poll() is None:
        for file in claims.glob("*/trials/*/claim-0001.json"):
            info = json.loads(file.read_text() or "{}")
            if info and not info["outcome"] and len(read_jsonl(file.parent / "metrics.jsonl")) > 0:
                os.kill(info["pid"], 9)
                killed = file.parent
                break
    out, _ = tuner.communicate(timeout=300)
    assert killed and tuner.returncode == 0, out
    assert "2 of 2 searches are through, 8 of 8 trials" in out
    outcomes = [row["outcome"] for row in read_jsonl(killed / "attempts.jsonl")]
    assert outcomes == ["lost", "done"]
    assert not list(claims.rglob("*.pt")) and not (root / "runs").exists()

    launched = sweep("launch", str(path), "--tracking", "none")
    out, _ = launched.communicate(timeout=300)
    assert launched.returncode == 0, out
    seen = launch.look(winners.apply(grids.load(path), Store(root)), Store(root))
    assert {status.state for status in seen.statuses} == {"done"}
    rates = {status.run.setting: status.run.config.optim.lr for status in seen.statuses}
    assert rates["fix"] == rates["sched"] != 1e-4
    tables = sweep("tables", str(path))
    out, _ = tables.communicate(timeout=120)
    assert "hyper-parameters from a search of 4 trials, expected at least 10" in out


# A real trial


def test_a_trial_is_judged_on_the_validation_split_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny

    from core import data
    from core.claims import Claim

    seen = []
    whole = data.load

    def load(*given: Any, **options: Any) -> data.Dataset:
        seen.append(whole(*given, **options))
        poison = replace(seen[-1].test, labels=seen[-1].test.labels * 0 - 1)
        return replace(seen[-1], test=poison)

    monkeypatch.setattr(data, "load", load)
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

    from core.claims import Claim

    run = search.RunDir(store.root / "trial")
    claim = Claim.acquire(run)
    assert claim
    judged = trial.train(
        tiny.config(epochs=5), "clean", store, run, claim, promising=lambda got: len(got) < 2
    )
    claim.release("done")
    assert judged == trial.Judgement(None, 2, 60)
    assert run.checkpoint.exists(), "until the search has taken note"


def test_the_job_can_be_sent_to_a_node(tmp_path: Path) -> None:
    import pickle

    job = TuneJob(str(tmp_path), str(tmp_path), str(tmp_path / "manifest.jsonl"), 0, 1)
    assert pickle.loads(pickle.dumps(job)) == job
    assert len(pickle.dumps(job)) < 1000
