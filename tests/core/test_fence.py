"""Only the newest attempt changes a run folder, wherever in its work a former one was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stopped
import tiny
from forks import Forks
from tuned_grid import GRID, searches
from whole_run import FAST, MORE, assert_keeps_its_promise

from core.store.folders import Store, read_json, read_jsonl
from sweep.grid.search import trial_file

QUICK = {"steps": 1, "images": 2}
FIELDS = {"epochs": 2, "schedule": "standard", "batch": 20, "validation": QUICK}
EVALS = [item.model_copy(update={"images": 4, "steps": 1}).to_dict() for item in (FAST, MORE)]
LOG = "log.txt"


@dataclass
class Ended:
    """What became of an attempt that was stopped on its way, and of one that ended meanwhile."""

    first: str
    second: str
    claimed: bool
    """Whether the first one had its claim when it was stopped."""
    before: dict[str, bytes]
    after: dict[str, bytes]
    """The files when the second one ended, and when the first one did."""


def files(folder: Path) -> dict[str, bytes]:
    """By name; without those that tell the time, which any process may leave when it is killed."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "clock." not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def stop(
    forks: Forks, folder: Path, said: Path, first: Callable[..., Any], second: Callable[..., Any]
) -> Ended | None:
    """first, second: start an attempt that says in a file how it ended. None if the first one ended
    before it came to the place where it stops."""
    said.mkdir(parents=True)
    one = first(said / "one")
    if not _stops(one):
        assert one.exitcode == 0
        return None
    try:
        claimed = bool(list(folder.glob("claim-*")))
        two = second(said / "two")
        two.join(60)
        assert two.exitcode == 0
        before = files(folder)
    finally:
        os.kill(one.pid, signal.SIGCONT)
        one.join(60)
    assert one.exitcode == 0
    told = [(said / name).read_text() for name in ("one", "two")]
    return Ended(*told, claimed, before, files(folder))


def _stops(process: Any) -> bool:
    """Wait until a process is stopped (True) or has ended."""
    while process.is_alive():
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        if stat.rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.005)
    process.join()
    return False


def assert_nothing_is_lost(ended: Ended) -> None:
    """Of what the second attempt left."""
    if ended.second != "done":
        assert ended.second == "skipped", "the first one had finished everything"
    elif ended.claimed:
        (row, *_) = map(json.loads, ended.before["attempts.jsonl"].splitlines())
        # Stopped when it had recorded that it was done, it was not taken over.
        ends = ("lost", "skipped", "done") if row["outcome"] == "done" else ("lost", "skipped")
        assert ended.first in ends, ended.after[LOG]
        logs = [found.pop(LOG, b"") for found in (ended.before, ended.after)]
        assert logs[1].startswith(logs[0])
        assert ended.before == ended.after
    else:  # then it may claim the run now, and finds that all is done
        for name, content in ended.before.items():
            if name.startswith("evals") or name in ("trial.json", "metrics.jsonl"):
                assert ended.after[name] == content
        assert ended.after["attempts.jsonl"].startswith(ended.before["attempts.jsonl"].rstrip())


def stop_run(forks: Forks, tmp_path: Path, n: int, thread: str = "MainThread") -> bool:
    """Stop a run before its n-th act; False if it has not so many."""
    root = tmp_path / f"{n}"
    run = Store(root).run(tiny.config(**FIELDS).id)

    def start(evals: list[Any], n: int) -> Callable[[Path], Any]:
        return lambda said: forks.start(stopped.run, root, FIELDS, evals, said, n, thread)

    ended = stop(forks, run.path, root / "said", start(EVALS[:1], n), start(EVALS, 0))
    if ended is None:
        return False
    assert_nothing_is_lost(ended)
    assert assert_keeps_its_promise(run)
    result = read_json(run.result)
    assert result and result["evals"] == [FAST_ID, MORE_ID]
    assert {row["outcome"] for row in read_jsonl(run.attempts)} <= {"lost", "done"}
    assert not list(run.path.glob(".drafts*")) and not list(run.evals.glob("*.part"))
    shutil.rmtree(root)
    return True


FAST_ID, MORE_ID = (FAST.parse(item).id for item in EVALS)
EVERYDAY = (4, 15, 33, 52, 71)
"""In the middle of claiming, of a checkpoint's change, of forgetting, of an evaluation, of the end;
the slow test has all of them."""


@pytest.mark.parametrize("n", EVERYDAY)
def test_a_run_is_stopped_and_taken_over(forks: Forks, tmp_path: Path, n: int) -> None:
    assert stop_run(forks, tmp_path, n)


@pytest.mark.slow
def test_a_run_is_stopped_before_everything_it_does(forks: Forks, tmp_path: Path) -> None:
    n = 1
    while stop_run(forks, tmp_path, n):
        n += 1
    assert n > max(EVERYDAY), "too few acts: are calls still noticed?"


@pytest.mark.slow
def test_a_heartbeat_is_stopped(forks: Forks, tmp_path: Path) -> None:
    """The thread of the heart writes too."""
    assert all(stop_run(forks, tmp_path, n, "heartbeat") for n in range(1, 13))


def one_trial(root: Path) -> Any:
    text = GRID.replace("epochs: 9", "epochs: 2").replace("mini_convnext", "test_vit")
    return searches(Store(root), "{trials: 3}", text)[1]


def stop_trial(forks: Forks, tmp_path: Path, n: int) -> bool:
    """Stop a trial of a search before its n-th act."""
    root = tmp_path / f"{n}"
    wanted = one_trial(root)

    def start(n: int) -> Callable[[Path], Any]:
        about = wanted.to_dict()
        return lambda said: forks.start(stopped.trial, root, about, said, n, "MainThread")

    run = wanted.trial_dir(0)
    ended = stop(forks, run.path, root / "said", start(n), start(0))
    if ended is None:
        return False
    assert_nothing_is_lost(ended)
    record = read_json(trial_file(run))
    assert record and record["state"] == "completed"
    assert {row["outcome"] for row in read_jsonl(run.attempts)} <= {"lost", "done"}
    assert not run.checkpoint.exists() and not list(run.path.glob(".drafts*"))
    shutil.rmtree(root)
    return True


def test_a_trial_is_stopped_and_taken_over(forks: Forks, tmp_path: Path) -> None:
    assert stop_trial(forks, tmp_path, 30)


@pytest.mark.slow
def test_a_trial_is_stopped_before_everything_it_does(forks: Forks, tmp_path: Path) -> None:
    n = 1
    while stop_trial(forks, tmp_path, n):
        n += 1
    assert n > 40, "too few acts: are calls still noticed?"
