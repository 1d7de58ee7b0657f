"""Several grids at once: what they share; and the paper's grids against its published tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis
from analysis.names import dataset_name, model_name
from core.config.datasets import entries
from core.store.folders import Store
from sweep import several
from sweep.grid import Grid, load_grid, parse_grid
from sweep.state.plan import Plan, State, Status
from sweep.tune import session, winners

PUBLISHED = Path(analysis.__file__).parent / "published"
TABLES = {
    "robust_backbones": (3,),
    "auto_schedule": (4,),
    "autoattack": (6,),
    "t1_t2": (7,),
    "uniform": (8,),
    "imagenette": (12,),
    "epsilon_scheduling": (1, 2),
    "seeds": (1, 2),
    "tuned": (1, 2),
}
HINGES = {"fix": "T1=0;T2=0", "sched": "T1=12;T2=37"}


@pytest.mark.parametrize("name", TABLES)
def test_a_grid_has_the_cells_of_its_tables(name: str) -> None:
    tables = [pd.read_csv(PUBLISHED / f"table{number}.csv") for number in TABLES[name]]
    frame = pd.concat(tables)
    fields = frame[["model", "dataset", "epsilon_g", "setting"]].drop_duplicates()
    cells = set()
    for run in load_grid(name).runs:
        if run.setting == "standard":
            continue
        config = run.config
        setting = HINGES.get(run.setting, run.setting) if name == "t1_t2" else run.setting
        where = model_name(config.backbone), dataset_name(config.dataset)
        cells.add((*where, int(config.epsilon_g.in_255ths), setting))
    assert cells == set(fields.itertuples(index=False, name=None))
    assert set(map(str, TABLES[name])) <= set(load_grid(name).tables)


def test_no_two_datasets_share_a_name_in_tables() -> None:
    shown = [dataset_name(name) for name in entries()]
    assert len(set(shown)) == len(shown) and set(shown).isdisjoint(entries())


def test_strength_sweep_is_the_nine_strengths() -> None:
    runs = load_grid("strength_sweep").runs
    fixed = [run.config for run in runs if run.setting == "fix"]
    assert sorted({int(config.epsilon_g.in_255ths) for config in fixed}) == list(range(1, 10))
    assert len(fixed) == 90 and {config.backbone for config in fixed} == {"swin", "vit"}


def test_fix_lr_varies_only_rates() -> None:
    runs = [run.config for run in load_grid("fix_lr").runs]
    rates = {(config.optim.lr, config.optim.head_lr or config.optim.lr) for config in runs}
    assert len(rates) == 15
    plain = {
        c.model_copy(update={"optim": runs[0].optim, "backbone": "", "dataset": ""}) for c in runs
    }
    assert len(plain) == 1 and runs[0].setting == "fix"


def test_tuned_is_the_main_grid_after_the_searches_of_the_paper(store: Store) -> None:
    grid = load_grid("tuned")
    assert [run.id for run in grid.runs] == [
        run.id for run in load_grid("epsilon_scheduling").runs
    ], "it differs in nothing but what is searched"
    found = session.searches(grid, store)
    assert len(found) == 90
    assert {tuple(one.ranges.values()) for one in found} == {((1e-5, 1e-1), (1e-5, 1e-1))}
    assert Counter(one.config.setting for one in found) == {"fix": 60, "standard": 30}


def test_lora_is_compared_with_full_fine_tuning_cell_by_cell() -> None:
    runs = load_grid("lora").runs
    cells: dict[str, set[tuple[object, ...]]] = {"full": set(), "lora": set()}
    for run in runs:
        config = run.config
        where = config.backbone, config.dataset, config.epsilon_g, run.setting
        cells[config.protocol].add(where)
    assert cells["full"] == cells["lora"] and len(cells["lora"]) == 30
    rates = {(run.config.protocol, run.config.optim.lr) for run in runs}
    assert rates == {("full", 1e-4), ("lora", 1e-3)}


def test_every_threat_model_is_trained_in_and_judged_by_all() -> None:
    runs = load_grid("threat_models").runs
    attacked = [run.config for run in runs if run.setting != "standard"]
    strengths = {(config.norm, float(config.epsilon_g)) for config in attacked}
    assert strengths == {("linf", 4 / 255), ("l2", 2.0), ("l1", 75.0)}
    assert len(runs) == 42 and len(attacked) == 36
    largest = {(item.norm, float(item.epsilons[-1])) for item in runs[0].evals}
    assert largest == {("linf", 16 / 255), ("l2", 2.0), ("l1", 75.0)}


SHARED = {
    "robust_backbones": 0,
    "auto_schedule": 24,
    "autoattack": 8,
    "t1_t2": 4,
    "uniform": 36,
    "imagenette": 0,
    "strength_sweep": 50,
    "seeds": 150,
    "fix_lr": 4,
    "lora": 30,
    "threat_models": 18,
}


@pytest.mark.parametrize("name", SHARED)
def test_runs_are_shared_with_the_main_grid(name: str) -> None:
    """Equal runs have one id, so the grids must agree in every field that they do not study."""
    main = {run.id for run in load_grid("epsilon_scheduling").runs}
    assert len(main & {run.id for run in load_grid(name).runs}) == SHARED[name]


def test_all_of_the_paper_together(store: Store) -> None:
    loaded = [load_grid(name) for name in ("epsilon_scheduling", *SHARED)]
    shares = several.look(loaded, store)
    every = several.union(shares)
    asked = sum(len(grid.runs) for grid in loaded)
    distinct = {run.id for grid in loaded for run in grid.runs}
    assert len(every.statuses) == len(distinct) == asked - sum(share.shared for share in shares)
    assert shares[0].shared == 0 and shares[0].estimate.hours
    by_name = {share.grid.name: share for share in shares}
    assert by_name["seeds"].estimate.known == pytest.approx(2 * shares[0].estimate.known), (
        "two more seeds"
    )
    own = by_name["autoattack"]
    assert own.estimate.hours and own.shared == 8, (
        "of runs that are shared, the new evaluation counts"
    )
    assert own.estimate.known < own.cost.total(own.grid.runs).known


def test_a_grid_that_is_not_tuned_yet_shares_nothing(store: Store) -> None:
    """Its runs will have other rates, whatever its file says of them today."""
    main, tuned = (winners.apply(load_grid(n), store) for n in ("epsilon_scheduling", "tuned"))
    for order in ((main, tuned), (tuned, main)):
        shares = several.look(order, store)
        assert [share.shared for share in shares] == [0, 0]
        assert len(several.union(shares).statuses) == 300
        hours = {share.grid.name: share.estimate.known for share in shares}
        searches = shares[0].cost.searching(tuned.searches).known
        assert hours["tuned"] == pytest.approx(searches + hours[main.name]) and searches > 100


def tiny_grid(text: str) -> Grid:
    base = "base: {backbone: mini_resnet, weights: random, dataset: fake, epochs: 2}\n"
    return parse_grid(f"{base}{text}", Path("x.yaml"))


def test_a_shared_run_is_done_only_with_the_evaluations_of_both(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tiny_grid("name: one\ngrid: {epsilon_g: [4/255]}\n")
    two = tiny_grid("name: two\ngrid: {epsilon_g: [4/255, 8/255]}\nevals: [{steps: 20}]\n")
    states = {"one": State.DONE, "two": State.UNEVALUATED}

    def look(grid: Grid, *_: object) -> Plan:
        return Plan([Status(run, states[grid.name]) for run in grid.runs])

    monkeypatch.setattr(several.launcher, "look", look)
    for order in ([one, two], [two, one]):
        every = several.union(several.look(order, store))
        assert every.counts == {State.UNEVALUATED: 2}
    states["two"] = State.DONE
    assert several.union(several.look([one, two], store)).counts == {State.DONE: 2}


def test_plan_of_several_grids(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("plan", "epsilon_scheduling", "uniform", "imagenette")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["uniform"][1:3] == ["54", "36"]
    assert rows["together"][1] == "176"
    assert "36 of 212 are shared and run once: 176 new" in out
    missing = [line for line in out.splitlines() if line.startswith("missing: ")]
    assert sum("sweep data prepare imagenette --from" in line for line in missing) == 1
    assert sum("sweep weights fetch swin" in line for line in missing) == 1, "the hub is offline"


def test_plan_of_several_grids_for_programs(call: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = call("plan", "epsilon_scheduling", "uniform", "--json")
    plan: dict[str, Any] = json.loads(out)
    assert plan["counts"] == {"new": 168} and len(plan["runs"]) == 168
    assert plan["grids"]["uniform"]["counts"] == {"new": 54}
    assert plan["grids"]["uniform"]["shared"] == 36
    code, _, err = call("plan", "uniform", "unifrom")
    assert code == 2 and "did you mean 'uniform'?" in err


def test_missing_weights_are_found_before_launching(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """With an offline hub, as on a compute node, a run without its weights is not started."""
    grid = tmp_path / "x.yaml"
    grid.write_text("name: x\nbase: {backbone: r50, dataset: fake}\ngrid: {epsilon_g: [4/255]}\n")
    code, _, err = call("launch", str(grid), "--root", str(tmp_path / "root"))
    assert code == 2 and "run: sweep weights fetch r50" in err
    assert len(err.splitlines()) == 1 and not (tmp_path / "root").exists()
