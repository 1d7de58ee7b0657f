"""Stopping in good order: a signal becomes an exception that reaches whoever holds a claim."""

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
    """Remember what a signal is about to raise in this process."""
    _raised.append(error)
    return error


def own_signals() -> None:
    """Undo what the caller of this process has set for signals that it works with. Of a child whose
    SIGCHLD is ignored nobody hears how it ended: every command would seem to have succeeded."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


@contextmanager
def unhidden() -> Iterator[None]:
    """Raise again what a signal raised inside if a library on the way has put an exception of its
    own in its place (a `finally` that fails is enough; one that is not written in Python keeps no
    trace of the first): the run was stopped, it did not fail.
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
    """While inside, a request to cancel the claimed run raises CancelledError in this thread, and
    so does another process that has taken the run over.

    The claim's heartbeat finds out in another thread and sends SIGUSR1 to this one.
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
    """In the main thread, SIGTERM, SIGINT and `more` raise StoppedError, once: further ones are
    ignored while the run folder is put in order. So they are once submitit has taken a SIGUSR2
    (time limit or preemption), because queueing the job again makes Slurm send SIGTERM at once."""
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
            except subprocess.SubprocessError:  # Slurm is down, or does not allow it
                raise _noted(StoppedError("SIGUSR2")) from None
            for number in stopping:  # not this process's business: it is one of several ranks
                signal.signal(number, raise_stop)

        before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
