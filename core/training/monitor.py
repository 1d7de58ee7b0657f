"""What a training reports while it runs: callbacks, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from core.store.shapes import MetricsRow


@dataclass
class Monitor:
    """Callbacks of the trainer; they may be called often and must be cheap."""

    progress: Callable[[dict[str, Any]], None] = lambda state: None
    """Called with the current state: phase, epoch, epochs, share, images_per_s, left_s."""
    epoch: Callable[[MetricsRow], None] = lambda row: None
    """Called after each epoch, when its checkpoint is on disk."""
    remark: Callable[[str], None] = lambda text: None
    """Called with a line for the log, such as about a damaged checkpoint."""


class Clock:
    """The state that a training reports. begun: epochs that were finished when it was started."""

    def __init__(self, epochs: int, steps: int, begun: int = 0) -> None:
        self.epochs, self.steps = epochs, steps
        self._begun = time.perf_counter(), begun / max(1, epochs)

    def state(
        self, phase: Literal["train", "validate"], epoch: int, speed: float, step: int
    ) -> dict[str, Any]:
        """step: steps done in this epoch; all of them in validation. speed: images per second."""
        share = (epoch + step / self.steps) / self.epochs
        begun, before = self._begun
        state = {
            "phase": phase,
            "epoch": epoch,
            "epochs": self.epochs,
            "share": round(share, 4),
            "images_per_s": round(speed, 1),
        }
        if share > before:  # time left, by the speed of this attempt
            seconds = (time.perf_counter() - begun) * (1 - share) / (share - before)
            state["left_s"] = round(seconds, 1)
        return state
