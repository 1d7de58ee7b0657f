"""Waiting for what processes do: for as long as a busy machine may need, then a failure."""

import subprocess
import time
from collections.abc import Callable

PATIENCE_S = 600


def until(happened: Callable[[], object], every: float = 0.05) -> None:
    """Return once `happened`, asked again after `every` seconds."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s"
        time.sleep(every)


def ended(process: "subprocess.Popen[str]") -> str:
    """What a process has written by its end."""
    return process.communicate(timeout=PATIENCE_S)[0]
