"""Signals: nothing depends on how the caller has set them, and Ctrl-C is never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from core.errors import StoppedError
from sweep.worker.stop import own_signals, stoppable, unhidden

ROOT = Path(__file__).parents[2]
IGNORING = "trap '' INT TERM HUP CHLD PIPE USR1 USR2; exec \"$@\""


@pytest.mark.parametrize("module", ["typer", "rich", "pydantic", "core.config"])
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    code = f"""if True:
        import os, signal, sys
        import epsweep

        class Interrupted:
            def find_spec(name, path=None, target=None):
                if name == "{module}":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Interrupted)
        sys.argv = ["sweep", "--help"]
        epsweep.main()
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_what_a_caller_has_set_is_undone(how: str) -> None:
    """Of a child whose SIGCHLD is ignored, every end looks like success."""
    before = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        if how == "ignored":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            assert subprocess.run(["false"], check=False).returncode == 0
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
        own_signals()
        assert subprocess.run(["false"], check=False).returncode == 1
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_tests_do_not_depend_on_signals() -> None:
    """Those that are about signals, in a process that inherits all of them ignored."""
    tests = ["tests/sweep/test_bundle.py", "-k", "stopped"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        ["bash", "-c", IGNORING, "bash", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
    )
    assert done.returncode == 0, done.stdout


def test_what_a_library_hides_was_still_a_stop() -> None:
    """One in Rust or C++ raises its own exception, without a trace of what a signal raised."""
    with pytest.raises(StoppedError), stoppable(), unhidden():
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        raise ValueError("a callback failed")
