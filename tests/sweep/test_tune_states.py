"""What `sweep tune --status` says of trials on a cluster: pending, preempted, hung; and that tuning
again ends workers that hang and tries failed trials again."""

import io
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trials
from rich.console import Console
from tuned_grid import parse

from core.run import trial
from core.store import processes
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import read_jsonl, write_jsonl
from slurm import cluster
from slurm.cluster import JobState
from slurm.profile import read_profile
from sweep.grid import search
from sweep.submit import submissions
from sweep.submit.array import BACKEND
from sweep.submit.backend import Started
from sweep.tune import session, table, trial_job
from sweep.tune.order import Trials
from sweep.tune.trial_job import TuneJob

PREEMPTED = JobState("PREEMPTED", current=True)
QUEUED = JobState("PENDING", current=True, reason="Priority")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def begin(store: Store, monkeypatch: pytest.MonkeyPatch, number: int, job: str, age: float) -> None:
    """A trial of the first search that a job on some node has begun; its heart beat so long ago."""
    run = session.searches(parse(), store)[0].trial_dir(number)
    with monkeypatch.context() as node:
        node.setattr(processes, "_machine", lambda: "node")
        claim = Claim.acquire(run, job=job)
    assert claim
    (file,) = run.path.glob("claim-*.json")
    content = file.read_bytes()
    claim.release("lost")  # no thread of this process keeps it going
    file.write_bytes(content)
    beat = time.time() - age
    os.utime(file, (beat, beat))


@pytest.fixture
def answers(store: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, JobState]:
    """An array of four workers on the grid's searches, 7_0 to 7_3, and what Slurm says of them."""
    grid, profile = parse(), read_profile("testbed")
    sweep = session.record(grid, session.searches(grid, store), store)
    found = session.searches(grid, store)
    numbers = {one.id: range(one.trials) for one in found}
    order = Trials(sweep, store, profile, found, numbers)
    about: dict[str, Any] = {"name": "epsweep-tune-0a", "array": "7", "tasks": 4}
    submissions.record(sweep, order.freeze(), profile, **about, **order.span(range(4)))
    told = {f"7_{n}": JobState("COMPLETED", current=True) for n in range(4)}
    monkeypatch.setattr(
        cluster, "jobs", lambda ids, names=(): {job: replace(told[job], id=job) for job in ids}
    )
    return told


def test_a_trial_says_why_it_does_not_go_on(
    store: Store,
    answers: dict[str, JobState],
    monkeypatch: pytest.MonkeyPatch,
    console: Console,
) -> None:
    running = JobState("RUNNING", current=True, started=time.time() - 4000)
    answers |= {"7_0": PREEMPTED, "7_1": running, "7_2": QUEUED, "7_3": running}
    grid = parse()
    for number, age in enumerate((900, 900, 900, 1)):
        begin(store, monkeypatch, number, f"7_{number}", age)
    known = session.workers(session.folder(grid, store))
    seen = session.look(session.searches(grid, store), known)
    found = [(trial.state, trial.kind, trial.job) for trial in seen[0].trials[:5]]
    assert found == [
        ("interrupted", "preempted", "7_0"),
        ("interrupted", "hung", "7_1"),
        ("pending", None, "7_2"),
        ("running", None, "7_3"),
        ("new", None, None),
    ]
    working = [item for item in known if item.live]
    console.print(table.tabulate(seen, grid, working))
    name, text = seen[0].search.name, said(console)
    assert "1 running, 1 pending, 2 interrupted" in text
    assert f"interrupted: {name} trial 0: preempted" in text
    assert f"interrupted: {name} trial 1: hung: no heartbeat for " in text
    assert f"pending: {name} trial 2: Priority" in text
    assert "3 workers: 2 running, 1 pending (Priority)" in text
    told = table.as_dict(seen, 10, working)
    assert told["searches"][0]["kinds"] == {"preempted": 1, "hung": 1}
    assert told["workers"][1] == {"job": "7_2", "state": "pending", "reason": "Priority"}


