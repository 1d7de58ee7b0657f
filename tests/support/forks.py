"""Runs functions in processes of their own, which may be killed at any moment.

A fork server imports torch and core once, so that a new process costs milliseconds instead of
seconds. What it runs must be importable (a function of a module in tests/).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any


def die() -> None:
    """End this process at once, as a lost node does: no clean-up of any kind runs."""
    os.kill(os.getpid(), signal.SIGKILL)


class Forks:
    """start() returns the process; run() waits for it and returns its exit code (-9: killed)."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # The first optimiser imports torch._dynamo, which takes 1.6 s.
        self._context.set_forkserver_preload(
            ["core.run.pipeline", "torch._dynamo", "sweep.tune.trial_job"]
        )

    def barrier(self, parties: int) -> Any:
        """Where processes wait for each other."""
        return self._context.Barrier(parties)

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        process = self._context.Process(target=function, args=arguments)
        process.start()
        return process

    def run(self, function: Callable[..., Any], *arguments: Any) -> int:
        process = self.start(function, *arguments)
        process.join(120)
        code = process.exitcode
        if code is None:
            process.kill()
            raise TimeoutError(f"{function.__name__} did not end within 120 s")
        process.close()
        return int(code)
