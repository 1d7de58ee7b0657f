"""Launching on this machine: real workers, real kills, and what is left on disk afterwards."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from waiting import ended, until

from core.store import claims, processes
from core.store.claims import Claim
from core.store.folders import RunDir, Store
from core.store.holder import find_holder
from core.store.json_files import read_jsonl
from slurm import cluster
from slurm.cluster import JobState
from slurm.profile import read_profile
from sweep import launcher
from sweep.grid import load_grid
from sweep.state import display, plan
from sweep.state.plan import Plan, State
from sweep.submit import submissions
from sweep.submit.array import BACKEND
from sweep.submit.backend import Started

GRID = """
name: small
base: {weights: random, image_size: 32, epochs: EPOCHS, batch: 50, attack.steps: 1,
       backbone: mini_convnext, dataset: fake, epsilon_g: 2/255}
grid:
  schedule: [fix, sched]
seeds: [0, 1]
evals:
  - {epsilons: 0..2/255, steps: 1, images: 20}
"""


SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Until this file is there, a run that waits trains two epochs with an attack, see gate.py."""
    monkeypatch.setenv("GATE", str(tmp_path / "open"))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    return tmp_path / "open"


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Path]:
    def write(epochs: int, *, waits: bool = False) -> Path:
        path, text = tmp_path / "small.yaml", GRID.replace("EPOCHS", str(epochs))
        loss = "base: {objective: {kind: 'gate:Waiting'}, "
        path.write_text(text.replace("base: {", loss) if waits else text)
        return path

    return write


def sweep(*arguments: str, root: Path, **options: object) -> "subprocess.Popen[str]":
    """`sweep ...` as a process of its own, on one core: two threads that wait for each other are
    slow where tests run side by side."""
    cores = os.sched_getaffinity(0)
    options["preexec_fn"] = lambda: os.sched_setaffinity(0, {min(cores)})
    command = [sys.executable, "-m", "sweep.cli", *arguments, "--root", str(root)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )  # type: ignore[call-overload, no-any-return]


def look(path: Path, root: Path) -> Plan:
    return launcher.look(load_grid(path), Store(root))


def numbers(root: Path) -> dict[str, list[object]]:
    """What every run measured, without its timings."""
    found: dict[str, list[object]] = {}
    for folder in (root / "runs").iterdir():
        rows = read_jsonl(folder / "metrics.jsonl")
        evals = [json.loads(file.read_text()) for file in sorted(folder.glob("evals/*.json"))]
        timed = {"seconds", "images_per_s"}
        found[folder.name] = [
            *({k: v for k, v in row.items() if k not in timed} for row in rows),
            *(item["rows"] for item in evals),
        ]
    return found


@pytest.mark.slow
def test_ctrl_c_leaves_resumable_runs_that_end_with_the_same_numbers(
    small: Callable[..., Path], gate: Path, tmp_path: Path
) -> None:
    path, root, calm = small(8, waits=True), tmp_path / "root", tmp_path / "calm"
    only = ("--only", "seed=0", "--tracking", "none")
    process = sweep("launch", str(path), *only, root=root, start_new_session=True)
    # Not by its claim, which tells epochs only with its next heartbeat.
    until(lambda: any(len(read_jsonl(file)) >= 2 for file in root.glob("runs/*/metrics.jsonl")))
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    output = ended(process)
    assert process.returncode == 130, output
    assert "resume the runs" in output
    after = look(path, root)
    assert not after.counts[State.RUNNING]
    assert not after.counts[State.FAILED]
    assert after.counts[State.INTERRUPTED]

    gate.touch()
    for target in (root, calm):
        process = sweep("launch", str(path), *only, root=target)
        output = ended(process)
        assert process.returncode == 0, output
    assert numbers(root) == numbers(calm)
    attempts = [len(read_jsonl(f / "attempts.jsonl")) for f in (root / "runs").iterdir()]
    assert max(attempts) == 2


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_run_goes_on(
    small: Callable[..., Path], gate: Path, tmp_path: Path
) -> None:
    path, root = small(8, waits=True), tmp_path / "root"
    arguments = ("launch", str(path), "--tracking", "none", "--max-parallel", "1")
    process = sweep(*arguments, "--only", "seed=0", root=root)
    until(lambda: any(len(read_jsonl(p)) >= 2 for p in root.glob("runs/*/metrics.jsonl")))
    found = (find_holder(RunDir(path)) for path in root.glob("runs/*"))
    (current,) = (item for item in found if item and item.live and item.info)
    os.kill(current.info["pid"], signal.SIGKILL)
    gate.touch()
    output = ended(process)
    assert process.returncode == 0, output
    outcomes = [row["outcome"] for p in root.glob("runs/*/attempts.jsonl") for row in read_jsonl(p)]
    assert sorted(outcomes) == ["done", "done", "lost"]


