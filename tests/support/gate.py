"""A loss of the user's that waits in its third epoch with an attack for the file named by $GATE, so
that what a test does to a training does not depend on how fast that is."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from core.training.objectives import CrossEntropy


class Waiting(CrossEntropy):
    epochs = 0

    def begin_epoch(self, model: nn.Module, accuracy: Callable[[], float]) -> dict[str, float]:
        self.epochs += 1
        while self.epochs == 3 and not Path(os.environ["GATE"]).exists():
            time.sleep(0.02)
        return {}
