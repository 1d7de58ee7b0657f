"""Import this before timm or torchvision: makes torchvision importable beside a CPU-only torch.

PyPI's torchvision wheel is built for CUDA. With a CPU wheel of torch its compiled operators do not
load, and `import torchvision` fails with "operator torchvision::nms does not exist", because it
registers shape functions for them. Declaring the two operators is enough, since nothing here calls
them. If torchvision's own operators load, nothing is declared.
"""

from __future__ import annotations

import importlib
import sys
import warnings

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: list[torch.library.Library] = []


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}{_SCHEMA}")
    _library.append(library)  # declarations exist only as long as this object
    importlib.import_module("torchvision")


with warnings.catch_warnings():
    # torchvision warns about its image extension, which is not needed: Pillow reads images here.
    warnings.filterwarnings("ignore", message="Failed to load image Python extension")
    _import_torchvision()
