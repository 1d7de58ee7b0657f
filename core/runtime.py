"""The machine under a run: device, precision, and a record of what computed its numbers."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import socket
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("epsweep", "torch", "torchvision", "timm", "numpy", "wandb", "submitit")


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(precision: str, on: torch.device) -> AbstractContextManager[object]:
    """The context for forwards: bf16 autocast, or nothing for fp32."""
    if precision == "bf16":
        return torch.autocast(on.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), *arguments]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    return None


def describe() -> dict[str, Any]:
    """Commit, hash of uncommitted changes, versions, host and device; kept as env.json."""
    changes = _git("diff", "HEAD", "--", ".")
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    on = device()
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": hashlib.sha256(changes.encode()).hexdigest()[:16] if changes else None,
        "versions": versions,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
    }
