"""`sweep work`: processes that claim what a grid lacks, without a launch and without each other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import StoppedError
from core.options import Options
from core.run import pipeline
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl, write_json
from sweep.grid import Grid, Run, load_grid
from sweep.state.pending import Pending
from sweep.worker import attempt, parts, sharing
from sweep.worker.sharing import share

ROOT = Path(__file__).parents[2]
GRID = """\
name: small
base: {backbone: test_vit, weights: random, dataset: fake, image_size: 16, epochs: EPOCHS,
       batch: 50, epsilon_g: 2/255, attack.steps: 1, validation: {steps: 1, images: 10}}
seeds: SEEDS
evals: [{epsilons: 0..1/255, steps: 1, images: 10}]
"""
Call = Callable[..., tuple[int, str, str]]


def write(folder: Path, seeds: int = 2, epochs: int = 1, more: str = "") -> Path:
    text = GRID.replace("SEEDS", str([*range(seeds)])).replace("EPOCHS", str(epochs))
    (folder / "small.yaml").write_text(text + more)
    return folder / "small.yaml"


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return load_grid(write(tmp_path, seeds=6))


def finished(store: Store) -> Callable[[Run], str]:
    """Claims a run and says that it is done, with nothing on disk."""

    def do(run: Run) -> str:
        claim = Claim.acquire(store.run(run.id))
        assert claim
        write_json(store.run(run.id).result, {"evals": [item.id for item in run.evals]})
        for item in run.evals:
            row = {"attack": item.name, "norm": "linf", "epsilon": "0", "n": 1, "correct": 1}
            record = {"config": item.to_dict(), "rows": [row], "n": 1, "split_images": 1}
            write_json(store.run(run.id).eval_json(item.id), record)
        claim.release("done")
        return "done"

    return do


def test_workers_do_each_run_once_and_lose_none() -> None:
    """The benchmark in small: forked processes on one store, judged by its own checks."""
    command = [sys.executable, "benchmarks/workers.py", "--runs", "40", "--workers", "4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0 and "No run was done twice, none was lost" in told.stdout, told


def test_a_worker_takes_what_nobody_holds_and_leaves(store: Store, grid: Grid) -> None:
    """One is done, one failed, one is promised, one is at work: two are left."""
    done, failed, promised, held = grid.runs[:4]
    finished(store)(done)
    for run, outcome in ((failed, "failed"), (held, "")):
        claim = Claim.acquire(store.run(run.id))
        assert claim
        if outcome:
            claim.release(outcome)
    taken: list[str] = []

    def do(run: Run) -> str:
        taken.append(run.id)
        return finished(store)(run)

    def promises() -> dict[str, Pending]:
        return {promised.id: Pending("7", 0)}

    assert share(grid.runs, store, do, store.root / "parts", promises=promises) == {"done": 2}
    assert {*taken} == {run.id for run in grid.runs[4:]}
    claim.release("interrupted")
    assert share(grid.runs, store, do, store.root / "parts", idle=0.01) == {"done": 2}, (
        "dropped, and promised no more"
    )


def test_what_another_worker_saw_end_is_not_looked_at(
    store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a worker looks at its first run, another one does all of them. What was said before a
    worker began does not count: results may have been deleted since."""
    looked, folder, real = list[str](), store.root / "parts", sharing._Look.__call__
    outcomes = list[Any]()

    def look(self: Any, run: Run, promise: Pending | None) -> Any:
        looked.append(run.id)
        if len(looked) == 1:
            outcomes.append(share(grid.runs, store, finished(store), folder))
        return real(self, run, promise)

    monkeypatch.setattr(parts, "SIZE", 2)
    monkeypatch.setattr(sharing._Look, "__call__", look)
    assert share(grid.runs, store, finished(store), folder) == {} and outcomes == [{"done": 6}]
    assert len(looked) <= 1 + 6 + 1, "of three parts only the one that it had entered"
    store.run(grid.runs[0].id).result.unlink()
    looked[:] = ["-"]
    assert share(grid.runs, store, finished(store), folder) == {"done": 1}
    assert len(looked) == 1 + 6
    shutil.rmtree(folder)
    store.run(grid.runs[-1].id).result.unlink()
    looked[:] = ["-"]
    assert share(grid.runs, store, finished(store), folder) == {"done": 1}
    asked = [replace(run, evals=run.evals * 2) for run in grid.runs]
    assert {*parts.Parts(asked, folder)._open}.isdisjoint(path.name for path in folder.iterdir())


