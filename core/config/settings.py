"""The environment variables EPSWEEP_*; only this module reads them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from core.errors import ConfigError

BEAT, STALE = "EPSWEEP_HEARTBEAT_S", "EPSWEEP_STALE_S"


def beat_seconds() -> float:
    """Seconds between heartbeats of a claim ($EPSWEEP_HEARTBEAT_S). Raises ConfigError."""
    return _seconds(BEAT, 10.0)


def stale_seconds() -> float:
    """Seconds without a heartbeat after which others may treat this process as dead or hung
    ($EPSWEEP_STALE_S). Raises ConfigError."""
    return _seconds(STALE, 120.0)


def root() -> Path:
    """The folder of the store if no --root is given ($EPSWEEP_ROOT)."""
    return Path(os.environ.get("EPSWEEP_ROOT") or "outputs")


def data() -> Path | None:
    """The folder of the datasets ($EPSWEEP_DATA); None if it is in the store."""
    folder = os.environ.get("EPSWEEP_DATA")
    return Path(folder) if folder else None


def check() -> None:
    """Raises ConfigError if a variable is invalid, before a job would find out."""
    beat, stale = beat_seconds(), stale_seconds()
    if stale < beat:
        raise ConfigError(
            f"{STALE}: must be at least {BEAT} ({beat:g}), or every run looks dead, got {stale:g}"
        )


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"{name}: must be a number of seconds above 0, got {text!r}")
    return value
