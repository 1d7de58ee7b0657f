"""Who works on a run: a claim is an exclusive right with a heartbeat, without locks or a database.

Attempt n of a run owns `claim-<n>.json`, created with O_EXCL: of several takers of attempt n
exactly one wins. The highest n is the owner; it is live until it records an outcome, its process
is gone (as far as this machine can tell) or its heartbeat stops. An owner that was taken over can
change nothing in the run folder any more, whenever it wakes up; core.store.fence says how.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from core.config.settings import beat_seconds, stale_seconds
from core.errors import DamagedError, NotOwnedError
from core.store import fence, shapes
from core.store.fence import Fence, newest_attempt
from core.store.folders import (
    RunDir,
    exists,
    parse_json,
    present,
    read_jsonl,
    remove,
    salvage,
    write_atomic,
)

log = logging.getLogger("epsweep")
_LOOKS = 8


def now() -> str:
    """The time as ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> str:
    """One name per kernel and process namespace: only there does a pid mean anything."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _process_start(pid: int) -> str | None:
    """When the kernel started `pid` (tells a reused pid apart), "alive" if that is not to be seen;
    None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:  # another user's
            pass
        return "alive"
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def describe_process(pid: int) -> dict[str, Any]:
    """What tells a process from every other one, on any machine, also after its pid is reused."""
    return {"machine": _machine(), "pid": pid, "pid_start": _process_start(pid)}


def process_alive(described: Mapping[str, Any]) -> bool | None:
    """Whether a described process still runs; None if this machine cannot tell."""
    if described["machine"] != _machine():
        return None
    start = _process_start(described["pid"])
    if start == "alive" != described["pid_start"]:
        return None
    return start is not None and start == described["pid_start"]


@dataclass(frozen=True)
class Holder:
    """The newest claim on a run, as read from disk."""

    attempt: int
    info: dict[str, Any]
    beat: float
    """When its heart last beat: the file server's time, Unix seconds."""
    age: float
    """Seconds since then, by the clock of who looks."""
    damage: DamagedError | None = None
    """Of a claim that cannot be read: nobody works by it, a living owner would have replaced it."""

    @property
    def live(self) -> bool:
        """Whether its process still works on the run, as far as can be told from here."""
        silent = self.info.get("outcome") or self.damage or self._silent
        return not silent and not self._gone

    @property
    def hung(self) -> bool:
        """Silent for long, without an outcome, though its process may still exist."""
        return not self.info.get("outcome") and not self._gone and self._silent

    @property
    def silence(self) -> str:
        """Why it counts as hung."""
        if self.age < 0:
            return f"its last heartbeat lies {-self.age:.0f} s ahead of the clock"
        return f"no heartbeat for {self.age:.0f} s"

    @property
    def _silent(self) -> bool:
        # A heartbeat far in the future (clocks differ, or a copied file) tells nothing either.
        return abs(self.age) >= self.patience

    @property
    def patience(self) -> float:
        """Seconds without a heartbeat after which it counts as silent."""
        # As its owner says: a profile sets that for jobs, not for whoever looks from outside.
        return float(self.info.get("stale_s", stale_seconds()))

    @property
    def _gone(self) -> bool:
        return "machine" in self.info and process_alive(self.info) is False

    @property
    def seconds(self) -> float:
        """How long this attempt and those before it have held the run."""
        return float(self.info.get("seconds_before", 0)) + self._held

    @property
    def gpu_seconds(self) -> float:
        """The same times the GPUs held; 0 on machines without."""
        before = float(self.info.get("gpu_seconds_before", 0))
        return before + self._held * float(self.info.get("gpus", 0))

    @property
    def _held(self) -> float:
        held = self.beat - float(self.info.get("since", self.beat))
        if self.info.get("ended"):
            # A copied file has the time of the copy; its owner told its own, in whole seconds.
            ended, started = (
                datetime.fromisoformat(self.info[key]) for key in ("ended", "started")
            )
            held = min(held, (ended - started).total_seconds() + 1)
        return max(0.0, held)


