"""Claims: of several takers one wins, the dead are replaced, the replaced notice."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import killable
import pytest
from forks import Forks

from core.store import claims, processes
from core.store.claims import Claim
from core.store.fence import newest_attempt
from core.store.folders import RunDir
from core.store.holder import find_holder
from core.store.json_files import read_jsonl
from core.store.processes import describe_process, process_alive


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs" / "r")


@pytest.fixture
def acquire() -> Iterator[Callable[..., Claim | None]]:
    """Claim.acquire, but every claim is released in the end: its heartbeat is a thread."""
    taken: list[Claim] = []

    def acquired(run: RunDir, **options: Any) -> Claim | None:
        claim = Claim.acquire(run, **options)
        if claim:
            taken.append(claim)
        return claim

    yield acquired
    for claim in taken:
        claim.release("interrupted")


def foreign(run: RunDir, *, age: float, attempt: int = 1, **info: Any) -> Path:
    """A claim by a process of another machine, whose last heartbeat is `age` seconds old."""
    run.path.mkdir(parents=True, exist_ok=True)
    path = run.path / f"claim-{attempt:04d}.json"
    described = {"attempt": attempt, "machine": "elsewhere", "pid": 1, "pid_start": "1"}
    path.write_text(json.dumps(described | {"outcome": None} | info))
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def test_exactly_one_of_three_wins_every_round(forks: Forks, tmp_path: Path) -> None:
    """New runs, runs whose owner died, and runs that were released, 20 times each."""
    folders = [tmp_path / "runs" / f"{i:03d}" for i in range(60)]
    dead = {**describe_process(os.getpid()), "pid_start": "1", "attempt": 1, "outcome": None}
    for kind, info in ((1, dead), (2, dead | {"outcome": "failed"})):
        for folder in folders[kind::3]:
            folder.mkdir(parents=True)
            (folder / "claim-0001.json").write_text(json.dumps(info))
    barrier = forks.barrier(3)
    results = [tmp_path / f"racer{i}" for i in range(3)]
    racers = [forks.start(killable.race, folders, barrier, result) for result in results]
    for racer in racers:
        racer.join(120)
        assert racer.exitcode == 0
    rounds = list(zip(*(result.read_text().split("\n") for result in results), strict=True))
    assert len(rounds) == 60
    assert [sum(map(int, won)) for won in rounds] == [1] * 60
    assert len({won.index("1") for won in rounds}) > 1, "one racer always won: no race took place"
    for i, folder in enumerate(folders):
        assert newest_attempt(folder) == (1 if i % 3 == 0 else 2)
        assert len(read_jsonl(RunDir(folder).attempts)) == 1


def test_owners_that_come_and_go_never_overlap(forks: Forks, run: RunDir) -> None:
    barrier = forks.barrier(3)
    results = [run.path.parent / f"worker{i}" for i in range(3)]
    run.path.mkdir(parents=True)
    workers = [forks.start(killable.take_turns, run.path, 12, barrier, r) for r in results]
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    alone = [line for result in results for line in result.read_text().split("\n")]
    assert alone == ["True"] * 36, "two owners at a time"
    rows = read_jsonl(run.attempts)
    assert [row["attempt"] for row in rows] == list(range(1, 37)), "an attempt left no row"
    assert {row["outcome"] for row in rows} == {"interrupted"}
    assert [path.name for path in run.path.glob("claim-*")] == ["claim-0036.json"]


def test_a_live_owner_is_not_disturbed(run: RunDir, acquire: Callable[..., Claim | None]) -> None:
    claim = acquire(run, job="12_3")
    assert claim and claim.attempt == 1 and claim.held()
    assert acquire(run) is None
    owner = find_holder(run)
    assert owner and owner.live and owner.attempt == 1 and owner.age < 60
    assert owner.info["pid"] == os.getpid() and owner.info["job"] == "12_3"
    assert claim.held()


def test_a_run_never_started_has_no_holder(run: RunDir) -> None:
    assert find_holder(run) is None and newest_attempt(run.path) == 0
    run.path.mkdir(parents=True)
    assert find_holder(run) is None


def test_a_killed_owner_is_replaced_at_once_and_its_row_closed(
    forks: Forks, run: RunDir, acquire: Callable[..., Claim | None]
) -> None:
    assert forks.run(killable.claim_and_die, run.path) == -9
    (row,) = read_jsonl(run.attempts)
    assert row["outcome"] is None and row["job"] == "77"
    owner = find_holder(run)
    assert owner and not owner.live
    claim = acquire(run)
    assert claim and claim.attempt == 2
    lost, now = read_jsonl(run.attempts)
    assert (lost["attempt"], lost["outcome"], lost["kind"]) == (1, "lost", "lost")
    assert "without recording a reason" in lost["reason"] and lost["job"] == "77"
    assert (now["attempt"], now["outcome"], now["pid"]) == (2, None, os.getpid())
    claim.release("done")
    assert [row["outcome"] for row in read_jsonl(run.attempts)] == ["lost", "done"]


def test_a_process_is_told_from_a_dead_a_zombie_and_a_later_one() -> None:
    process = subprocess.Popen(["sleep", "60"])
    described = describe_process(process.pid)
    assert process_alive(described) is True
    assert process_alive(described | {"pid_start": "1"}) is False, "the pid belongs to another now"
    process.kill()
    stat = Path(f"/proc/{process.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
    assert process_alive(described) is False, "a zombie does no work"
    process.wait()
    assert process_alive(described) is False
    assert process_alive(described | {"machine": "elsewhere"}) is None


def test_a_process_whose_name_is_odd(tmp_path: Path) -> None:
    """The kernel writes the name of the program into the line that is parsed."""
    program = tmp_path / "a) Z 1 2 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "60"])
    until(lambda: "Z 1" in Path(f"/proc/{process.pid}/comm").read_text())
    described = describe_process(process.pid)
    assert described["pid_start"].isdigit() and process_alive(described) is True
    process.kill()
    process.wait()


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


@pytest.mark.parametrize("outcome", ["done", "failed", "interrupted"])
def test_an_owner_elsewhere_that_said_goodbye_is_gone(
    run: RunDir, acquire: Callable[..., Claim | None], outcome: str
) -> None:
    foreign(run, age=0, outcome=outcome)
    claim = acquire(run)
    assert claim and claim.attempt == 2


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


def test_a_late_taker_loses_to_a_higher_attempt(
    run: RunDir, acquire: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw attempt 1 die, fell asleep, and wakes when attempt 2 has come and gone."""
    foreign(run, age=500)
    seen = find_holder(run)
    monkeypatch.setattr(claims, "find_holder", lambda *_, **__: seen)
    foreign(run, age=0, attempt=3)
    (run.path / "claim-0001.json").unlink()
    assert acquire(run) is None
    assert read_jsonl(run.attempts) == []
    assert newest_attempt(run.path) == 3


