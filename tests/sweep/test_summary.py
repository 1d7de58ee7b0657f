"""A plan at a glance: where, how much and how long, in units that a person reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tuned_grid
from grid_text import parse
from rich.console import Console, RenderableType

from core.config import ConfigError
from core.store.folders import Store
from slurm.profile import Profile, Slurm, read_profile
from sweep import budget, several, summary
from sweep.cli.options import Sort
from sweep.estimate import cost
from sweep.state import display
from sweep.state.plan import ORDERS, WORST, Plan, State, Status
from sweep.tune import winners

CPU = read_profile("local")
H100 = Profile(
    name="h",
    executor="slurm",
    slurm=Slurm(timeout_min=60, slurm_gpus_per_node="h100:1", slurm_array_parallelism=8),
)
GRID = "name: g\nbase: {dataset: cars}\ngrid: {backbone: [%s]}\nseeds: [%s]\n"


def shown(what: RenderableType, width: int = 80) -> str:
    console = Console(width=width, markup=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def new(text: str) -> Plan:
    return Plan([Status(run, State.NEW) for run in parse(text).runs])


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        (6.5 / 3600, "6.5 core-seconds"),
        (59 / 3600, "59 core-seconds"),
        (0.1, "6 core-minutes"),
        (0.99, "59 core-minutes"),
        (1, "1 core-hours"),
        (2.5, "2.5 core-hours"),
        (1234.5, "1,234 core-hours"),
        (0, "0 core-seconds"),
    ],
)
def test_hours_are_told_in_a_unit_that_fits(hours: float, told: str) -> None:
    assert budget.spelled(hours, "core-hours") == told


def test_the_store_and_whether_it_is_there(store: Store, tmp_path: Path) -> None:
    grid = parse(GRID % ("swin", "0"))
    for root, state in [
        (tmp_path / "none", " (no such folder yet)"),
        (tmp_path, " (no grid of this name was launched there)"),
    ]:
        text = shown(summary.of(grid, new(GRID % ("swin", "0")), cost.of(CPU, Store(root))), 300)
        assert f"in {root}{state}" in text
    (tmp_path / "sweeps" / "g").mkdir(parents=True)
    narrow = shown(summary.place(Store(tmp_path), grid), 30)
    assert narrow.replace("\n", "").replace(" ", "") == f"in{tmp_path}", "all of it, however long"


def test_one_backbone_without_an_estimate_hides_no_other(store: Store) -> None:
    text = GRID % ("swin, resnet18", "0, 1")
    seen, model = new(text), cost.of(H100, store)
    known = budget.hours(new(GRID % ("swin", "0, 1")), model).left
    told = budget.hours(seen, model)
    assert (told.left, told.known, told.unknown) == (None, known, 2)
    assert "and 2 runs of unknown length left" in told.lines[0]
    rows = {
        line.split()[0]: line
        for line in shown(
            summary.cells(seen, budget.works_of(seen, model), model.unit)
        ).splitlines()
    }
    assert "about" in rows["swin"] and "unknown" in rows["resnet18"]


def test_how_long_it_takes_on_the_available_devices(store: Store) -> None:
    seen, model = new(GRID % ("swin", "0, 1, 2, 3")), cost.of(H100, store)
    assert model.at_once == 8
    longest = model.hours(seen.statuses[0].run.config, seen.statuses[0].run.evals) or 0
    grid = parse(GRID % ("swin", "0"))
    wall = budget.spelled(longest, "hours")
    assert f"what is left takes {wall} on 8 GPUs" in shown(summary.of(grid, seen, model), 160)
    unknown = replace(model, at_once=None)
    assert "what is left" not in shown(summary.of(grid, seen, unknown), 160)


def test_what_is_left_takes_as_long_as_on_the_devices_at_work(store: Store) -> None:
    """Each run of an hour on two GPUs; one is half done, one has not begun."""
    done, running, waiting = new(GRID % ("swin", "0, 1, 2")).statuses
    spent = {"seconds": 3600.0, "gpu_seconds": 7200.0}
    half = {"seconds": 1800.0, "gpu_seconds": 3600.0, "phase": "evaluate", "share": 0.0}
    statuses = [
        replace(done, state=State.DONE, **spent),
        replace(running, state=State.RUNNING, **half),
        waiting,
    ]
    told = budget.hours(Plan(statuses), cost.of(H100, store))
    assert told.at_work == 2 and told.known
    wall = budget.spelled(told.known / 2, "hours")
    assert f"{wall} to go, with 2 GPUs as now" in told.lines
    resting = [replace(status, state=State.NEW) for status in statuses[1:]]
    assert not any(
        "to go" in line for line in budget.hours(Plan(resting), cost.of(H100, store)).lines
    )


def test_trained_runs_have_only_evaluations_left(store: Store) -> None:
    """Another grid has trained and evaluated them; this one asks for more."""
    grid = parse(GRID % ("swin", "0"))
    (status,) = new(GRID % ("swin", "0")).statuses
    model = cost.of(H100, store)
    whole = model.work(status.run.config, status.run.evals)
    trained = replace(status, state=State.UNEVALUATED, phase="evaluate", share=1.0)
    assert budget.rest(status, whole) == whole
    left = budget.rest(trained, whole)
    assert {*left.phases} == {*whole.phases} - {"training"} and whole.hours and left.hours
    assert left.hours == pytest.approx(whole.hours - whole.phases["training"])
    seen = Plan([trained])
    assert budget.hours(seen, model).known == pytest.approx(left.hours)
    text = shown(summary.of(grid, seen, model), 160)
    assert "left by phase: apgd-ce" in text and "training" not in text
    done = budget.rest(replace(trained, state=State.DONE), whole)
    assert (done.hours, done.phases) == (0, {})


def test_a_sum_of_several_grids_says_what_it_leaves_out(store: Store) -> None:
    grids = [parse(GRID % (name, "0")) for name in ("swin", "resnet18")]
    grids[1] = replace(grids[1], name="other")
    told = shown(several.table(several.look(grids, store, (), H100)), 160)
    (last,) = (line for line in told.splitlines() if line.startswith("together"))
    assert "1 unknown" in last and "GPU-" in last


def test_a_run_without_an_estimate_hides_no_other_of_its_grid_or_backbone(
    store: Store, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A folder whose images nobody has counted; the sum of the others is told everywhere."""
    text = "name: g\nbase: {backbone: swin}\ngrid: {dataset: [cars, /no/folder]}\nseeds: [0, 1]\n"
    seen, model = new(text), cost.of(H100, store)
    known = model.total(s.run for s in seen.statuses if s.run.config.dataset == "cars")
    assert known.hours and not known.unknown
    about = model.as_dict([status.run for status in seen.statuses])
    assert (about["hours"], about["known"], about["unknown"]) == (None, known.hours, 2)
    assert (about["searches"], about["searches_unknown"]) == (0.0, 0)
    assert f"about {budget.short(known.hours)}, 2 unknown" in shown(
        summary.cells(seen, budget.works_of(seen, model), model.unit)
    )
    told = shown(several.table(several.look([parse(text)], store, (), H100)), 160)
    assert f"2 unknown, {budget.spelled(known.hours, 'GPU-hours')}" in told
    path = tmp_path / "g.yaml"
    path.write_text(text)
    other = tmp_path / "h.yaml"
    other.write_text(text.replace("name: g", "name: h").replace("[0, 1]", "[2]"))
    _, out, _ = call("plan", str(path), str(other), "--json")
    found = json.loads(out)["grids"]
    assert [found[name]["unknown"] for name in "gh"] == [2, 1]
    assert all(found[name]["hours"] is None and found[name]["known"] > 0 for name in "gh")


