"""The state of a long evaluation on disk, so that a killed one goes on where it was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from core.store import checkpoint
from core.store.files import Write, write_atomic

EVERY_S = 300.0
"""Seconds between two snapshots; one holds some six batches of images (1 GB at 256 of 224 x 224)
and takes a few seconds, which a search that ends sooner never pays."""


class Snapshot:
    """One file, and what the search is about (`about`): a file about anything else is no help.

    write: how the file is written, as write_atomic does it."""

    def __init__(self, file: Path, write: Write = write_atomic) -> None:
        self.file, self.write = file, write
        self.about: dict[str, Any] = {}
        self._next = time.monotonic() + EVERY_S

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() >= self._next

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file. Raises OSError, and what `write` raises."""
        whole = {"about": self.about, **state}
        self.write(self.file, lambda file: checkpoint.write(whole, file))
        self._next = time.monotonic() + EVERY_S

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The state of the same search; None where there is none, or its file is damaged."""
        try:
            state = checkpoint.read(self.file, device)
        except Exception:  # not there, or one flipped bit, which can raise any of a dozen types
            return None
        return state if state.pop("about", None) == self.about else None