@pytest.mark.slow
def test_a_failing_run_stops_no_other_and_is_retried_only_when_asked(
    small: Callable[..., Path], tmp_path: Path
) -> None:
    path, root = small(2), tmp_path / "root"
    # One run diverges at once; the others have an ordinary learning rate.
    text = path.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    text += "include:\n  - {schedule: fix, seed: 7, optim.lr: 1e30}\n"
    path.write_text(text.replace("seeds: [0]\n", ""))
    process = sweep("launch", str(path), "--tracking", "none", root=root)
    output = ended(process)
    assert process.returncode == 1, output
    seen = look(path, root)
    assert (seen.counts[State.FAILED], seen.counts[State.DONE]) == (1, 2)
    (bad,) = [s for s in seen.statuses if s.state is State.FAILED]
    assert bad.kind == "diverged"
    assert bad.reason
    assert "became" in bad.reason
    assert bad.reason in " ".join(output.split())
    process = sweep("launch", str(path), "--tracking", "none", root=root)
    output = ended(process)
    assert "nothing to submit" in output
    process = sweep("retry", str(path), "--failed", "diverged", "--tracking", "none", root=root)
    ended(process)
    (bad,) = [s for s in look(path, root).statuses if s.state is State.FAILED]
    assert bad.attempts == 2


def test_runs_on_their_way_are_not_launched_twice(
    small: Callable[..., Path], gate: Path, tmp_path: Path
) -> None:
    path, root = small(8, waits=True), tmp_path / "root"
    first = sweep("launch", str(path), "--tracking", "none", "--detach", root=root)
    ended(first)
    try:
        assert first.returncode == 0
        second = sweep("launch", str(path), "--tracking", "none", root=root)
        output = ended(second)
        assert "nothing to submit" in output
        assert second.returncode == 3
    finally:
        for row in read_jsonl(root / "sweeps/small/submissions.jsonl"):
            for item in row["processes"]:
                os.kill(item["pid"], signal.SIGTERM)
    until(lambda: not look(path, root).counts[State.RUNNING])


def test_two_people_cannot_submit_a_sweep_at_the_same_moment(
    small: Callable[..., Path], tmp_path: Path
) -> None:
    store = Store(tmp_path / "root")
    folder = submissions.record_grid(load_grid(small(2)), store)
    with (
        submissions.turn(folder),
        pytest.raises(ValueError, match="another launch"),
        submissions.turn(folder),
    ):
        pass
    with submissions.turn(folder):
        pass


@pytest.mark.slow
def test_a_new_evaluation_reuses_the_training(small: Callable[..., Path], tmp_path: Path) -> None:
    path, root = small(2), tmp_path / "root"
    one = ("--only", "seed=0", "schedule=fix", "--tracking", "none")
    ended(sweep("launch", str(path), *one, root=root))
    before = numbers(root)
    path.write_text(path.read_text() + "  - {epsilons: 0..1/255, steps: 2, images: 10}\n")
    assert look(path, root).counts[State.UNEVALUATED] == 1
    ended(sweep("launch", str(path), *one, root=root))
    (name,) = before
    assert numbers(root)[name][:2] == before[name][:2]
    assert len(list((root / "runs" / name).glob("evals/*.json"))) == 2
    assert len(read_jsonl(root / "runs" / name / "metrics.jsonl")) == 2


