"""The Python interface for scripts and notebooks: results, trained models, attacks and launches.

Importing it is cheap: a function's dependencies are imported when it is first used. From then on
`core`, `sweep`, `slurm` and `analysis` are epsweep's packages in this process. See docs/python.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from epsweep.command import main, prefer_ours

if TYPE_CHECKING:
    from core.attack.examples import attack
    from core.errors import ClusterError, ConfigError, DamagedError, StoppedError
    from core.run.any_model import Accuracies, evaluate
    from epsweep.functions import (
        curves,
        epochs,
        export,
        flags,
        launch,
        load,
        load_images,
        load_model,
        status,
    )

__all__ = [
    "Accuracies",
    "ClusterError",
    "ConfigError",
    "DamagedError",
    "StoppedError",
    "attack",
    "curves",
    "epochs",
    "evaluate",
    "export",
    "flags",
    "launch",
    "load",
    "load_images",
    "load_model",
    "main",
    "status",
]

_HOMES = {
    "attack": "core.attack.examples",
    "evaluate": "core.run.any_model",
    "Accuracies": "core.run.any_model",
    **dict.fromkeys(("ClusterError", "ConfigError", "DamagedError", "StoppedError"), "core.errors"),
}
"""Name -> module, for names that are not in epsweep.functions."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'epsweep' has no attribute '{name}'")
    prefer_ours()
    globals()[name] = found = getattr(import_module(_HOMES.get(name, "epsweep.functions")), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
