"""`sweep weights convert`: a released checkpoint as safetensors, read in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from core.config import ConfigError

READERS = (".pt", ".pth", ".ckpt", ".bin", ".tar")


def convert(file: Path, to: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Convert `file`; returns the file written (by default beside it) and the summary that
    core.model.conversion prints. Raises ConfigError, one line."""
    to = to or file.with_suffix(".safetensors")
    if file.suffix == ".safetensors":
        raise ConfigError(f"{file}: already a .safetensors file")
    if not file.is_file():
        what = "a folder" if file.is_dir() else "no such file"
        raise ConfigError(f"{file}: {what}, expected a checkpoint ({', '.join(READERS)})")
    if to.suffix != ".safetensors":
        raise ConfigError(f"--to {to}: expected a name that ends in .safetensors")
    if to.exists():
        raise ConfigError(f"{to}: already exists; delete it, or name another file with --to")
    command = [sys.executable, "-m", "core.model.conversion", str(file), str(to)]
    try:
        os.makedirs(to.parent, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"{to}: cannot be written ({error.strerror})") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"its reader ended with {done.returncode}"]
        raise ConfigError(lines[-1] if str(file) in lines[-1] else f"{file}: {lines[-1]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return to, told
