"""Per-image attack state, one row each, so that a finished image can be replaced in the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch


class Rows:
    """Base of dataclasses whose fields are tensors [B, ...] or other `Rows` of the same B."""

    shared: ClassVar[frozenset[str]] = frozenset()
    """Fields that are the same for all images."""

    def put(self, rows: torch.Tensor, other: Self) -> None:
        """Replace the given rows [K] by those of `other`."""
        for name in self._per_image():
            value, new = getattr(self, name), getattr(other, name)
            if isinstance(value, Rows):
                value.put(rows, new)
            else:
                value[rows] = new

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all but the given rows [K]."""
        for name in self._per_image():
            value = getattr(self, name)
            if isinstance(value, Rows):
                value.keep(rows)
            else:
                setattr(self, name, value[rows])

    def state(self) -> dict[str, Any]:
        """All fields as nested dictionaries of tensors, for `restore`."""
        return {
            name: value.state() if isinstance(value, Rows) else value
            for name, value in vars(self).items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            mine = getattr(self, name)
            if isinstance(mine, Rows):
                mine.restore(value)
            else:
                setattr(self, name, value)

    def _per_image(self) -> list[str]:
        return [name for name in vars(self) if name not in self.shared]
