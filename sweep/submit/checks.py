"""Findings of `sweep doctor`, and the check of what torch sees on this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from slurm.command import ask

PATIENCE_S = 300.0
NO_GPU = "no GPU"
PROBE = (
    "import torch; c = torch.cuda; n = range(c.device_count()); "
    f"print(torch.__version__, [c.get_device_name(i) for i in n] or '{NO_GPU}')"
)


@dataclass(frozen=True)
class Check:
    """One finding, one line of the output."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    detail: str


def torch_here() -> Check:
    """Torch's version and the GPUs it sees on this machine, asked in another process."""
    answer = ask(sys.executable, "-P", "-c", PROBE, timeout_s=PATIENCE_S)
    if not answer.ok:
        return Check("torch here", "fail", answer.error.rpartition("; ")[2] or "no answer")
    return Check("torch here", "ok", answer.text.strip())