def _path(run: RunDir, attempt: int) -> Path:
    return run.path / f"claim-{attempt:04d}.json"


def _read(path: Path) -> tuple[float, bytes]:
    return path.stat().st_mtime, path.read_bytes()


def holder(run: RunDir, *, clock: float | None = None) -> Holder | None:
    """The newest claim on a run; None if it was never started."""
    attempt = newest_attempt(run.path)
    if not attempt:
        return None
    for look in range(_LOOKS):
        path = _path(run, attempt)
        found = present(partial(_read, path))
        if found:
            modified, text = found
            age = (time.time() if clock is None else clock) - modified
            try:
                # An empty file is a claim whose owner has not yet written its first line.
                info = parse_json(text, path, shapes.Claim) if text else {}
            except DamagedError as error:
                return Holder(attempt, {}, modified, age, error)
            return Holder(attempt, info, modified, age)
        # Superseded between the two looks. A node may list a folder as it was a minute ago, but
        # what it opens by name is there: try that too.
        attempt = max(attempt + look % 2, newest_attempt(run.path))
    raise OSError(errno.ESTALE, "the list of its files is out of date; try again", str(run.path))


def _beats(run: RunDir, seen: Holder) -> bool:
    """Whether the heart of a claim beats although its last beat seems to be long ago, or yet to
    come. Clocks of nodes differ, and some file systems take the time of whoever writes: look
    whether the claim changes, for as long as an owner may be silent by our own clock."""
    seconds = seen.patience if seen.age < 0 else 2 * float(seen.info.get("beat_s", 0))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, seconds / 20))
        again = holder(run)
        if again is None or (again.attempt, again.beat) != (seen.attempt, seen.beat):
            return again is not None and not again.info.get("outcome")
    return False


