"""Device, precision, and a record of the software and hardware that computed a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from core.config.parts import Precision
from core.store import source

PACKAGES = ("epsweep", "torch", "torchvision", "timm", "numpy", "wandb", "submitit")


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_halved(precision: Precision) -> bool:
    """Whether forwards take half the bytes per number."""
    return {"bf16": True, "fp32": False}[precision]


def autocast(precision: Precision, on: torch.device) -> AbstractContextManager[object]:
    """The context for forwards on device `on`: bf16 autocast, or none for fp32."""
    if is_halved(precision):
        return torch.autocast(on.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def judging() -> Iterator[None]:
    """Context for evaluations: true float32, whatever the training's precision. On GPUs, the inputs
    of convolutions would otherwise be rounded to 10 bits (TF32), and in NVIDIA's containers, which
    set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, so would those of all matrix products."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def describe() -> dict[str, Any]:
    """Commit, hash of uncommitted changes, versions, host and device; stored in env.json."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    on = device()
    return {
        **source.state(),
        "versions": versions,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "kernels": _kernels(on),
    }


def _kernels(on: torch.device) -> dict[str, Any]:
    """What decides, besides the device, which kernels a training uses: their results differ by
    rounding, which adversarial training amplifies."""
    if on.type != "cuda":
        return {"cpu": torch.backends.cpu.get_cpu_capability()}
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "convolutions_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def _processor() -> str:
    """The CPU's name if the kernel knows it, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
