"""Pseudo-margins: networks that learn the distances of held-out images from logits or features.

For models whose logit margin does not rank images by distance (arXiv 2406.18451, section 5), in the
two variants that its text and its code have. Both train on images that neither training nor the
judged split has seen: the validation split.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from core.config.seeds import derive
from core.data.splits import Split
from core.model.linear_head import find_linear_head

WIDTH = 512
EPOCHS = 500
"""Steps, each on all images at once."""
RATE = 1e-4
TRAINED = 0.8
"""Share of the held-out images that the networks learn from; as in the code, the others are left
out."""

Arrays = dict[str, NDArray[np.float32]]


def pseudo_margins(
    model: nn.Module,
    held_out: Split,
    distance: NDArray[np.float32],
    split: Split,
    *,
    batch: int,
    device: torch.device,
) -> Arrays:
    """Learned margins of the images of `split`, [n] in (0, 1) each: `pseudo_logits` from logits, to
    the square root of the distance; `pseudo_features` from the input of the last layer, to the
    distance over the largest one, unless that layer is not linear.

    model: ready to be attacked. distance: of the held-out images, inf if none was found; these are
    not learned from. Where distances exceed 1 (l2, l1), their root is taken of the share, too.
    """
    finite = torch.from_numpy(np.isfinite(distance))
    target = torch.from_numpy(distance)[finite].to(device)
    largest = float(target.max()) if len(target) else 1.0
    targets = {"features": target / largest, "logits": (target / max(1.0, largest)).sqrt()}
    known, asked = (_seen(model, part, batch, device) for part in (held_out, split))
    return {
        f"pseudo_{name}": _learned(known[name][finite], targets[name], asked[name], name)
        for name in known
    }


@torch.no_grad()
def _seen(model: nn.Module, split: Split, batch: int, device: torch.device) -> dict[str, Tensor]:
    """Logits [n, classes] and features [n, D] of a split's images; no features without a linear
    last layer."""
    found: dict[str, list[Tensor]] = {"logits": [], "features": []}
    head = find_linear_head(model, split.batch(torch.arange(1), device)[0])
    hook = head and head.register_forward_pre_hook(
        lambda _, inputs: found["features"].append(inputs[0].float())
    )
    try:
        for index in torch.arange(len(split)).split(batch):
            found["logits"].append(model(split.batch(index, device)[0]).float())
    finally:
        if hook:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items() if parts}


def _learned(inputs: Tensor, targets: Tensor, asked: Tensor, name: str) -> NDArray[np.float32]:
    """What a new network makes of `asked` [n, D] after it has learned `targets` [m] from `inputs`
    [m, D]. Its random numbers follow from `name` alone."""
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(derive(0, "pseudo margin", name))
        chosen = torch.randperm(len(inputs))[: round(TRAINED * len(inputs))].to(inputs.device)
        net = nn.Sequential(*_layers(inputs.shape[1])).to(inputs.device)
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        x, y = inputs[chosen], targets[chosen]
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            F.mse_loss(net(x).squeeze(1), y).backward()
            optimizer.step()
    with torch.no_grad():
        margins: NDArray[np.float32] = net(asked).squeeze(1).float().cpu().numpy()
    return margins


def _layers(width: int) -> Iterator[nn.Module]:
    """As in the code of the paper: no activation after the first layer."""
    yield nn.Linear(width, WIDTH)
    for _ in range(2):
        yield from (nn.Linear(WIDTH, WIDTH), nn.ReLU())
    yield from (nn.Linear(WIDTH, 1), nn.Sigmoid())
