"""Only the newest attempt changes a run folder, wherever in its work a former one was stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stopped
import tiny
from forks import Forks
from tuned_grid import GRID, searches
from whole_run import FAST, MORE, assert_keeps_its_promise

from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl
from sweep.grid.search import trial_file

QUICK = {"steps": 1, "images": 2}
FIELDS = {"epochs": 2, "schedule": "standard", "batch": 20, "validation": QUICK}
EVALS = [item.model_copy(update={"images": 4, "steps": 1}).to_dict() for item in (FAST, MORE)]
LOG = "log.txt"
EVERY_STOP = bool(os.environ.get("EVERY_STOP"))
"""Stop before each single act; `EVERY_STOP=1 pytest -m slow tests/core/test_fence.py` takes about 8
minutes. Else a sample of them is taken, see places()."""
NEVER = 10**6


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


def places(acts: list[tuple[str, str]]) -> list[int]:
    """The acts (1 for the first) before which an attempt is stopped: the first of every kind of
    call, the first and the last of every file."""
    if EVERY_STOP:
        return list(range(1, len(acts) + 1))
    # A draft, `.drafts-0001-ae12c2d3/.result.json.2bd03f14`, counts as the file that it becomes.
    plain = re.compile(r"^\.+|\.[0-9a-f]{8}|-\d{4}-[0-9a-f]{8}")
    named = [(call, plain.sub("", name.rpartition("/")[2])) for call, name in acts]
    first = {key: n for n, act in reversed([*enumerate(named, 1)]) for key in (act[:1], act[1:])}
    last = {name: n for n, (_, name) in enumerate(named, 1)}
    return sorted({*first.values(), *last.values()})


def _stops(process: Any) -> bool:
    """Wait until a process is stopped (True) or has ended."""
    stat = Path(f"/proc/{process.pid}/stat")
    while process.is_alive():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if stat.read_text().rpartition(")")[2].split()[0] == "T":
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
EVERYDAY = (23, 38, 76, 93, 119)
"""In the middle of claiming, of forgetting, of a checkpoint's change, of an evaluation, of the end;
the slow test has many more."""


@pytest.mark.parametrize("n", EVERYDAY)
def test_a_run_is_stopped_and_taken_over(forks: Forks, tmp_path: Path, n: int) -> None:
    assert stop_run(forks, tmp_path, n)


@pytest.mark.slow
def test_a_run_is_stopped_before_everything_it_does(forks: Forks, tmp_path: Path) -> None:
    assert not stop_run(forks, tmp_path, NEVER)
    acts = json.loads((tmp_path / f"{NEVER}" / "said" / "acts").read_text())
    assert len(acts) > max(EVERYDAY), "too few acts: are calls still noticed?"
    assert all(stop_run(forks, tmp_path, n) for n in places(acts))


@pytest.mark.slow
def test_a_heartbeat_is_stopped(forks: Forks, tmp_path: Path) -> None:
    """The thread of the heart writes too."""
    every = range(1, 13) if EVERY_STOP else (1, 2, 3, 5, 8, 12)
    assert all(stop_run(forks, tmp_path, n, "heartbeat") for n in every)


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
    assert not stop_trial(forks, tmp_path, NEVER)
    acts = json.loads((tmp_path / f"{NEVER}" / "said" / "acts").read_text())
    assert len(acts) > 40, "too few acts: are calls still noticed?"
    assert all(stop_trial(forks, tmp_path, n) for n in places(acts))