def test_clocks_may_differ(store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose clock is an hour off takes no living process for a dead one."""
    claims = [Claim.acquire(store.run(run.id)) for run in grid.runs]
    real = time.time
    for hours in (-1, 1):
        monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3600 * hours)
        assert share(grid.runs, store, lambda run: "done", store.root / "parts") == {}
    monkeypatch.undo()
    assert all(claim and claim.release("interrupted") for claim in claims)


def test_a_run_that_kills_its_workers_is_left(store: Store, grid: Grid) -> None:
    """Each died with its process, without recording a reason: too many in a row are no accident."""
    run = store.run(grid.runs[0].id)
    for number in range(1, sharing.MOST_LOST + 1):
        claim = Claim.acquire(run)
        assert claim
        claim._stop.set()
        file = run.path / f"claim-{number:04d}.json"
        write_json(file, (read_json(file) or {}) | {"pid": 1 << 30})
        expected = {"failed": 1} if number < sharing.MOST_LOST else {}
        assert share(grid.runs[:1], store, lambda run: "failed", store.root / "parts") == expected


def test_what_another_process_did_since_the_look_is_not_claimed(
    store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with a claim that begins after the look, once with one that was there and ends."""
    first, second = grid.runs[:2]
    held = Claim.acquire(store.run(second.id))
    assert held
    real, calls = attempt.is_done, list[str]()

    def is_done(run: Any, evals: Any) -> bool:
        found = real(run, evals)
        calls.append(run.id)
        if calls == [first.id]:
            finished(store)(first)
        return found

    monkeypatch.setattr(attempt, "is_done", is_done)
    for run in (first, second):
        assert attempt.claim_unfinished(store.run(run.id), run.evals, Options()) is None
    assert calls == [first.id, first.id], "what is at work is not looked into"
    assert len(read_jsonl(store.run(first.id).attempts)) == 1
    held.release("done")


def test_the_command_does_runs_then_evaluations_then_nothing(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path)
    told = call("work", str(path), "--tracking", "none")
    assert told[0] == 0 and "left to claim; this worker's share: 2 done" in told[1]
    assert len(call("status", str(path), "--json")[1].split('"state": "done"')) == 3
    with_more = path.read_text().replace("evals: [", "evals: [{attack: corruptions, images: 11}, ")
    path.write_text(with_more)
    assert "2 done" in call("work", str(path), "--tracking", "none")[1]
    told = call("work", str(path), "--tracking", "none")
    assert told[0] == 0 and "left to claim; this worker's share: none" in told[1]
    runs = load_grid(path).runs
    rows = [read_jsonl(Store.at().run(run.id).metrics) for run in runs]
    assert [len(part) for part in rows] == [1, 1], "trained once"


def test_failures_are_left_to_a_retry_and_three_alike_end_the_work(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, begun = write(tmp_path, seeds=5), list[str]()

    def execute(config: Any, *_: Any) -> None:
        begun.append(config.id)
        raise ValueError("no luck")

    monkeypatch.setattr(pipeline, "execute", execute)
    code, said, _ = call("work", str(path), "--tracking", "none")
    assert code == 1 and "3 failed" in said and "3 runs failed alike" in said
    assert len(begun) == 3
    code, said, _ = call("work", str(path), "--tracking", "none")
    assert code == 1 and len(begun) == 3 and "2 held back" in said


def test_a_worker_that_is_told_to_stop_leaves_its_run_in_order(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)

    def execute(*_: Any) -> None:
        raise StoppedError("SIGTERM")

    monkeypatch.setattr(pipeline, "execute", execute)
    assert call("work", str(path), "--tracking", "none")[0] == 143
    (attempts,) = Store.at().runs.glob("*/attempts.jsonl")
    assert [row["outcome"] for row in read_jsonl(attempts)] == ["interrupted"]


def test_trials_come_first(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path, seeds=1, more="tune: {trials: 2}\n")
    code, said, _ = call("work", str(path), "--tracking", "none")
    assert code == 0, said
    assert "1 done, 2 trials done" in said
    (run,) = Store.at().runs.iterdir()
    (winner,) = Store.at().root.glob("tuned/*/winner*.json")
    config = Store.at().run(run.name).read_config()
    assert config["optim"]["lr"] == (read_json(winner) or {})["params"]["optim.lr"]


def test_a_worker_refuses_what_it_cannot_do(call: Call, tmp_path: Path) -> None:
    path, profile = write(tmp_path), tmp_path / "two.yaml"
    profile.write_text("executor: local\ngpus_per_run: 2\n")
    code, _, said = call("work", str(path), "--profile", str(profile))
    assert code == 2 and "expected gpus_per_run: 1, got 2" in said
    assert call("work", str(path), "--slots", "0")[0] == 2


@pytest.mark.slow
def test_slots_are_stopped_and_go_on(tmp_path: Path) -> None:
    """Two processes at once, told to stop in their first runs as Grid Engine and LSF do; the next
    worker ends them."""
    path, store = write(tmp_path, epochs=6), Store(tmp_path / "outputs")
    command = [sys.executable, "-m", "sweep.cli", "work", str(path), "--slots", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    worker = subprocess.Popen([*command, "--tracking", "none"], env=environment)
    while not (begun := len([*store.root.glob("runs/*/metrics.jsonl")])):
        assert worker.poll() is None
        time.sleep(0.1)
    worker.send_signal(signal.SIGUSR2)
    assert begun and worker.wait(120) == 143
    for file in store.runs.glob("*/attempts.jsonl"):
        assert read_jsonl(file)[-1]["outcome"] in ("interrupted", "done")
    assert subprocess.run([*command, "--tracking", "none"], env=environment).returncode == 0
    assert len([*store.root.glob("runs/*/result.json")]) == 2
