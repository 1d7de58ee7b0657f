"""Claims: of several takers one wins, the dead are replaced, the replaced notice."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
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
from core.store.fence import newest_attempt
from core.store.folders import RunDir
from core.store.holder import find_holder
from core.store.json_files import read_jsonl
from core.store.processes import describe_process, process_alive


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


@pytest.mark.parametrize("outcome", ["done", "failed", "interrupted"])
def test_an_owner_elsewhere_that_said_goodbye_is_gone(
    run: RunDir, acquire: Callable[..., Claim | None], outcome: str
) -> None:
    foreign(run, age=0, outcome=outcome)
    claim = acquire(run)
    assert claim and claim.attempt == 2


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


def test_a_folder_that_vanished_is_not_held(
    run: RunDir, acquire: Callable[..., Claim | None]
) -> None:
    claim = acquire(run)
    assert claim
    shutil.rmtree(run.path)
    assert not claim.held()
    claim.release("done")
    assert not run.path.exists()


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
        with pytest.raises(OSError, match="is outdated"):
            find_holder(run)
        assert len(looks) < 30


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
