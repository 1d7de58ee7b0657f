"""Orderly stopping: a signal becomes an exception, so a run saves and its claim is released."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from core.errors import CancelledError, StoppedError
from core.store.claims import Claim

_STOPPING = (signal.SIGTERM, signal.SIGINT)


_raised: list[BaseException] = []


def _noted(error: BaseException) -> BaseException:
    """Remember an exception that a signal handler is about to raise, see `unhidden`."""
    _raised.append(error)
    return error


def own_signals() -> None:
    """Reset signal settings inherited from the parent process: unblock all signals, and do not
    ignore SIGCHLD, which would make every child process seem to have succeeded."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


@contextmanager
def unhidden() -> Iterator[None]:
    """Context manager: if a signal handler raised an exception that a library has replaced by
    another, raise the signal's again: the run was stopped, it did not fail. A `finally` that fails
    is enough to replace it, and a library not written in Python keeps no `__context__`.
    """
    before = len(_raised)
    try:
        yield
    except Exception as error:
        if len(_raised) > before:
            raise _raised[-1] from None
        reason: BaseException | None = error
        while isinstance(reason, Exception):
            reason = reason.__context__
        if reason:
            raise reason from None
        raise


@contextmanager
def cancellable(claim: Claim) -> Iterator[None]:
    """Context manager: raise CancelledError in this thread if the claimed run is to be cancelled or
    another process has taken it over.

    The claim's heartbeat thread notices and sends SIGUSR1 to this thread.
    """
    here = threading.current_thread()
    if here is not threading.main_thread() or here.ident is None:
        yield
        return
    ident = here.ident

    def cancel(signum: int, frame: FrameType | None) -> None:
        raise _noted(CancelledError())

    signal.signal(signal.SIGUSR1, cancel)
    claim.on_cancel = lambda: signal.pthread_kill(ident, signal.SIGUSR1)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


@contextmanager
def stoppable(*more: signal.Signals) -> Iterator[None]:
    """Context manager: in the main thread, SIGTERM, SIGINT and `more` raise StoppedError, once:
    further signals are ignored while the run saves. They are also ignored after a SIGUSR2 (time
    limit or preemption), which submitit handles by queueing the job again: Slurm then sends SIGTERM
    at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = (*_STOPPING, *more)

    def deaf() -> None:
        for number in (*stopping, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)

    def raise_stop(signum: int, frame: FrameType | None) -> None:
        deaf()
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        raise _noted(StoppedError(signal.Signals(signum).name))

    before = {number: signal.signal(number, raise_stop) for number in stopping}
    requeue = signal.getsignal(signal.SIGUSR2)
    if callable(requeue):

        def leave(signum: int, frame: FrameType | None) -> None:
            deaf()
            try:
                requeue(signum, frame)
            except subprocess.SubprocessError:  # Slurm is down or does not allow requeueing
                raise _noted(StoppedError("SIGUSR2")) from None
            for number in stopping:  # ranks other than 0: submitit lets them continue
                signal.signal(number, raise_stop)

        before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