def test_tuning_again_ends_a_worker_that_hangs_and_sends_another(
    store: Store,
    answers: dict[str, JobState],
    monkeypatch: pytest.MonkeyPatch,
    console: Console,
) -> None:
    running = JobState("RUNNING", current=True, started=time.time() - 4000)
    answers |= {"7_0": running, "7_1": running, "7_2": running}
    begin(store, monkeypatch, 0, "7_0", 900)
    begin(store, monkeypatch, 1, "7_1", 1)
    ended: list[str] = []
    orders: list[Trials] = []

    def start(order: Trials) -> Started[Trials]:
        orders.append(order)
        return Started({"8": order.jobs})

    monkeypatch.setattr(cluster, "cancel", ended.extend)
    monkeypatch.setattr(BACKEND, "start", start)
    session.tune(parse(), store, read_profile("testbed"), console=console)
    assert ended == ["7_0"], "a healthy one is left alone"
    (order,) = orders
    assert order.jobs == 1, "three searches: of three workers two are still at it"
    text = said(console)
    assert "ended 1 worker that hung in a trial" in text and "2 workers already at work" in text
    assert "1 worker on 3 searches: arrays 8" in text


def test_a_failed_trial_is_tried_again_by_a_later_submission(
    store: Store, answers: dict[str, JobState], console: Console
) -> None:
    claim = Claim.acquire(session.searches(parse(), store)[0].trial_dir(0), job="7_0")
    assert claim
    claim.release("failed", kind="oom", reason="out of memory (GPU)")
    known = session.workers(session.folder(parse(), store))
    seen = session.look(session.searches(parse(), store), known)
    assert seen[0].trials[0].kind == "oom"
    console.print(table.tabulate(seen, parse()))
    assert "trial 0: out of memory (GPU)" in said(console)
    assert "`sweep retry` or `sweep tune` tries failed trials again" in said(console)


def test_retry_does_the_trials_that_failed_or_cannot_be_read_and_no_others(
    store: Store, answers: dict[str, JobState], monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    grid = parse()
    first, second, third = session.searches(grid, store)
    trials.end(first, 1, "failed", reason="a bug")
    trials.end(first, 2, "completed", 0.5)
    trials.end(second, 0, "completed", 0.5)
    search.trial_file(second.trial_dir(0)).write_text('{"state": ')
    trials.end(third, 0, "completed", 0.5)
    orders: list[Trials] = []

    def start(order: Trials) -> Started[Trials]:
        orders.append(order)
        return Started({"8": order.jobs})

    monkeypatch.setattr(BACKEND, "start", start)
    profile = read_profile("testbed")
    seen = session.retry(grid, store, profile, console=console)
    told = seen[1].trials[0]
    assert (told.state, told.kind) == ("interrupted", "damaged") and "trial.json" in str(
        told.reason
    )
    session.retry(grid, store, profile, kind="damaged", console=console)
    session.retry(grid, store, profile, kind="diverged", console=console)
    rows = [read_jsonl(order.freeze()) for order in orders]
    assert [[row["numbers"] for row in order] for order in rows] == [[[1], [0]], [[0]]]
    assert "nothing to retry" in said(console)


def test_a_worker_of_a_retry_begins_no_other_trial(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials that nobody has begun are left to `sweep tune`."""
    (one, *_) = session.searches(parse("{trials: 3}"), store)
    trials.end(one, 1, "failed", reason="a bug")
    write_jsonl(tmp_path / "m.jsonl", [trial_job.manifest_row(one, [1])])
    monkeypatch.setattr(trial, "train", trials.trainer())
    TuneJob(str(store.root), str(tmp_path), str(tmp_path / "m.jsonl"), 0, 1).work()
    states = [found.state for found in search.look(one).trials]
    assert states[0] == states[2] == "new" and states[1] in search.REAL
