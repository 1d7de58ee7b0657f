"""Stores the state of a long evaluation, so that a killed one continues where it was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from core.store import checkpoint
from core.store.files import Write, write_atomic

EVERY_S = 300.0
"""Seconds until the first snapshot and between two. Each holds about six batches of images (1 GB at
256 images of 224 x 224) and takes a few seconds, which short searches are spared."""


class Snapshot:
    """A file with the state of a search. `about` describes the search; a state is restored only if
    its description is the same. write: a function like write_atomic."""

    def __init__(self, file: Path, write: Write = write_atomic) -> None:
        self.file, self.write = file, write
        self.about: dict[str, Any] = {}
        self._next = time.monotonic() + EVERY_S

    def due(self) -> bool:
        """Whether it is time for the next snapshot."""
        return time.monotonic() >= self._next

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file. Raises OSError and whatever `write` raises."""
        whole = {"about": self.about, **state}
        self.write(self.file, lambda file: checkpoint.write(whole, file))
        self._next = time.monotonic() + EVERY_S

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The stored state of the same search; None if there is none or the file is damaged."""
        try:
            state = checkpoint.read(self.file, device)
        except Exception:  # missing, or damaged: one flipped bit can raise any of a dozen types
            return None
        return state if state.pop("about", None) == self.about else None
