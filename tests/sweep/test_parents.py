"""Runs that begin with the weights of other runs: what a grid asks for, and who waits for whom."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from analysis.variants import variants_of
from core.config import ConfigError
from core.model import network
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import read_jsonl, write_json
from slurm.cluster import JobState
from slurm.profile import read_profile
from sweep import launcher
from sweep.grid import Grid, Run, parse_grid
from sweep.rehearsal import miniature
from sweep.state.plan import State
from sweep.submit import backends, generations, submissions
from sweep.submit.backend import Backend, Started
from sweep.submit.order import Runs
from sweep.worker.run_job import RunJob
from sweep.worker.sharing import share

GRID = """\
name: small
base: {backbone: test_vit, dataset: fake, image_size: 16, epochs: 1, batch: 50, epsilon_g: 2/255,
       attack.steps: 1, validation: {steps: 1, images: 10}, schedule: sched}
seeds: SEEDS
grid: {weights: [WEIGHTS]}
evals: [{epsilons: 0..1/255, steps: 1, images: 10}]
"""
PROBE = "{run: {weights: random, protocol: linear, optim.lr: 1e-2}}"


def grid_of(weights: str = PROBE, seeds: int = 1, more: str = "") -> Grid:
    text = GRID.replace("WEIGHTS", weights).replace("SEEDS", str([*range(seeds)])) + more
    return parse_grid(text, Path("small.yaml"))


def launched(grid: Grid, store: Store, verb: Any = launcher.launch) -> tuple[dict[str, int], str]:
    """In this process: the states afterwards, and what was said."""
    said = Console(file=io.StringIO(), width=300)
    here = read_profile("debug").model_copy(update={"tracking": "none"})
    seen = verb(grid, store, here, console=said) or launcher.look(grid, store)
    return dict(seen.counted), said.file.getvalue()  # type: ignore[attr-defined]


def ended(store: Store, run: Run, outcome: str) -> str:
    claim = Claim.acquire(store.run(run.id))
    assert claim
    if outcome == "done":
        write_json(store.run(run.id).result, {"evals": [item.id for item in run.evals]})
    claim.release(outcome)
    return outcome


def test_a_grid_adds_the_parents_that_it_does_not_list() -> None:
    probe, child, other, last = grid_of(seeds=2).runs
    assert [run.config.protocol for run in (probe, child, other, last)] == ["linear", "full"] * 2
    assert (child.config.parent, last.config.parent) == (probe.id, other.id)
    assert probe.config.seed == child.config.seed == 0 and probe.config.optim.lr == 1e-2
    assert probe.evals == child.evals and probe.config.schedule == child.config.schedule
    listed = grid_of(more=f"include: [{PROBE[6:-1]}]\n")
    assert [run.id for run in listed.runs] == [probe.id, child.id] and not listed.shared
    shared = grid_of(PROBE.replace("linear", "linear, seed: 0"), seeds=2)
    assert [run.config.parent for run in shared.runs] == [None, probe.id, probe.id]
    assert not shared.shared
    first, middle, _ = chain = grid_of(f"{{run: {{epochs: 2, weights: {PROBE}}}}}").runs
    assert [run.config.parent for run in chain] == [None, first.id, middle.id]
    assert (first.config.epochs, middle.config.epochs) == (2, 2)
    hinges = grid_of("{run: {weights: random, epochs: 8}}").runs[0].config.schedule
    assert hinges.T2 == 6, "the parent's own length says where its hinges are"


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ("{run: {}}", "weights: expected {run: {FIELD: VALUE, ...}}, the fields in which that run"),
        ("{runs: {epochs: 2}}", "weights: expected {run: {FIELD: VALUE, ...}}"),
        ("{run: {epoch: 2}}", "epoch: unknown field, did you mean 'epochs'?"),
        ("{run: {dataset: cub}}", "weights.run: dataset: always the same as in the run itself"),
        ("{run: {backbone: vit}}", "weights.run: backbone: always the same as in the run itself"),
        ("{run: {epochs: 0}}", "weights.run: epochs: expected at least 1, got 0"),
        ("{run: {schedule: none}}", "weights.run: schedule none trains nothing, name a checkpoint"),
        ("run:vit-fake-s0-0123", "weights: expected {run: {FIELD: VALUE, ...}}, the fields"),
    ],
)
def test_what_names_no_run_is_one_line(weights: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        grid_of(weights)
    assert all(said.startswith("small.yaml:5: ") for said in error.value.lines)
    assert any(line in said for said in error.value.lines)


def test_what_cannot_begin_with_a_run() -> None:
    for more, line in (
        ("tune: {trials: 2}\n", "tune: the rates found would change the ids"),
        ("include: [{schedule: none, weights: " + PROBE + "}]\n", "schedule none trains nothing"),
    ):
        with pytest.raises(ConfigError) as error:
            grid_of(more=more)
        assert any(line in said for said in error.value.lines)


def test_a_child_goes_on_from_its_parents_network_and_head(store: Store) -> None:
    grid = grid_of()
    parent, child = grid.runs
    assert launched(grid, store)[0] == {"done": 2}
    begun = [read_jsonl(store.run(run.id).attempts)[0]["started"] for run in grid.runs]
    assert begun == sorted(begun)
    _, _, final = network.load_final(store.run(parent.id), store)
    model = network.build(child.config, 10, store)
    expected = final.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    # Further evaluations of the parent leave its weights as they are; other weights do not.
    more = parse_grid(
        grid.text.replace("evals: [", "evals: [{epsilons: [0], steps: 1}, "), grid.path
    )
    assert launched(more, store)[0] == {"done": 2}
    store.run(parent.id).checkpoint.write_bytes(b"other")
    stale = launcher.look(more, store).statuses[1]
    assert stale.state is State.STALE and f"weights run:{parent.id} have changed" in str(
        stale.reason
    )


def test_of_a_failed_parent_nothing_is_lost(store: Store) -> None:
    grid = grid_of(seeds=2)
    parent, child, *_ = grid.runs
    ended(store, parent, "failed")
    states, said = launched(grid, store)
    why = f"waiting for {parent.id}, which failed"
    assert states == {"failed": 1, "new": 1, "done": 2}
    assert f"1 run left alone: {why}" in said
    assert launcher.look(grid, store).statuses[1].reason == why
    assert launched(grid, store, launcher.retry)[0] == {"done": 4}
    assert network.build(child.config, 10, store)


def test_only_what_waits_for_nobody_else_is_launched(store: Store) -> None:
    grid = grid_of()
    said = Console(file=io.StringIO(), width=300)
    seen = launcher.launch(grid, store, read_profile("debug"), only=["protocol=full"], console=said)
    assert seen and seen.counted == {"new": 1}
    assert "1 run left alone: waiting for" in said.file.getvalue()  # type: ignore[attr-defined]


def test_workers_that_share_a_grid_claim_what_is_ready(store: Store) -> None:
    grid = grid_of(seeds=3)
    order: list[Run] = []

    def do(run: Run) -> str:
        order.append(run)
        return ended(store, run, "failed" if run is grid.runs[0] else "done")

    assert share(grid.runs, store, do, store.root / "parts") == {"failed": 1, "done": 4}
    assert grid.runs[1] not in order
    for run in order:
        before = [other.id for other in order[: order.index(run)]]
        assert run.config.parent is None or run.config.parent in before


def test_a_worker_passes_by_what_waits_for_another_process(store: Store) -> None:
    grid = grid_of(seeds=2)
    sweep = submissions.record_grid(grid, store)
    manifest = submissions.freeze_runs(grid.runs, sweep, store)
    held = Claim.acquire(store.run(grid.runs[0].id))
    assert held
    job = RunJob(str(store.root), sweep.path.name, str(manifest), 0, 4)
    rows, turns = job._rows(), []
    for number in job._turns(rows):
        turns.append(number)
        if number == 2:
            ended(store, grid.runs[2], "done")
        if number is None:  # all that is left waits
            write_json(store.run(grid.runs[0].id).result, {"evals": []})
            held.release("done")
    assert turns == [0, 2, 3, None, 1]


class Queue(Backend):
    """A queue that takes three jobs at most, and never starts one."""

    queued = True

    def __init__(self) -> None:
        self.sent: list[tuple[list[str], set[str]]] = []

    def start(self, order: Any) -> Any:
        taken, left = order.split(3 - sum(len(ids) for ids, _ in self.sent))
        if taken.runs:
            manifest, name = taken.freeze(), f"epsweep-{len(self.sent)}"
            about = {"name": name, "array": str(len(self.sent)), "tasks": len(taken.runs)}
            span = taken.span(range(len(taken.runs)))
            submissions.record(order.sweep, manifest, order.profile, **about, **span)
            behind = {job for run in taken.runs for job in taken.behind.get(run.id, ())}
            self.sent.append(([run.id for run in taken.runs], behind))
        return Started({}, [left] if left.runs else [], "full" if left.runs else "")

    def script(self, order: Any) -> list[str]:
        return []

    def states(self, promised: Mapping[Any, Any]) -> dict[Any, Any]:
        found = JobState("PENDING", current=True)
        return {key: replace(item, state=found) for key, item in promised.items()}


def test_a_queue_gets_children_behind_the_jobs_of_their_parents(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue()
    monkeypatch.setattr(backends, "of", lambda executor: queue)
    grid = grid_of(seeds=2)
    sweep = submissions.record_grid(grid, store)
    profile = read_profile("local").model_copy(update={"executor": "slurm"})
    started = generations.start(Runs(sweep, store, profile, grid.runs))
    ids = [run.id for run in grid.runs]
    assert queue.sent == [([ids[0], ids[2]], set()), ([ids[1]], {"0"})]
    assert [run.id for order in started.left for run in order.runs] == [ids[3]]
    statuses = launcher.look(grid, store).statuses
    assert [s.state for s in statuses] == [State.PENDING] * 3 + [State.NEW]
    assert [s.reason for s in statuses[1::2]] == [f"waiting for {ids[n]}" for n in (0, 2)]
    # What has no job yet is not sent: nobody would bring back a job that finds its parent undone.
    queue.sent, late = [], grid_of(seeds=4)
    started = generations.start(Runs(store.sweep("other"), store, profile, late.runs[-1:]))
    assert not queue.sent and started.cap == generations.WAITING


def test_a_rehearsal_begins_with_the_parents_miniatures() -> None:
    grid = grid_of(seeds=2)
    known = {run.id: run for run in grid.runs}
    pairs = miniature.share(miniature.shrink_all(grid.runs[1:2], known, miniature.Datasets()))
    (probe, small), (run, child) = pairs
    assert (probe, run) == grid.runs[:2] and child.config.parent == small.id
    assert (
        len(
            {
                m.id
                for _, m in miniature.share(
                    miniature.shrink_all(grid.runs, known, miniature.Datasets())
                )
            }
        )
        == 2
    )


def test_tables_name_a_parent_by_what_it_changes_and_average_over_seeds() -> None:
    grid = grid_of(f"random, {PROBE}", seeds=2)
    rows = [submissions.manifest_row(run) for run in grid.runs]
    found = variants_of(rows)
    told = {found[run.id] for run in grid.runs if run.config.parent}
    (one,) = told
    assert "weights=run (optim.lr 0.01; protocol linear; weights random)" in one
