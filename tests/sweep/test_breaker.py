"""The circuit breaker: failures that look alike hold a sweep back, unlike ones do not."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from core.config import RunConfig
from core.options import Options
from core.store.folders import Store, SweepDir
from core.store.holder import find_holder
from sweep.state import breaker
from sweep.worker import attempt


def raised(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def broken(name: str, *_: object) -> None:
    raise KeyError(name)


def test_it_trips_when_enough_different_runs_fail_alike(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    for number in range(breaker.LIMIT):
        assert breaker.tripped(sweep) is None
        error = raised(lambda number=number: broken(f"run {number}"))  # type: ignore[misc]
        breaker.note(sweep, f"run-{number}", error, "a missing key")
    stop = breaker.tripped(sweep)
    assert stop
    assert stop.runs == breaker.LIMIT
    assert "a missing key" in str(stop)
    breaker.close(sweep)
    assert breaker.tripped(sweep) is None


def test_one_run_failing_again_and_again_does_not_trip_it(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    for _ in range(3 * breaker.LIMIT):
        breaker.note(sweep, "the-same-run", raised(lambda: broken("x")), "reason")
    assert breaker.tripped(sweep) is None


def test_different_failures_do_not_add_up(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    acts: list[Callable[[], object]] = [
        lambda: 1 / 0,
        lambda: [][0],
        lambda: {}[0],
        lambda: int(""),
    ]
    for number, act in enumerate(acts):
        breaker.note(sweep, f"run-{number}", raised(act), "reason")
    assert breaker.tripped(sweep) is None


def test_a_failure_that_cannot_be_noted_is_still_a_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("core.run.pipeline.execute", broken)
    monkeypatch.setattr(breaker, "note", full)
    config = RunConfig.parse({"backbone": "mini_convnext", "dataset": "fake", "image_size": 32})
    assert attempt.make(config, [], store, Options(group="x")) == "failed"
    last = find_holder(store.run(config.id))
    assert last and last.info["outcome"] == "failed"


def test_it_may_be_closed_while_a_job_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = SweepDir(tmp_path)
    breaker.note(sweep, "run", raised(lambda: broken("x")), "reason")

    def late(folder: Path) -> bool:
        breaker.close(sweep)
        return True

    monkeypatch.setattr(Path, "is_dir", late)
    assert breaker.tripped(sweep) is None