def test_searches_without_an_estimate_are_counted_beside_the_others(store: Store) -> None:
    text = tuned_grid.GRID.replace("dataset: fake", "dataset: /no/folder") + "tune: {trials: 6}\n"
    grid = winners.apply(parse(text), store)
    about = cost.of(CPU, store).as_dict([], grid.searches)
    assert about["searches"] is None and about["searches_unknown"] == len(grid.searches) > 1


@pytest.mark.parametrize("state", [State.NEW, State.DONE, State.FAILED])
def test_runs_that_are_not_shown_are_counted(state: State) -> None:
    runs = parse(GRID % ("swin", ", ".join(map(str, range(40))))).runs
    seen = Plan([Status(run, state) for run in runs])
    told = shown(display.table(seen, footer=False))
    rows = told.count("swin-cars-")
    hidden = 40 - 30 if state is State.FAILED else 40
    assert f"{hidden} " in told and "--all" in told
    whole = shown(display.table(seen, footer=False, most=40))
    assert "--all" not in whole and whole.count("swin-cars-") >= 40 > rows


def test_pages_of_a_status_hold_every_run_once(store: Store) -> None:
    runs = parse(GRID % ("swin", ", ".join(map(str, range(70))))).runs
    seen = Plan([Status(run, State.DONE) for run in runs])
    pages = [shown(display.table(seen, footer=False, page=page), 160) for page in (1, 2, 3)]
    found = [line.split()[0] for page in pages for line in page.splitlines() if "swin-" in line]
    assert len(found) == len({*found}) == 70
    assert [f"page {n} of 3" in page for n, page in enumerate(pages, 1)] == [True] * 3
    with pytest.raises(ConfigError, match="--page 4: expected 1 to 3, pages of 30 runs"):
        display.table(seen, page=4)


def test_a_page_that_is_not_there_is_one_line(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(GRID % ("swin", "0, 1"))
    code, out, _ = call("status", str(path), "--page", "1")
    assert code == 0 and "page 1 of 1" in out and out.count("swin-cars-") == 2
    code, _, err = call("status", str(path), "--page", "2")
    assert (code, err) == (2, "--page 2: expected 1 to 1, pages of 30 runs\n")
    for more in ("--all", "--watch", "--json"):
        code, out, err = call("status", str(path), "--page", "1", more)
        assert (code, out, err.count("\n")) == (2, "", 1) and more in err
    code, _, err = call("status", str(path), "--sort", "state", "--json")
    assert code == 2 and err.startswith("--sort: does not go with --watch or --json")


def test_sorted_pages_show_what_asks_for_somebody_first(store: Store) -> None:
    runs = parse(GRID % ("swin", ", ".join(map(str, range(40))))).runs
    states = [State.DONE, State.RUNNING, State.FAILED, State.NEW]
    seen = Plan([Status(run, states[i % 4], seconds=60.0 * i) for i, run in enumerate(runs)])

    def rows(by: str, page: int) -> list[list[str]]:
        told = display.table(seen.ordered(by), footer=False, page=page, spent=by == "hours")
        return [row.split() for row in shown(told, 160).splitlines() if "swin-" in row]

    assert [row[1] for row in rows("state", 1)] == ["failed"] * 10 + ["running"] * 10 + ["new"] * 10
    assert [row[1] for row in rows("state", 2)] == ["done"] * 10
    assert [row[-1] for row in rows("hours", 1)[:2]] == ["39:00", "38:00"]
    names = [row[0] for page in (1, 2) for row in rows("name", page)]
    assert names == sorted(names) and len({*names}) == 40
    assert {*ORDERS} == {*Sort} and {*WORST} == {*State}
