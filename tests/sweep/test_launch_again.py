"""Launching again: what a repeated command takes, says and returns, and a feeder that stays."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.config import ConfigError
from core.errors import ClusterError
from core.store.claims import Claim
from core.store.folders import Store
from slurm.profile import read_profile
from sweep import launcher
from sweep.grid import Grid, Run
from sweep.state import plan
from sweep.state.plan import Pending, Plan, State, Status
from sweep.submit import array, local, submissions
from sweep.submit.backend import Crew, Started
from sweep.submit.order import Runs


@pytest.mark.parametrize("verb", ["plan", "launch", "status", "retry", "cancel"])
def test_no_run_in_such_a_state_is_no_claim_that_all_is_done(
    again: Grid, call: Callable[..., tuple[int, str, str]], verb: str
) -> None:
    code, out, err = call(verb, str(again.path), "--only", "state=failed")
    assert (code, err) == (0, "")
    assert "every run is done" not in out
    assert ("no run is in the states asked for" in out) == (verb in ("launch", "retry"))


def test_nothing_to_retry_is_no_claim_that_all_has_ended(
    again: Grid, call: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = call("retry", str(again.path))
    assert code == 3
    assert "nothing to retry; `sweep launch`" in out and "every run" not in out


def test_runs_that_were_chosen_by_their_state_count_by_how_they_end(
    again: Grid,
    store: Store,
    call: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(order: Runs) -> Started[Runs]:
        for run in order.runs:
            claim = Claim.acquire(store.run(run.id))
            assert claim
            claim.release("failed", kind="bug", reason="it broke")
        return Started(crew=Crew([], lambda _: pytest.fail("no worker died"), order.sweep.manifest))

    monkeypatch.setattr(local.BACKEND, "start", fail)
    code, _, _ = call("launch", str(again.path), "--only", "state=new")
    assert code == 1


def test_a_launch_does_not_compare_every_run_with_every_other(
    again: Grid, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That took 2 s for 1,440 runs."""
    monkeypatch.setattr(Status, "__eq__", lambda *_: pytest.fail("compared"))
    monkeypatch.setattr(local.BACKEND, "start", lambda _: Started(here=lambda _: None))
    assert call("launch", str(again.path))[0] == 3


def test_finished_runs_are_not_looked_at_twice(again: Grid, store: Store) -> None:
    done = Status(again.runs[0], State.DONE)
    gone = Status(again.runs[1], State.DONE)
    store.run(done.run.id).path.mkdir(parents=True)
    seen = plan.make(again.runs, store, {}, before=Plan([done, gone]))
    assert [status.state for status in seen.statuses] == [State.DONE, State.NEW, State.NEW]


def test_a_failed_run_is_looked_at_again_when_something_changes(
    again: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, look, looks = again.runs[0], plan.look, list[str]()
    folder = store.run(run.id)
    claim = Claim.acquire(folder)
    assert claim and claim.release("failed", kind="bug", reason="it broke")

    def counted(one: Run, *more: Any) -> Status:
        looks.append(one.id)
        return look(one, *more)

    monkeypatch.setattr(plan, "look", counted)
    seen = None
    for _ in range(4):
        seen = plan.make([run], store, {}, before=seen)
        assert seen.statuses[0].reason == "it broke"
    assert len(looks) == 2  # the first does not note when folders have changed
    assert plan.make([run], store, {run.id: Pending("7", 1)}, before=seen).of({State.PENDING})
    assert plan.make([run], store, {run.id: Pending("7", 0)}, before=seen).of({State.FAILED})
    assert len(looks) == 3
    folder.write_json(folder.cancel, {})
    assert plan.make([run], store, {}, before=seen).of({State.CANCELLED})


def test_a_feeder_outlives_a_slurm_that_is_down_and_another_launch(
    again: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Exception | None] = [
        ClusterError("sbatch refused: Unable to contact slurm controller"),
        ClusterError("sbatch refused: Unable to contact slurm controller"),
        ConfigError("again: another launch is submitting it right now"),
        None,
    ]

    def start(order: Runs) -> Started[Runs]:
        if end := ends.pop(0):
            raise end
        return Started({"8": order.jobs})

    monkeypatch.setattr(array.BACKEND, "room", lambda _: 5)
    monkeypatch.setattr(array.BACKEND, "start", start)
    submissions.record_grid(again, store)
    console = Console(file=io.StringIO(), width=200)
    where = read_profile("testbed")
    launcher._feed(list(again.runs), lambda _: True, again, store, where, console, 0.0)
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3 runs submitted" in said
    assert said.count("Unable to contact") == said.count("another launch") == 1


def test_a_machine_without_slurm_is_reported_and_nothing_waits_for_it(
    again: Grid,
    store: Store,
    call: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = "profile gpu: Slurm's commands are not on the PATH here\n"
    for more in ("--dry-run", "--detach"):
        code, _, err = call("launch", str(again.path), "--profile", "gpu", more)
        assert (code, err) == (1, told)
    assert launcher.look(again, store).counts == {State.NEW: 3}


@pytest.mark.parametrize("name", ["claim-0001.json", "result.json"])
@pytest.mark.parametrize("content", [b'{"outc', b"\0\0\0\0", b"\xff\xfe\xfd"])
def test_a_damaged_file_is_named_by_status(
    again: Grid, store: Store, call: Callable[..., tuple[int, str, str]], name: str, content: bytes
) -> None:
    claim = Claim.acquire(store.run(again.runs[0].id))
    assert claim
    claim.release("done")
    damaged = store.run(again.runs[0].id).path / name
    damaged.write_bytes(content)
    code, out, err = call("status", str(again.path))
    assert (code, err) == (0, "") and f": {name}: not complete JSON (" in out


def test_the_profile_debug_runs_here(
    again: Grid, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a breakpoint stops, and the traceback of a failure is seen."""
    here: list[int] = []

    def execute(*_: object) -> None:
        here.append(os.getpid())
        raise RuntimeError("it broke")

    monkeypatch.setattr("core.run.pipeline.execute", execute)
    arguments = (str(again.path), "--profile", "debug", "--only", "seed=1")
    code, out, _ = call("launch", *arguments)
    assert (code, here) == (1, [os.getpid()])
    assert 'raise RuntimeError("it broke")' in out
    _, out, _ = call("launch", *arguments[:3], "--dry-run")
    assert "this process does 2 runs" in out
