"""The `tune:` block of a grid: every mistake at its line, and which runs share a search."""

from __future__ import annotations

import json

import pytest
from tuned_grid import GRID, one_search, parse, searches

from core.config import ConfigError
from core.store.folders import Store
from sweep.grid.search import Search
from sweep.tune import winners

BAD = [
    ("12", "tiny.yaml:10: tune: expected a mapping, got 12"),
    ("{trails: 5}", "tiny.yaml:10: tune.trails: unknown key, did you mean 'trials'?"),
    (
        "{trials: -1}",
        "tiny.yaml:10: tune.trials: input should be greater than or equal to 0, got -1",
    ),
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
    ("{space: {optim.lr: [a, b]}}", "tune.space: optim.lr: expected [lowest, highest], got ["),
    (
        "{space: {optim.rate: [cosine, linear]}}",
        "optim.rate: expected two or more of cosine, constant, got ['cosine', 'linear']",
    ),
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
        parse("\n  trials: -1\n  space:\n    optim.weight_decay: [1, 0.5]\n    optim.lr: [1, 2]")
    places = [line.split(": ")[0] for line in caught.value.lines]
    assert places == ["tiny.yaml:11", "tiny.yaml:13"]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("attack.steps: 1", "attack.steps: 1, optim.lr: 1e-3", "tiny.yaml:2: optim.lr"),
        ("attack.steps: 1", "optim: {lr: 1e-3, warmup: 0.1}", "tiny.yaml:2: optim.lr"),
        ("seeds:", "  optim.weight_decay: [0, 0.1]\nseeds:", "tiny.yaml:7: optim.weight_decay"),
        (
            "seeds:",
            "  way: [{precision: bf16, optim: {lr: 1}}]\nseeds:",
            "tiny.yaml:7: optim.lr",
        ),
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
    space = "{optim.lr: [1e-4, 1e-2], optim.head_lr: [1e-3, 1], optim.rate: [cosine, constant]}"
    tune = parse(f"{{space: {space}}}", text).tune
    assert tune and tune.ranges_of("full") == tune.ranges and len(tune.ranges) == 3
    assert tune.ranges_of("linear") == {"optim.rate": ("cosine", "constant"), "optim.lr": (1e-3, 1)}


def test_the_head_gets_the_ranges_of_the_rest() -> None:
    tune = parse("{separate_head: true, space: {optim.lr: [1e-4, 1e-2]}}").tune
    assert tune and tune.ranges == {"optim.lr": (1e-4, 1e-2), "optim.head_lr": (1e-4, 1e-2)}
    tune = parse("{}").tune
    assert tune and tune.ranges == dict.fromkeys(
        ("optim.lr", "optim.weight_decay"), (1e-5, 1e-1)
    ), "the paper's"


# Who shares a search


def test_without_trials_every_run_takes_its_first_draw(store: Store) -> None:
    space = "space: {optim.lr: [1e-6, 1e-1], optim.rate: [cosine, constant]}"
    grid = parse(f"{{trials: 0, {space}}}", GRID.replace("[0, 1]", "[0, 1, 2]"))
    drawn = winners.apply(grid, store)
    winners.require(drawn)
    assert not drawn.searches and winners.apply(grid, store) == drawn
    by_search: dict[str, set[tuple[float, str]]] = {}
    for run in drawn.runs:
        optim, told = run.config.optim, run.tuned or {}
        assert told["trials"] == 0 and told["params"]["optim.lr"] == optim.lr
        assert 1e-6 <= optim.lr <= 1e-1 and optim.lr == float(f"{optim.lr:.3g}")
        by_search.setdefault(told["search"], set()).add((optim.lr, optim.rate))
    assert len(by_search) == 3 and len(set.union(*by_search.values())) == 3
    assert "not searched: every run has the first draw" in str(winners.lines(drawn)[0])
    with pytest.raises(ConfigError, match=r"tune.trials is 0: nothing to search"):
        searches(store, f"{{trials: 0, {space}}}")


def test_runs_change_their_ids_only_once_their_search_is_finished(store: Store) -> None:
    plain = [run.id for run in parse(None).runs]
    grid = parse()
    assert [run.id for run in grid.runs] == plain
    seen = winners.apply(grid, store)
    assert [run.id for run in seen.runs] == plain and len(seen.searches) == 3
    assert winners.apply(parse(None), store) == parse(None)


def test_sched_takes_the_search_of_fix_and_standard_has_its_own(store: Store) -> None:
    grid = parse()
    found = winners.by_run(grid, store)
    of = {(r.config.epsilon_g.in_255ths, r.setting, r.config.seed): found[r.id] for r in grid.runs}
    assert len({one.id for one in of.values()}) == 3
    for strength in (2, 4):
        shared = {of[strength, setting, seed].id for setting in ("fix", "sched") for seed in (0, 1)}
        (name,) = shared
        assert of[strength, "fix", 0].config.schedule.is_fix and f"eps{strength}-fix-s0" in name
    assert of[0, "standard", 0] == of[0, "standard", 1]
    assert of[0, "standard", 0].config.schedule.kind == "standard"


def test_each_setting_may_have_a_separate_search(store: Store) -> None:
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
