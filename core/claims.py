"""Who works on a run: a claim is an exclusive right with a heartbeat, without locks or a database.

Attempt n of a run owns `claim-<n>.json`, created with O_EXCL: of several takers of attempt n
exactly one wins. The highest n is the owner; it is live until it records an outcome, its process
is gone (as far as this machine can tell) or its heartbeat stops. A taken-over owner that wakes up
again sees the higher number before it writes anything (`Claim.held`).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core import shapes
from core.rundir import (
    DamagedError,
    RunDir,
    parse_json,
    read_jsonl,
    salvage,
    set_aside,
    write_atomic,
    write_json,
    write_jsonl,
)


def beat_seconds() -> float:
    """Seconds between heartbeats ($EPSWEEP_HEARTBEAT_S)."""
    return float(os.environ.get("EPSWEEP_HEARTBEAT_S", "10"))


def stale_seconds() -> float:
    """Seconds without a heartbeat after which this process, as an owner, counts as gone or hung."""
    return float(os.environ.get("EPSWEEP_STALE_S", "120"))


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
    """When the kernel started `pid` (tells a reused pid apart); None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return "alive"
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def describe_process(pid: int) -> dict[str, Any]:
    """What tells a process from every other one, on any machine, also after its pid is reused."""
    return {"machine": _machine(), "pid": pid, "pid_start": _process_start(pid)}


def process_alive(described: Mapping[str, Any]) -> bool | None:
    """Whether a described process still runs; None where this machine cannot tell."""
    if described["machine"] != _machine():
        return None
    start = _process_start(described["pid"])
    return start is not None and start == described["pid_start"]


class NotOwnedError(RuntimeError):
    """Another process took the run over; this one must not write any more."""


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
        silent = self.info.get("outcome") or self.damage
        return not silent and self.age < self._patience and not self._gone

    @property
    def hung(self) -> bool:
        """Silent for long, without an outcome, though its process may still exist."""
        return not self.info.get("outcome") and self.age >= self._patience and not self._gone

    @property
    def _patience(self) -> float:
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


def newest_attempt(folder: Path) -> int:
    """The highest attempt number claimed in a run folder, 0 where there is none."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    matches = (re.fullmatch(r"claim-(\d+)\.json", name) for name in names)
    return max((int(match[1]) for match in matches if match), default=0)


def _path(run: RunDir, attempt: int) -> Path:
    return run.path / f"claim-{attempt:04d}.json"


def holder(run: RunDir, *, clock: float | None = None) -> Holder | None:
    """The newest claim on a run; None where it was never started."""
    attempt = newest_attempt(run.path)
    if not attempt:
        return None
    path = _path(run, attempt)
    try:
        modified = path.stat().st_mtime
        text = path.read_bytes()
    except FileNotFoundError:  # superseded between the two looks
        return holder(run, clock=clock)
    age = (time.time() if clock is None else clock) - modified
    try:
        # An empty file is a claim whose owner has not yet written its first line.
        info = parse_json(text, path, shapes.Claim) if text else {}
    except DamagedError as error:
        return Holder(attempt, {}, modified, age, error)
    return Holder(attempt, info, modified, age)


class Claim:
    """The right to work on one run, held by this process; a thread keeps its heartbeat going."""

    def __init__(self, run: RunDir, attempt: int, info: dict[str, Any]) -> None:
        self.run, self.attempt, self.info = run, attempt, info
        self.progress: dict[str, Any] = {}
        """What the run is doing (phase, epoch, images/s); shown by status."""
        self.on_cancel: Callable[[], None] | None = None
        """Called once, from the heartbeat's thread, when the run is asked to stop or was taken
        over by another process."""
        self._notes: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @classmethod
    def acquire(cls, run: RunDir, *, job: str | None = None, gpus: float = 0) -> Claim | None:
        """Claim a run for this process; None where another live process holds it.

        gpus: how many it occupies, a share where runs share one. Side effect: a row in
        attempts.jsonl; the row of a dead predecessor is closed as 'lost'.
        """
        run.path.mkdir(parents=True, exist_ok=True)
        clock = shared_clock(run.path)
        previous = holder(run, clock=clock)
        if previous and previous.live:
            return None
        attempt = previous.attempt + 1 if previous else 1
        try:
            handle = os.open(_path(run, attempt), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        os.close(handle)
        if newest_attempt(run.path) != attempt:
            return None
        info = {
            "attempt": attempt,
            "host": socket.gethostname(),
            **describe_process(os.getpid()),
            "job": job,
            "gpus": gpus,
            "stale_s": stale_seconds(),
            "started": now(),
            "since": clock,
            "seconds_before": previous.seconds if previous else 0,
            "gpu_seconds_before": previous.gpu_seconds if previous else 0,
            "outcome": None,
        }
        claim = cls(run, attempt, info)
        claim._write()
        claim._open_row()
        for number in range(1, attempt):
            _path(run, number).unlink(missing_ok=True)
        claim._thread.start()
        return claim

    def held(self) -> bool:
        """Whether this process is still the owner. Check before writing what others may read."""
        return newest_attempt(self.run.path) == self.attempt

    def note(self, text: str) -> None:
        """Keep one line about this attempt (a fallback, a tracker that failed)."""
        self._notes.append(text)

    def release(self, outcome: str, *, kind: str | None = None, reason: str | None = None) -> None:
        """End the attempt: 'done', 'failed', 'cancelled' or 'interrupted'; reason is one line."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self.held():
            return
        self.info |= {"outcome": outcome, "kind": kind, "reason": reason, "ended": now()}
        write_jsonl(self.run.attempts, [*self._rows(), self._row()])
        self._write()

    def _row(self) -> dict[str, Any]:
        keys = ("attempt", "host", "pid", "job", "gpus", "started", "ended")
        known = {key: self.info.get(key) for key in (*keys, "outcome", "kind", "reason")}
        return known | {"notes": self._notes}

    def _open_row(self) -> None:
        rows = self._rows()
        if rows and rows[-1]["outcome"] is None:
            reason = "its process ended without a word (killed, or its node was lost)"
            rows[-1] |= {"outcome": "lost", "kind": "lost", "reason": reason}
        write_jsonl(self.run.attempts, [*rows, self._row()])

    def _rows(self) -> list[dict[str, Any]]:
        """The attempts before this one; of a damaged file those that can be read."""
        try:
            rows = read_jsonl(self.run.attempts, shapes.Attempt)
        except DamagedError:
            rows = [row for row in salvage(self.run.attempts, shapes.Attempt) if row]
            set_aside(self.run.attempts)
        return [row for row in rows if row["attempt"] < self.attempt]

    def _write(self) -> None:
        with self._lock:
            write_json(_path(self.run, self.attempt), {**self.info, "progress": self.progress})

    def _beat(self) -> None:
        while not self._stop.wait(beat_seconds()):
            held = self.held()
            if held:
                self._beat_once()
            if self.on_cancel and (not held or self.run.cancel.exists()):
                self.on_cancel()
                self.on_cancel = None

    def _beat_once(self) -> None:
        try:
            self._write()
        except OSError:  # a full disk must not silence a healthy run
            with contextlib.suppress(OSError):
                os.utime(_path(self.run, self.attempt))


def shared_clock(folder: Path) -> float:
    """The file server's time, told by a file that is written for it: nodes' clocks that differ must
    not make an owner look stale."""
    probe = folder / f".clock.{uuid.uuid4().hex[:8]}"
    moment: list[float] = []
    write_atomic(probe, lambda file: moment.append(os.fstat(file.fileno()).st_mtime))
    probe.unlink(missing_ok=True)
    return moment[0]
