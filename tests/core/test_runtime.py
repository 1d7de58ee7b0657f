"""What the machine, or who set it up, must not change about the final numbers."""

from __future__ import annotations

import os
import subprocess
import sys

IN_A_CONTAINER = """
import torch
from core.machine.runtime import judging

flags = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
assert flags() == (True, True)
with judging():
    assert flags() == (False, False)
assert flags() == (True, True)
"""


def test_judging_is_fp32_even_if_the_environment_asks_for_tf32() -> None:
    environment = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    command = [sys.executable, "-W", "error", "-c", IN_A_CONTAINER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
