"""Runs on a real Slurm that are disturbed in every way we know: none is lost, none is executed
twice at once, none is called done that is not, and all end with the numbers of a calm run.

Accounting is switched off throughout: what happened is read from our own files and the job's log.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_bed import inside, needs_slurm, submit
from slurm_sweep import Sweep, numbers
from waiting import until

from core.options import Options
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, read_jsonl
from core.store.processes import process_alive
from slurm import cluster
from slurm.testbed import Bed
from sweep.grid import definition
from sweep.state import breaker, repair
from sweep.state.plan import State
from sweep.submit import cancellation
from sweep.worker import attempt

pytestmark = [*needs_slurm, pytest.mark.slow]
EPOCHS = 14
"""Five seconds and more: long enough to be met half-way."""


@pytest.fixture
def tiny(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """A sweep of one run on the bed; no job survives its test."""
    with inside(bed, monkeypatch, EPSWEEP_STALE_S="10"):
        made = Sweep(tmp_path, bed)
        made.write_grid(epochs=EPOCHS)
        made.write_profile()
        yield made


Calm = Callable[[Sweep], None]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """Asserts that every run of a sweep has the numbers of one that nobody disturbed."""
    store = Store(tmp_path_factory.mktemp("calm"))

    def compare(tiny: Sweep) -> None:
        for run in tiny.grid.runs:
            undisturbed = execute(run, store)
            assert numbers(tiny.store.run(run.id)) == numbers(undisturbed)
            result = read_json(tiny.store.run(run.id).result)
            assert result and len(result["evals"]) == 1

    return compare


def execute(run: definition.Run, store: Store) -> RunDir:
    """Run to the end in this process, on one thread as in a job."""
    import torch

    torch.set_num_threads(1)
    options = Options(tracking="none", group=None)
    if not store.run(run.id).result.exists():
        assert attempt.make(run.config, run.evals, store, options) == "done"
    return store.run(run.id)


def alone(tiny: Sweep) -> None:
    """No two attempts held the run at the same time."""
    rows = read_jsonl(tiny.run.attempts)
    assert [row["attempt"] for row in rows] == list(range(1, len(rows) + 1))
    for before, after in itertools.pairwise(rows):
        assert before["ended"] is None or before["ended"] <= after["started"]


def test_a_requeued_job_goes_on_where_it_was(tiny: Sweep, calm: Calm) -> None:
    tiny.launch()
    tiny.trained(3)
    tiny.bed.run("scontrol", "requeue", tiny.job())
    until(lambda: tiny.holder.info["outcome"])
    assert (tiny.holder.info["outcome"], tiny.holder.info["kind"]) == ("interrupted", "requeued")
    assert tiny.only().state is State.PENDING
    assert "nothing to submit" in tiny.launch()
    tiny.done()
    assert tiny.outcomes() == ["interrupted", "done"]
    calm(tiny)
    alone(tiny)


def test_the_time_limit_is_a_pause(tiny: Sweep, calm: Calm) -> None:
    """Slurm looks every 30 s whether a limit is 15 + 30 s away or less, and signals. It is set once
    python hears the signal; until Slurm wakes it, the process stands still: no speed matters."""
    profile = {"timeout_min": 1, "slurm_signal_delay_s": 15}
    tiny.write_profile({**profile, "slurm_additional_parameters": {"hold": True}})
    tiny.launch()
    job = tiny.job()

    def limit(minutes: int) -> None:
        tiny.bed.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    limit(60)
    tiny.bed.run("scontrol", "release", job)
    tiny.trained(3)
    tiny.kill(signal.SIGSTOP)
    limit(math.ceil((time.time() - (cluster.jobs([job])[job].started or 0) + 50) / 60))
    until(lambda: tiny.holder.info["outcome"])
    limit(60)
    tiny.done()
    assert tiny.outcomes() == ["interrupted", "done"]
    assert read_jsonl(tiny.run.attempts)[0]["kind"] == "requeued"
    calm(tiny)
    alone(tiny)


@pytest.mark.parametrize(("minutes", "state"), [(5, State.FAILED), (20, State.INTERRUPTED)])
def test_a_job_that_may_not_be_queued_again(
    tiny: Sweep, calm: Calm, minutes: int, state: State
) -> None:
    """For submitit a signal means the time limit in jobs up to ten minutes, else a preemption."""
    tiny.write_profile({"timeout_min": minutes}, max_requeues=0)
    tiny.launch()
    tiny.trained(2)
    tiny.bed.run("scancel", "--signal=USR2", tiny.job())
    tiny.over()
    status = tiny.only()
    assert status.state is state, status.reason
    if state is State.FAILED:
        assert status.kind == "timeout"
        assert "nothing to submit" in tiny.launch()
        tiny.retry(kind="timeout")
    else:
        tiny.launch()
    tiny.done()
    calm(tiny)


def preempt(tiny: Sweep) -> str:
    """Start a job of higher priority that needs the node of the first run."""
    node = tiny.bed.run("squeue", "-h", "-o", "%N", "-j", tiny.job()).strip()
    return submit(tiny.bed, "sleep 3", "-p", "main", "-w", node, "--exclusive")


@pytest.mark.parametrize("signalled", ["USR2", "TERM"])
def test_a_preempted_job_comes_back(tiny: Sweep, calm: Calm, signalled: str) -> None:
    """USR2 only where a cluster is set up so; else SIGTERM, and a job that ends by itself within
    the time of grace is not queued again by Slurm."""
    conf, wanted = tiny.bed.conf, "SlurmctldParameters=preempt_send_user_signal"
    text = conf.read_text()
    assert wanted in text
    if signalled == "TERM":
        conf.write_text(text.replace(wanted, ""))
        tiny.bed.run("scontrol", "reconfigure")
    try:
        tiny.write_profile({"slurm_partition": "preemptible"})
        tiny.launch()
        tiny.trained(3)
        preempt(tiny)
        until(lambda: tiny.holder.info["outcome"])
        kind = "requeued" if signalled == "USR2" else "stopped"
        assert (tiny.holder.info["outcome"], tiny.holder.info["kind"]) == ("interrupted", kind)
        tiny.done()
    finally:
        conf.write_text(text)
        tiny.bed.run("scontrol", "reconfigure")
    assert tiny.outcomes() == ["interrupted", "done"]
    calm(tiny)
    alone(tiny)


def test_scancel_stops_a_run_in_order_and_retry_goes_on(tiny: Sweep, calm: Calm) -> None:
    tiny.launch()
    tiny.trained(3)
    owner = tiny.holder.info
    tiny.bed.run("scancel", tiny.job())
    until(lambda: not process_alive(owner))
    status = tiny.only()
    assert (status.state, status.kind) == (State.CANCELLED, "cancelled")
    assert "nothing to submit" in tiny.launch()
    tiny.retry()
    tiny.done()
    assert tiny.outcomes() == ["cancelled", "done"]
    calm(tiny)


def test_cancel_ends_running_and_pending_jobs(tiny: Sweep) -> None:
    tiny.write_grid(seeds=2, epochs=EPOCHS)
    tiny.write_profile({"slurm_array_parallelism": 1})
    tiny.launch()
    tiny.trained(1)
    runs = cancellation.cancel(tiny.look(), tiny.store)
    assert len(runs) == 2
    tiny.over()
    assert tiny.states() == {"cancelled": 2}
    assert tiny.look().statuses[1].reason == "cancelled before it started"
    assert "nothing to submit" in tiny.launch()


def test_a_killed_process_is_no_failed_run(tiny: Sweep, calm: Calm) -> None:
    tiny.launch()
    tiny.trained(3)
    tiny.kill(signal.SIGKILL)
    tiny.over()
    status = tiny.only()
    assert (status.state, status.kind) == (State.INTERRUPTED, "killed"), status.reason
    assert "1 run submitted" in tiny.launch()
    tiny.done()
    assert tiny.outcomes() == ["lost", "done"]
    calm(tiny)


def test_daemons_that_die_are_not_noticed(tiny: Sweep, calm: Calm) -> None:
    tiny.launch()
    tiny.trained(2)
    node = tiny.bed.run("squeue", "-h", "-o", "%N", "-j", tiny.job()).strip()
    tiny.bed.stop_daemon(node)
    # Killed, it would forget what it has not written down yet: that the job has started.
    tiny.bed.stop_daemon("slurmctld", signal.SIGTERM)
    assert tiny.only().state is State.RUNNING
    tiny.trained(8)
    tiny.bed.start_daemon(node)
    tiny.bed.start_daemon("slurmctld")
    tiny.done()
    assert tiny.outcomes() == ["done"]
    calm(tiny)
    tiny.bed.wait_idle()


def test_a_node_that_crashes(tiny: Sweep, calm: Calm) -> None:
    tiny.launch()
    tiny.trained(3)
    node = tiny.bed.run("squeue", "-h", "-o", "%N", "-j", tiny.job()).strip()
    tiny.bed.crash(node)
    assert tiny.only().state in (State.PENDING, State.RUNNING)
    assert "nothing to submit" in tiny.launch(), "Slurm has yet to notice, and starts it again"
    tiny.done()
    tiny.bed.start_daemon(node)
    tiny.bed.wait_idle()
    assert tiny.outcomes() == ["lost", "done"]
    calm(tiny)
    alone(tiny)


def hang(tiny: Sweep) -> int:
    """Stop the process that has the first run, and wait until it counts as hung."""
    tiny.launch()
    tiny.trained(3)
    pid = tiny.kill(signal.SIGSTOP)
    until(lambda: tiny.only().kind == "hung")
    status = tiny.only()
    assert status.state is State.INTERRUPTED
    assert "no heartbeat for " in (status.reason or "")
    return pid


def test_a_run_that_hangs_is_started_elsewhere(tiny: Sweep, calm: Calm) -> None:
    hang(tiny)
    former = tiny.job()
    assert "1 run submitted" in tiny.launch()
    tiny.done()
    # scancel wakes a stopped process, which may just manage to say goodbye.
    assert tiny.outcomes() in (["lost", "done"], ["cancelled", "done"])
    state = tiny.bed.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", former).strip()
    assert state in ("CANCELLED", "COMPLETING")
    calm(tiny)


def test_a_process_that_wakes_up_after_being_replaced_stops_silently(
    tiny: Sweep, calm: Calm
) -> None:
    pid = hang(tiny)
    execute(tiny.grid.runs[0], tiny.store)
    assert tiny.only().state is State.DONE
    written = {path: path.stat().st_mtime_ns for path in tiny.run.path.rglob("*")}
    os.kill(pid, signal.SIGCONT)
    tiny.over()
    assert {path: path.stat().st_mtime_ns for path in tiny.run.path.rglob("*")} == written
    assert tiny.outcomes() == ["lost", "done"]
    assert tiny.only().state is State.DONE
    calm(tiny)


def test_a_job_that_dies_before_its_run_begins_is_reported(tiny: Sweep) -> None:
    tiny.write_profile({"slurm_setup": ["echo no such module: cuda >&2; exit 7"]})
    tiny.launch()
    tiny.over()
    status = tiny.only()
    assert (status.state, status.kind) == (State.FAILED, "job")
    assert "exit code 7: no such module: cuda" in (status.reason or "")
    assert "nothing to submit" in tiny.launch()
    tiny.write_profile({"slurm_additional_parameters": {"hold": True}})
    assert "1 run submitted" in tiny.retry(kind="job")
    assert tiny.only().state is State.PENDING


def test_host_memory(tiny: Sweep, calm: Calm) -> None:
    """A process that is killed for its memory says nothing; a retry gets more of it."""
    tiny.write_profile({"mem_gb": 0.2})
    tiny.launch()
    tiny.over()
    status = tiny.only()
    assert (status.state, status.kind) == (State.FAILED, "memory"), status.reason
    assert "nothing to submit" in tiny.launch()
    retries = 0
    while tiny.only().state is not State.DONE:
        assert tiny.only().kind == "memory"
        assert "1 run submitted" in tiny.retry(kind="oom")
        retries += 1
        tiny.over()
        memory = round(0.2 * 1.5**retries, 3)
        assert tiny.submissions()[-1]["mem_gb"] == memory
    kept = repair.read(tiny.run)
    assert (kept.micro_batch, kept.mem_gb, kept.retries) == (None, memory, {"memory": retries})
    calm(tiny)


def test_jobs_of_several_runs_survive_too(tiny: Sweep, calm: Calm) -> None:
    """Slurm signals every process of a job; only one of them queues it again."""
    tiny.write_grid(seeds=2, epochs=EPOCHS)
    tiny.write_profile({"mem_gb": 3}, runs_per_job=2, packing="parallel")
    tiny.launch()
    second = tiny.store.run(tiny.grid.runs[1].id)
    tiny.trained(3)
    until(lambda: second.checkpoint.exists())
    tiny.bed.run("scancel", "--signal=USR2", tiny.job())
    tiny.done()
    for run in (tiny.run, second):
        rows = [line for line in run.attempts.read_text().splitlines() if "interrupted" in line]
        assert len(rows) == 1, run.attempts.read_text()
    calm(tiny)


def test_runs_that_fail_alike_hold_the_others_back(tiny: Sweep) -> None:
    """Jobs of three runs whose weights cannot be read, one job after another."""
    broken: dict[str, Any] = {"weights": str(tiny.folder / "broken.pt")}
    (tiny.folder / "broken.pt").write_bytes(b"no weights")
    tiny.write_grid(seeds=12, **broken)
    tiny.write_profile({"slurm_array_parallelism": 1}, runs_per_job=3)
    tiny.launch()
    tiny.over()
    assert tiny.states() == {"failed": breaker.LIMIT, "new": 12 - breaker.LIMIT}
    assert {s.kind for s in tiny.look().statuses if s.state is State.FAILED} == {"data"}
    held = breaker.tripped(tiny.sweep)
    assert held and held.runs == breaker.LIMIT
    logs = [path.read_text() for path in tiny.sweep.logs.glob("*_0_log.err")]
    assert len(logs) == 2, "two of the four jobs were taken out of the queue"
    assert sum(log.count("the others are held back") for log in logs) == 1, "said once"
    tiny.write_profile({"slurm_additional_parameters": {"hold": True}})
    assert "3 runs submitted" in tiny.retry()
    assert breaker.tripped(tiny.sweep) is None, "a retry closes the breaker"
