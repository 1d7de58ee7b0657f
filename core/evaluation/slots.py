"""A queue of images to attack: as images finish, the next ones take their places, so that batches
stay full. An interrupted queue continues from a snapshot, with bit-identical results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from core.attack.rows import Rows
from core.data.splits import Split
from core.store.snapshot import Snapshot


class Slots(Rows):
    """The images under attack. index: [B], the place of each in the queue's rows."""

    index: Tensor


S = TypeVar("S", bound=Slots)


class Queue(ABC, Generic[S]):
    """Attacks the images `rows` of a split. Subclasses define the attack and hold its results."""

    def __init__(self, split: Split, rows: Tensor, device: torch.device) -> None:
        self.split, self.rows, self.device = split, rows, device
        self.waiting = 0  # index of the next one of `rows`

    @abstractmethod
    def enter(self, index: Tensor, x: Tensor, y: Tensor) -> S:
        """New slots for images x [K, C, H, W] with labels y [K]."""

    @abstractmethod
    def step(self, slots: S) -> Tensor:
        """One step for every image; returns which slots [K] are finished."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """The settings of the search; a snapshot is used only if it has the same."""

    @abstractmethod
    def known(self) -> dict[str, Any]:
        """The results so far, as plain data without tensors: loading a snapshot would move tensors
        to the GPU."""

    @abstractmethod
    def recall(self, known: dict[str, Any]) -> None:
        """Restore results from the output of `known`."""

    def run(
        self, batch: int, progress: Callable[[int], None], snapshot: Snapshot | None = None
    ) -> None:
        """Attack all images, `batch` at a time. progress: called with the number finished."""
        slots = self._take(min(batch, len(self.rows)))
        finished = 0
        if snapshot:
            about = {"images": len(self.rows), "batch": batch, "fields": _fields(slots.state())}
            snapshot.about |= {**about, **self.about()}
            finished = self.resume(snapshot.load(self.device), slots)
        while len(slots.index):
            if snapshot and snapshot.due():
                snapshot.save(self._state(slots, finished))
            done = self.step(slots)
            finished += len(done)
            progress(finished)
            if len(done):
                self._refill(slots, done)

    def _state(self, slots: S, finished: int) -> dict[str, Any]:
        """Everything that the rest of the search depends on."""
        return {
            "waiting": self.waiting,
            "finished": finished,
            "found": self.known(),
            "slots": slots.state(),
        }

    def resume(self, state: dict[str, Any] | None, slots: S) -> int:
        """Restore a state unless it is None; returns the number of finished images."""
        if state is None:
            return 0
        self.waiting = state["waiting"]
        self.recall(state["found"])
        slots.restore(state["slots"])
        finished: int = state["finished"]
        return finished

    def _take(self, count: int) -> S:
        """The next `count` images."""
        index = torch.arange(self.waiting, self.waiting + count)
        self.waiting += count
        x, y = self.split.batch(self.rows[index], self.device)
        return self.enter(index.to(self.device), x, y)

    def _refill(self, slots: S, done: Tensor) -> None:
        """Replace finished images by waiting ones; drop the slots left over."""
        count = min(len(done), len(self.rows) - self.waiting)
        if count:
            slots.put(done[:count], self._take(count))
        if count < len(done):
            keep = torch.ones(len(slots.index), dtype=torch.bool, device=self.device)
            keep[done[count:]] = False
            slots.keep(keep.nonzero().flatten())


def _fields(state: dict[str, Any]) -> list[str]:
    """The names in a state, including those in nested ones."""
    nested = [name for value in state.values() if isinstance(value, dict) for name in value]
    return [*state, *nested]
