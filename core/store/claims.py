"""Who works on a run: a claim is an exclusive right with a heartbeat, without locks or a database.

Attempt n of a run owns `claim-<n>.json`, created with O_EXCL: if several processes try to become
attempt n, exactly one succeeds. The highest n is the owner; it is live until it records an outcome,
its process is gone (as far as this machine can tell) or its heartbeat stops. After a takeover, the
former owner cannot change the run folder any more, even if it wakes up later: see core.store.fence.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.config.settings import beat_seconds, stale_seconds
from core.errors import DamagedError, NotOwnedError
from core.store import fence, shapes
from core.store.fence import Fence, newest_attempt
from core.store.files import exists, remove, write_atomic
from core.store.folders import RunDir
from core.store.holder import Holder, claim_path, find_holder
from core.store.json_files import read_jsonl, salvage
from core.store.processes import describe_process

log = logging.getLogger("epsweep")


def now() -> str:
    """The current time in ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _beats(run: RunDir, seen: Holder) -> bool:
    """Whether a claim still has heartbeats although the last one seems long ago or in the future:
    clocks of nodes differ, and some file systems store the writer's time. Watches the claim for a
    change, by this process's clock, for as long as an owner may be silent."""
    seconds = seen.patience if seen.age < 0 else 2 * float(seen.info.get("beat_s", 0))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, seconds / 20))
        again = find_holder(run)
        if again is None or (again.attempt, again.beat) != (seen.attempt, seen.beat):
            return again is not None and not again.outcome
    return False


class Claim:
    """The right to work on one run, held by this process; a thread keeps its heartbeat going."""

    def __init__(self, run: RunDir, attempt: int, info: dict[str, Any]) -> None:
        self.run, self.attempt, self.info = run, attempt, info
        self._said: set[str] = set()
        self.progress: dict[str, Any] = {}
        """What the run is doing (phase, epoch, images/s), written with each heartbeat for `status`.
        """
        self.on_cancel: Callable[[], None] | None = None
        """Called once, in the heartbeat's thread, when the run is cancelled or another process has
        taken it over."""
        self._notes: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    @classmethod
    def acquire(
        cls, run: RunDir, *, job: str | None = None, gpus: float = 0, after: int | None = None
    ) -> Claim | None:
        """Claim a run for this process. None if another live process holds it, or, if `after` is
        given, if the newest attempt has another number.

        gpus: how many the run occupies, a fraction if runs share one. Side effect: adds a row to
        attempts.jsonl, and sets the outcome of a dead predecessor to 'lost'.
        """
        beat_s, stale_s = beat_seconds(), stale_seconds()
        run.path.mkdir(parents=True, exist_ok=True)
        clock = shared_clock(run.path)
        # Claims may have been deleted by hand while their owners are suspended; count those, too.
        former = fence.newest_drafts(run.path)
        previous = find_holder(run, clock=clock)
        if previous and (previous.live or (previous.hung and _beats(run, previous))):
            return None
        newest = previous.attempt if previous else 0
        if after is not None and newest != after:
            return None
        attempt = 1 + max(former, newest)
        try:
            handle = os.open(claim_path(run, attempt), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
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
        except NotOwnedError:  # this process was suspended meanwhile, and another one took over
            return None
        for number in range(1, attempt):
            remove(claim_path(run, number))
        for draft in run.path.glob(".checkpoint*"):  # drafts of older versions, as large as models
            remove(draft)
        claim._thread.start()
        return claim

    def held(self) -> bool:
        """Whether this process is still the owner. Not needed before writing, which raises
        NotOwnedError itself. Raises OSError if the answer cannot be determined."""
        assert self.run.fence
        return self.run.fence.holds()

    def note(self, text: str) -> None:
        """Add a line to this attempt's record (a fallback, a tracker that failed)."""
        self._notes.append(text)

    def release(self, outcome: str, *, kind: str | None = None, reason: str | None = None) -> bool:
        """End the attempt with an outcome: 'done', 'failed', 'cancelled' or 'interrupted'. reason:
        one line. Returns False, recording nothing, if another process has taken the run over."""
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
            reason = "its process died without recording a reason (killed, or the node was lost)"
            rows[-1] |= {"outcome": "lost", "kind": "lost", "reason": reason}
        self.run.write_jsonl(self.run.attempts, [*rows, self._row()])

    def _rows(self) -> list[dict[str, Any]]:
        """The rows of attempts before this one; those that can be read if the file is damaged."""
        try:
            rows = read_jsonl(self.run.attempts, shapes.Attempt)
        except DamagedError:
            rows = [row for row in salvage(self.run.attempts, shapes.Attempt) if row]
            self.run.set_aside(self.run.attempts)
        return [row for row in rows if row["attempt"] < self.attempt]

    def _write(self) -> None:
        with self._lock:
            info = {**self.info, "progress": self.progress}
            self.run.write_json(claim_path(self.run, self.attempt), info)

    def _beat(self) -> None:
        while not self._stop.wait(self.info["beat_s"]):
            self._surviving(self._beat_once)
            self._surviving(self._look_around)

    def _surviving(self, act: Callable[[], None]) -> None:
        """Call `act`; log each kind of error once and go on, since a healthy run must not fall
        silent because one heartbeat failed."""
        try:
            act()
        except Exception as error:
            kind = f"{type(error).__name__} {getattr(error, 'errno', '')}"
            if kind not in self._said:
                self._said.add(kind)
                log.warning("heartbeat failed: %s; trying again at the next one", error)

    def _beat_once(self) -> None:
        try:
            self._write()
        except NotOwnedError:
            pass  # `_look_around` notices this, too, and acts on it
        except OSError:
            with contextlib.suppress(OSError):  # on a full disk, only the time changes
                os.utime(claim_path(self.run, self.attempt))
            raise

    def _look_around(self) -> None:
        if self.on_cancel and (exists(self.run.cancel) or not self.held()):
            self.on_cancel()
            self.on_cancel = None


def shared_clock(folder: Path) -> float:
    """The file server's time in Unix seconds, from a file written for this purpose: with nodes'
    own clocks, which differ, an owner might look stale."""
    probe = folder / f".clock.{uuid.uuid4().hex[:8]}"
    moment: list[float] = []
    write_atomic(probe, lambda file: moment.append(os.fstat(file.fileno()).st_mtime))
    remove(probe)
    return moment[0]