def test_the_state_of_a_run_follows_its_folder(small: Callable[..., Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    run = load_grid(small(2)).runs[0]
    folder = store.run(run.id)
    assert plan.look(run, folder).state is State.NEW
    assert plan.look(run, folder, plan.Pending("1", 0)).state is State.PENDING
    claim = Claim.acquire(folder)
    assert claim
    assert plan.look(run, folder).state is State.RUNNING
    claim.release("interrupted", reason="stopped")
    assert plan.look(run, folder).state is State.INTERRUPTED
    assert plan.look(run, folder, plan.Pending("1", 1)).state is State.PENDING
    claim = Claim.acquire(folder)
    assert claim
    claim.release("failed", kind="bug", reason="it broke")
    status = plan.look(run, folder)
    assert (status.state, status.kind, status.reason) == (State.FAILED, "bug", "it broke")
    # A submission from before the failure does not hide it; one from after it does.
    assert plan.look(run, folder, plan.Pending("1", 1)).state is State.FAILED
    assert plan.look(run, folder, plan.Pending("2", 2)).state is State.PENDING


@pytest.mark.slow
def test_cancelled_runs_stop_and_only_retry_starts_them_again(
    small: Callable[..., Path], gate: Path, tmp_path: Path
) -> None:
    path, root = small(8, waits=True), tmp_path / "root"
    environ = os.environ | {"EPSWEEP_HEARTBEAT_S": "0.2"}
    arguments = ("launch", str(path), "--tracking", "none", "--max-parallel", "1")
    process = sweep(*arguments, root=root, env=environ)
    until(lambda: any(s.epoch >= 1 for s in look(path, root).statuses))
    asked = sweep("cancel", str(path), "--only", "schedule=fix", "seed=0,1", root=root)
    output = ended(asked)
    assert "2 runs asked to stop" in output
    until(lambda: look(path, root).counts[State.CANCELLED] == 2)
    rest = sweep("cancel", str(path), root=root)
    ended(rest)
    output = ended(process)
    assert process.returncode == 3, output
    assert look(path, root).counts[State.CANCELLED] == 4
    begun = [s for s in look(path, root).statuses if s.attempts]
    assert begun
    assert all(s.reason == "cancelled on request" for s in begun)
    again = sweep("launch", str(path), "--tracking", "none", root=root)
    output = ended(again)
    assert "nothing to submit" in output


def test_a_job_that_slurm_holds_is_released(
    small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed start it would stay pending for ever; any other pending job is left alone."""
    released: list[str] = []
    monkeypatch.setattr(cluster, "release", released.append)
    runs = load_grid(small(1)).runs[:3]
    reasons = ("launch failed requeued held", "Priority", None)
    seen = Plan(
        [
            plan.Status(run, State.PENDING, job=f"7_{i}", reason=reason)
            for i, (run, reason) in enumerate(zip(runs, reasons, strict=True))
        ],
        promised={run.id: plan.Pending("7", 0, "epsweep-s-0a", executor="slurm") for run in runs},
    )
    console = Console(file=io.StringIO(), width=200)
    launcher._release(seen, console)
    assert released == ["7_0"]
    assert "released 1 job" in console.file.getvalue()  # type: ignore[attr-defined]
    (line,) = display.reasons(seen)
    assert runs[0].id in line.plain and "launch failed requeued held" in line.plain


def test_a_launcher_whose_clock_is_ahead_ends_no_healthy_job(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, grid = Store(tmp_path / "root"), load_grid(small(2))
    one = replace(grid, runs=grid.runs[:1])
    sweep_dir, profile = submissions.record_grid(one, store), read_profile("testbed")
    manifest = submissions.freeze_runs(one.runs, sweep_dir, store)
    array = {"array": "7", "tasks": 1, "first": 0, "end": 1, "per": 1}
    submissions.record(sweep_dir, manifest, profile, name="epsweep-small-0a", **array)
    with monkeypatch.context() as node:
        node.setattr(processes, "_machine", lambda: "node")
        claim = Claim.acquire(store.run(one.runs[0].id), job="7")
    ahead, ended = time.time() + 3600, list[str]()
    running = JobState("RUNNING", current=True, id="7", started=time.time() - 60)
    monkeypatch.setattr(cluster, "jobs", lambda ids, names=(): dict.fromkeys(ids, running))
    monkeypatch.setattr(cluster, "cancel", ended.extend)
    monkeypatch.setattr(BACKEND, "start", lambda _: Started({"8": 1}))
    monkeypatch.setattr(claims.time, "time", lambda: ahead)
    console = Console(file=io.StringIO())
    launcher.launch(one, store, profile, console=console)
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert ended == [] and "1 running" in said and "nothing to submit" in said
    assert claim
    claim.release("interrupted")