def test_an_owner_that_was_taken_over_notices_and_stays_silent(
    forks: Forks,
    run: RunDir,
    acquire: Callable[..., Claim | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process hangs (SIGSTOP), another machine takes over, the first one wakes up again."""
    beats = {"EPSWEEP_HEARTBEAT_S": "0.02", "EPSWEEP_STALE_S": "0.4"}
    hung = forks.start(killable.claim_and_wait, run.path, beats)
    until((run.path / "ready").exists)
    monkeypatch.setattr(processes, "_machine", lambda: "elsewhere")
    time.sleep(0.6)
    assert acquire(run) is None, "its heart beats: age alone does not make it stale"
    os.kill(hung.pid, signal.SIGSTOP)
    took: list[Claim] = []
    until(lambda: took.append(acquire(run)) or took[-1])  # type: ignore[func-returns-value]
    (run.path / "go").touch()
    os.kill(hung.pid, signal.SIGCONT)
    hung.join(30)
    assert (run.path / "held").read_text() == "False"
    assert took[-1].held()
    assert [row["outcome"] for row in read_jsonl(run.attempts)] == ["lost", None]


def test_a_folder_that_vanished_is_not_held(
    run: RunDir, acquire: Callable[..., Claim | None]
) -> None:
    claim = acquire(run)
    assert claim
    shutil.rmtree(run.path)
    assert not claim.held()
    claim.release("done")
    assert not run.path.exists()


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


def test_every_ending_leaves_its_row(run: RunDir, acquire: Callable[..., Claim | None]) -> None:
    first = acquire(run, job="5")
    assert first
    first.note("checkpoint.pt is damaged")
    first.note("W&B stopped")
    first.release("failed", kind="oom", reason="out of memory at epoch 3")
    second = acquire(run)
    assert second
    second.release("done")
    one, two = read_jsonl(run.attempts)
    assert list(one) == list(two)
    assert one["notes"] == ["checkpoint.pt is damaged", "W&B stopped"] and two["notes"] == []
    told = [(row["attempt"], row["outcome"], row["kind"], row["reason"]) for row in (one, two)]
    assert told == [(1, "failed", "oom", "out of memory at epoch 3"), (2, "done", None, None)]
    assert one["job"] == "5" and one["started"] <= one["ended"] <= two["started"] <= two["ended"]
    assert one["host"] and one["pid"] == os.getpid()
    owner = find_holder(run)
    assert owner and not owner.live and owner.info["outcome"] == "done"


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


def test_a_copied_store_has_taken_no_longer(
    run: RunDir, acquire: Callable[..., Claim | None]
) -> None:
    """Whoever copies it may not keep the times of files."""
    claim = acquire(run, gpus=2)
    assert claim
    claim.release("done")
    path = run.path / "claim-0001.json"
    copied = time.time() + 86400
    os.utime(path, (copied, copied))
    owner = find_holder(run)
    assert owner and owner.seconds < 5 and owner.gpu_seconds < 10


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heart that beats often, and counts as stopped soon."""
    monkeypatch.setenv("EPSWEEP_HEARTBEAT_S", "0.05")
    monkeypatch.setenv("EPSWEEP_STALE_S", "0.5")


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


def test_a_list_of_files_may_be_old(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node lists a claim that another one has replaced a minute ago."""
    foreign(run, age=0, attempt=2, outcome="done")
    looks = []

    def listdir(path: Any) -> list[str]:
        looks.append(path)
        return ["claim-0001.json"]

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        owner = find_holder(run)
        assert owner and owner.attempt == 2 and len(looks) < 10
        (run.path / "claim-0002.json").unlink()
        with pytest.raises(OSError, match="out of date"):
            find_holder(run)
        assert len(looks) < 30


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
    path, over = foreign(run, age=-ahead, stale_s=0.5, beat_s=0.2), threading.Event()

    def beat() -> None:
        while not over.wait(0.01):
            moment = time.time() + ahead
            os.utime(path, (moment, moment))

    heart = threading.Thread(target=beat)
    heart.start()
    assert acquire(run) is None
    over.set()
    heart.join()
    assert acquire(run) is not None


def test_claims_removed_by_hand_let_no_sleeper_back_in(
    run: RunDir, acquire: Callable[..., Claim | None]
) -> None:
    first = acquire(run)
    assert first
    (run.path / "claim-0001.json").unlink()
    second = acquire(run)
    assert second and second.attempt == 2 and second.held() and not first.held()


def test_a_process_that_cannot_be_seen_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, where /proc shows only one's own."""
    described = describe_process(1)

    def hidden(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "read_text", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(os, "kill", hidden)
    monkeypatch.setattr(processes, "_machine", lambda: described["machine"])
    assert process_alive(described) is None
