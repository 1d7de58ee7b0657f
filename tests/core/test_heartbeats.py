"""Heartbeats of claims: how long an owner may be silent, whose clock counts, what errors do."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killable
import pytest
from claiming import foreign
from forks import Forks
from waiting import until

from core.store import claims, processes
from core.store.claims import Claim
from core.store.folders import RunDir
from core.store.holder import find_holder
from core.store.json_files import read_jsonl


@pytest.mark.parametrize(("age", "free"), [(0, False), (100, False), (140, True)])
def test_an_owner_elsewhere_counts_as_gone_when_its_heart_stops(
    run: RunDir, acquire: Callable[..., Claim | None], age: float, free: bool
) -> None:
    """120 seconds, by default."""
    foreign(run, age=age)
    owner = find_holder(run)
    assert owner and owner.live is not free and owner.age == pytest.approx(age, abs=15)
    assert (acquire(run) is not None) is free


def test_patience_is_a_setting(
    run: RunDir, acquire: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(run, age=20)
    assert acquire(run) is None
    monkeypatch.setenv("EPSWEEP_STALE_S", "10")
    claim = acquire(run)
    assert claim and claim.attempt == 2


def test_an_owner_is_as_silent_as_its_own_setting_allows(
    run: RunDir, acquire: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job with the patience of its profile, seen from a login node that knows nothing of it."""
    monkeypatch.setenv("EPSWEEP_STALE_S", "600")
    claim = acquire(run)
    assert claim
    monkeypatch.delenv("EPSWEEP_STALE_S")
    monkeypatch.setattr(processes, "_machine", lambda: "elsewhere")
    for age, live in ((150, True), (650, False)):
        os.utime(run.path / "claim-0001.json", (time.time() - age,) * 2)
        owner = find_holder(run)
        assert owner and (owner.live, owner.hung) == (live, not live)


def test_clocks_that_differ_make_nobody_look_dead(
    run: RunDir, acquire: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This node's clock is an hour ahead of the file server's."""
    foreign(run, age=5)
    ahead = time.time() + 3600
    monkeypatch.setattr(claims.time, "time", lambda: ahead)
    assert acquire(run) is None


def test_a_claim_without_its_first_line_is_live_for_a_while(
    run: RunDir, acquire: Callable[..., Claim | None]
) -> None:
    path = foreign(run, age=0)
    path.write_text("")
    assert acquire(run) is None
    os.utime(path, (time.time() - 500,) * 2)
    assert acquire(run) is not None


def test_an_owner_that_was_taken_over_notices_and_stays_silent(
    forks: Forks,
    run: RunDir,
    acquire: Callable[..., Claim | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process hangs (SIGSTOP), another machine takes over, the first one wakes up again."""
    beats = {"EPSWEEP_HEARTBEAT_S": "0.02", "EPSWEEP_STALE_S": "1000"}
    hung = forks.start(killable.claim_and_wait, run.path, beats)
    until((run.path / "ready").exists)
    monkeypatch.setattr(processes, "_machine", lambda: "elsewhere")
    path, took = run.path / "claim-0001.json", list[Claim | None]()

    def take() -> Claim | None:
        os.utime(path, (time.time() - 2000,) * 2)
        took.append(acquire(run))
        return took[-1]

    os.utime(path, (time.time() - 2000,) * 2)
    until(lambda: path.stat().st_mtime > time.time() - 1000)
    assert acquire(run) is None, "its heart has beaten since"
    os.kill(hung.pid, signal.SIGSTOP)
    until(take)
    (run.path / "go").touch()
    os.kill(hung.pid, signal.SIGCONT)
    hung.join(30)
    assert (run.path / "held").read_text() == "False"
    assert took[-1] and took[-1].held()
    assert [row["outcome"] for row in read_jsonl(run.attempts)] == ["lost", None]


def test_the_heart_beats_and_tells_progress(
    run: RunDir, acquire: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPSWEEP_HEARTBEAT_S", "0.02")
    claim = acquire(run)
    assert claim

    def told() -> Any:
        owner = find_holder(run)
        assert owner
        return owner.info["progress"]

    claim.progress = {"phase": "train", "epoch": 3}
    until(lambda: told() == {"phase": "train", "epoch": 3})
    os.utime(run.path / "claim-0001.json", (0, 0))
    until(lambda: (run.path / "claim-0001.json").stat().st_mtime > 0)


def test_the_heart_survives_a_full_disk(
    run: RunDir, acquire: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPSWEEP_HEARTBEAT_S", "0.02")
    claim = acquire(run)
    assert claim
    failures = []

    def full(run: RunDir, path: Path, value: Any) -> None:
        failures.append(path)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "write_json", full)
        until(lambda: len(failures) > 2)
    claim.progress = {"phase": "after"}
    until(lambda: "after" in (run.path / "claim-0001.json").read_text())


def test_a_released_claim_stops_beating(
    run: RunDir, acquire: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPSWEEP_HEARTBEAT_S", "0.01")
    claim = acquire(run)
    assert claim
    claim.release("done")
    path = run.path / "claim-0001.json"
    os.utime(path, (0, 0))
    time.sleep(0.1)
    assert path.stat().st_mtime == 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heart that beats often."""
    monkeypatch.setenv("EPSWEEP_HEARTBEAT_S", "0.05")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("times", [1, 40])
def test_the_heart_survives_every_error_of_the_disk(
    run: RunDir,
    acquire: Callable[..., Claim | None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    quick: None,
    number: int,
    times: int,
) -> None:
    """One error or many, in whatever it does; said once, and the run is not taken for lost."""
    claim = acquire(run)
    assert claim
    claim.on_cancel = lambda: pytest.fail("nobody has cancelled the run")
    failed: list[object] = []

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(path: Any, *more: Any, **options: Any) -> Any:
            if len(failed) < times and threading.current_thread().name == "heartbeat":
                failed.append(path)
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *more, **options)

        return act

    with monkeypatch.context() as patch:
        for name in ("listdir", "replace", "stat"):
            patch.setattr(os, name, failing(getattr(os, name)))
        until(lambda: len(failed) == times)
    claim.progress = {"phase": "after"}
    until(lambda: "after" in (run.path / "claim-0001.json").read_text())
    assert claim.held() and acquire(run) is None
    said = [record.message for record in caplog.records if "heartbeat" in record.message]
    assert len(said) <= 1
    if times > 1:
        assert os.strerror(number) in said[0]


@pytest.mark.parametrize("ahead", [3600, 10 * 365 * 86400])
def test_a_claim_from_the_future_holds_nothing_for_ever(
    run: RunDir, acquire: Callable[..., Claim | None], quick: None, ahead: float
) -> None:
    foreign(run, age=-ahead, stale_s=0.5)
    owner = find_holder(run)
    assert owner and owner.hung and f"{owner.silence}".endswith("s in the future")
    claim = acquire(run)
    assert claim and claim.attempt == 2


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_an_owner_whose_clock_is_wrong_is_left_alone(
    run: RunDir, acquire: Callable[..., Claim | None], quick: None, ahead: float
) -> None:
    """On a file system that takes the time of whoever writes."""
    path, over = foreign(run, age=-ahead, stale_s=10, beat_s=5), threading.Event()

    def beat() -> None:
        while not over.wait(0.01):
            moment = time.time() + ahead
            os.utime(path, (moment, moment))

    heart = threading.Thread(target=beat)
    heart.start()
    assert acquire(run) is None
    over.set()
    heart.join()
    foreign(run, age=-ahead, stale_s=0.2, beat_s=0.1)
    assert acquire(run) is not None
