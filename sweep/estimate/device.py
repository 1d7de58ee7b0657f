"""The device that runs will use, how many of them at once, and its speed before any is measured."""

from __future__ import annotations

import os
import re
from pathlib import Path

from slurm.profile import Profile

TFLOPS = {"H100": 32.0, "H200": 32.0, "A100": 10.0, "V100": 7.5, "CPU": 0.07}
"""TFLOP/s that one device achieves. H100: the adversarial runs of the paper's main grid take 230
PFLOP on average, for which the paper states 15 to 60 minutes on four H100, so about 2 GPU-hours.
Other GPUs: in proportion to their fp32 peak. CPU: one core, measured on ViT-B at 224 pixels."""
SHIPPED = "the paper's 15 to 60 minutes on 4 x H100 per run, as no run has finished here"


def shipped_speed(device: str) -> float:
    """TFLOP/s of a device."""
    return TFLOPS.get(device, TFLOPS["H100"])


def find_device(profile: Profile, hardware: str) -> str:
    """The GPU that a profile asks for by name, else this machine's (unless the profile is remote),
    else the one in `hardware`, else H100; CPU if the runs use no GPU."""
    asked = " ".join(profile.slurm.gpu_requests().values())
    local = "" if profile.remote else _local_gpu()
    for text in (asked, local, hardware):
        for name in TFLOPS:
            if re.search(rf"\b{name}\b", text, re.IGNORECASE):
                return name
    needs_gpu = profile.remote and profile.gpus_per_run > 0
    return local or ("H100" if needs_gpu else "CPU")


def most_at_once(profile: Profile, device: str) -> int | None:
    """Cores or GPUs at the same time: this machine's, or on Slurm those of the tasks that an array
    may run at once. None if unknown."""
    if profile.remote:
        tasks = profile.slurm.slurm_array_parallelism
        return tasks * profile.ranks if tasks and device != "CPU" else None
    if device == "CPU":
        return len(os.sched_getaffinity(0))
    here = len(list(Path("/proc/driver/nvidia/gpus").glob("*/information")))
    return min(here, profile.workers * profile.ranks) or None


def _local_gpu() -> str:
    """The name of this machine's first GPU according to its driver; '' if it has none."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"Model:\s*(.+)", file.read_text())
        if found:
            return found[1].strip()
    return ""


def is_same(found: str, device: str) -> bool:
    """Whether `found`, the device in a run's env.json, is `device`. Anything but a GPU is a CPU."""
    if device == "CPU":
        return not re.search("NVIDIA|Tesla|GeForce|Quadro", found)
    return device.lower() in found.lower()
