"""The largest micro-batch for a kind of run on a kind of GPU: found by the first run whose memory
runs out, stored in <root>/index/fits, and used by later runs from the start.

Safe to delete: the next run finds it again, at the cost of repeating one step.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from core.config import RunConfig
from core.config.values import safe_name
from core.errors import DamagedError
from core.options import Compile
from core.store import shapes
from core.store.folders import Store
from core.store.json_files import read_json, write_json

_OTHERS = 0.1
"""If other processes use more than this share of a GPU's memory, nothing is learnt from it."""


@dataclass(frozen=True)
class Card:
    """A kind of GPU."""

    name: str
    memory_gib: float


def card(device: torch.device) -> Card | None:
    """The GPU that a run uses; None on a CPU, or if other processes use the GPU's memory, too."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    if total - free - torch.cuda.memory_reserved(device) > _OTHERS * total:
        return None
    return Card(torch.cuda.get_device_name(device), round(total / 2**30, 1))


@dataclass(frozen=True)
class Fits:
    """The largest micro-batch known to fit, for runs that need the same memory as `config`."""

    config: RunConfig
    store: Store
    device: torch.device
    processes: int = 1
    compile: Compile = "none"

    def recall(self) -> int | None:
        """The micro-batch to start with; None if nothing is known."""
        path = self._file()
        with suppress(DamagedError):  # the same as if nothing were known
            found = read_json(path, shapes.Repair) if path else None
            return (found or {}).get("micro_batch")
        return None

    def remember(self, micro_batch: int) -> None:
        """Store a micro-batch to which a run had to shrink, unless a smaller one is stored."""
        path, known = self._file(), self.recall()
        if path and (known is None or micro_batch < known):
            write_json(path, self._kind() | {"micro_batch": micro_batch})

    def _kind(self) -> dict[str, Any]:
        """Everything that decides how much memory an image needs."""
        config, on = self.config, card(self.device)
        return {
            "backbone": config.backbone,
            "image_size": config.image_size,
            "precision": config.precision,
            "protocol": config.protocol,
            "lora": config.lora.rank if config.adapted else 0,
            "objective": config.objective.kind,
            "norm": config.norm,
            "averaged": config.optim.ema > 0,
            "processes": self.processes,
            "compile": self.compile,
            "torch": torch.__version__,
            "gpu": asdict(on) if on else None,
        }

    def _file(self) -> Path | None:
        kind = self._kind()
        if kind["gpu"] is None:
            return None
        digest = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:16]
        name = f"{safe_name(self.config.backbone)}-{digest}.json"
        return self.store.root / "index" / "fits" / name