class Claim:
    """The right to work on one run, held by this process; a thread keeps its heartbeat going."""

    def __init__(self, run: RunDir, attempt: int, info: dict[str, Any]) -> None:
        self.run, self.attempt, self.info = run, attempt, info
        self._said: set[str] = set()
        self.progress: dict[str, Any] = {}
        """What the run is doing (phase, epoch, images/s); shown by status."""
        self.on_cancel: Callable[[], None] | None = None
        """Called once, from the heartbeat's thread, when the run is asked to stop or was taken
        over by another process."""
        self._notes: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    @classmethod
    def acquire(cls, run: RunDir, *, job: str | None = None, gpus: float = 0) -> Claim | None:
        """Claim a run for this process; None where another live process holds it.

        gpus: how many it occupies, a share where runs share one. Side effect: a row in
        attempts.jsonl; the row of a dead predecessor is closed as 'lost'.
        """
        beat_s, stale_s = beat_seconds(), stale_seconds()
        run.path.mkdir(parents=True, exist_ok=True)
        clock = shared_clock(run.path)
        # Claims may have been deleted by hand, while their owners sleep.
        former = fence.newest_drafts(run.path)
        previous = holder(run, clock=clock)
        if previous and (previous.live or (previous.hung and _beats(run, previous))):
            return None
        attempt = 1 + max(former, previous.attempt if previous else 0)
        try:
            handle = os.open(_path(run, attempt), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        os.close(handle)
        run = run.fenced(Fence.open(run.path, attempt))
        assert run.fence
        if newest_attempt(run.path) != attempt:
            run.fence.close()
            return None
        fence.shut_out(run.path, attempt)
        info = {
            "attempt": attempt,
            "host": socket.gethostname(),
            **describe_process(os.getpid()),
            "job": job,
            "gpus": gpus,
            "beat_s": beat_s,
            "stale_s": stale_s,
            "started": now(),
            "since": clock,
            "seconds_before": previous.seconds if previous else 0,
            "gpu_seconds_before": previous.gpu_seconds if previous else 0,
            "outcome": None,
        }
        claim = cls(run, attempt, info)
        try:
            claim._write()
            claim._open_row()
        except NotOwnedError:  # it fell asleep on the way
            return None
        for number in range(1, attempt):
            remove(_path(run, number))
        for draft in run.path.glob(".checkpoint*"):  # of a former version; as large as the model
            remove(draft)
        claim._thread.start()
        return claim

    def held(self) -> bool:
        """Whether this process is still the owner. What it writes needs no such check: a write
        raises NotOwnedError itself. Raises OSError if that cannot be told."""
        assert self.run.fence
        return self.run.fence.holds()

    def note(self, text: str) -> None:
        """Keep one line about this attempt (a fallback, a tracker that failed)."""
        self._notes.append(text)

    def release(self, outcome: str, *, kind: str | None = None, reason: str | None = None) -> bool:
        """End the attempt: 'done', 'failed', 'cancelled' or 'interrupted'; reason is one line.
        False if another process had taken the run over: nothing is recorded then."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.info |= {"outcome": outcome, "kind": kind, "reason": reason, "ended": now()}
        assert self.run.fence
        try:
            self.run.write_jsonl(self.run.attempts, [*self._rows(), self._row()])
            self._write()
        except NotOwnedError:
            return False
        self.run.fence.close()
        return True

    def _row(self) -> dict[str, Any]:
        keys = ("attempt", "host", "pid", "job", "gpus", "started", "ended")
        known = {key: self.info.get(key) for key in (*keys, "outcome", "kind", "reason")}
        return known | {"notes": self._notes}

    def _open_row(self) -> None:
        rows = self._rows()
        if rows and rows[-1]["outcome"] is None:
            reason = "its process ended without a word (killed, or its node was lost)"
            rows[-1] |= {"outcome": "lost", "kind": "lost", "reason": reason}
        self.run.write_jsonl(self.run.attempts, [*rows, self._row()])

    def _rows(self) -> list[dict[str, Any]]:
        """The attempts before this one; of a damaged file those that can be read."""
        try:
            rows = read_jsonl(self.run.attempts, shapes.Attempt)
        except DamagedError:
            rows = [row for row in salvage(self.run.attempts, shapes.Attempt) if row]
            self.run.set_aside(self.run.attempts)
        return [row for row in rows if row["attempt"] < self.attempt]

    def _write(self) -> None:
        with self._lock:
            info = {**self.info, "progress": self.progress}
            self.run.write_json(_path(self.run, self.attempt), info)

    def _beat(self) -> None:
        while not self._stop.wait(self.info["beat_s"]):
            self._surviving(self._beat_once)
            self._surviving(self._look_around)

    def _surviving(self, act: Callable[[], None]) -> None:
        """Nothing that fails may silence a healthy run: say it, once of each kind, and go on."""
        try:
            act()
        except Exception as error:
            kind = f"{type(error).__name__} {getattr(error, 'errno', '')}"
            if kind not in self._said:
                self._said.add(kind)
                log.warning("heartbeat: %s; the next one may succeed", error)

    def _beat_once(self) -> None:
        try:
            self._write()
        except NotOwnedError:
            pass  # the look around finds that out too, and acts on it
        except OSError:
            with contextlib.suppress(OSError):  # a full disk
                os.utime(_path(self.run, self.attempt))
            raise

    def _look_around(self) -> None:
        if self.on_cancel and (exists(self.run.cancel) or not self.held()):
            self.on_cancel()
            self.on_cancel = None


def shared_clock(folder: Path) -> float:
    """The file server's time, told by a file that is written for it: nodes' clocks that differ must
    not make an owner look stale."""
    probe = folder / f".clock.{uuid.uuid4().hex[:8]}"
    moment: list[float] = []
    write_atomic(probe, lambda file: moment.append(os.fstat(file.fileno()).st_mtime))
    remove(probe)
    return moment[0]
