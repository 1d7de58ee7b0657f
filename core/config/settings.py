"""What environment variables of ours say; the one place that reads them."""

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
    """Seconds without a heartbeat after which this process, as an owner, counts as gone or hung
    ($EPSWEEP_STALE_S). Raises ConfigError."""
    return _seconds(STALE, 120.0)


def root() -> Path:
    """Where the store is if no --root is given ($EPSWEEP_ROOT)."""
    return Path(os.environ.get("EPSWEEP_ROOT") or "outputs")


def data() -> Path | None:
    """Where the datasets are, None if in the store ($EPSWEEP_DATA)."""
    folder = os.environ.get("EPSWEEP_DATA")
    return Path(folder) if folder else None


def check() -> None:
    """Raises ConfigError for what would be found out only once a job has begun."""
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
