"""Pseudo-margins: networks that learn the distances of held-out images from logits or features.

For models whose logit margin does not rank images by distance (arXiv 2406.18451, section 5), in two
variants: that of the paper's text and that of its code. Both train on the validation split, which
is neither trained on nor evaluated.
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
"""Number of steps, each on all images."""
RATE = 1e-4
TRAINED = 0.8
"""Share of the held-out images that the networks learn from; as in the paper's code, the others are
not used."""

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
    """Learned margins of the images of `split`, arrays [n] in (0, 1). `pseudo_logits` learns the
    square root of the distance from logits; `pseudo_features`, only if the last layer is linear,
    learns the distance divided by the largest one from the input of that layer.

    model: as core.attack.apgd.attacking prepares it. distance: [held-out images]; those with inf,
    for which none was found, are not learned from. If a distance exceeds 1 (l2, l1),
    `pseudo_logits`, too, divides by the largest before taking the root.
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
    """Logits [n, classes] and, if the last layer is linear, features [n, D] of a split's images."""
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
    """Train a new network to predict `targets` [m] from `inputs` [m, D]; returns its predictions
    for `asked` [n, D]. Its random numbers depend only on `name`."""
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
    """The layers of the paper's code, which has no activation after the first."""
    yield nn.Linear(width, WIDTH)
    for _ in range(2):
        yield from (nn.Linear(WIDTH, WIDTH), nn.ReLU())
    yield from (nn.Linear(WIDTH, 1), nn.Sigmoid())
