"""What CPUs compute wrongly in convolutions: layouts that damage memory, gradients in bf16."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from core.model import convolutions
from core.model.network import build
from core.store.folders import Store
from core.training.trainer import Trainer

LAST = torch.channels_last


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("test_vit", torch.contiguous_format),
        ("test_resnet", LAST),
        ("mini_resnet", LAST),
        ("mini_convnext", LAST),
        ("mobileone_s0", torch.contiguous_format),
        ("fastvit_t8", torch.contiguous_format),
    ],
)
def test_layout_is_channels_last_if_that_is_faster_and_safe(
    store: Store, backbone: str, expected: torch.memory_format
) -> None:
    model = build(tiny.config(backbone=backbone, image_size=32), 10, store)
    assert convolutions.layout(model) is expected
    stem = next(m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)
    assert stem.is_contiguous() == (expected is torch.contiguous_format)


@pytest.mark.parametrize(
    ("conv", "safe"),
    [
        (nn.Conv2d(3, 8, 1, stride=2), False),
        (nn.Conv2d(15, 8, 1, stride=3), False),
        (nn.Conv2d(16, 8, 1, stride=2), True),  # the shortcuts of a ResNet
        (nn.Conv2d(3, 8, 3, stride=2), True),
        (nn.Conv2d(3, 8, 1), True),
    ],
)
def test_strided_1x1_convolutions_of_few_channels_stay_contiguous(
    conv: nn.Conv2d, safe: bool
) -> None:
    net = nn.Sequential(nn.Conv2d(3, conv.in_channels, 3), conv)
    assert (convolutions.layout(net) is LAST) == safe


TRAINS = """
import torch
from core.model import convolutions
from torch import nn
torch.set_num_threads(1)
net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 48, 1, stride=2))
layout = convolutions.layout(net)
net.to(memory_format=layout)
for _ in range(4):
    x = torch.rand(2, 3, 256, 256).contiguous(memory_format=layout)
    net(x).square().sum().backward()
"""


def test_they_train_without_damage_to_the_heap(tmp_path: Path) -> None:
    """In channels_last the process dies ('free(): invalid pointer') or computes on."""
    ended = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def gradient(net: nn.Module, size: int) -> torch.Tensor:
    """Of the weights of a strided convolution under bf16 autocast, with NaN in all memory that it
    is given."""
    x = torch.rand(5, 16, size, size, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(x)
    junk = [torch.full((1 << k,), float("nan"), dtype=torch.bfloat16) for k in range(4, 18)] * 1
    junk += [torch.full((n,), float("nan")) for n in range(16, 60000, 3777)]
    del junk
    net.zero_grad()
    logits.float().square().sum().backward()
    (weight, *_) = net.parameters()
    assert weight.grad is not None
    return weight.grad.clone()


@pytest.mark.parametrize(("stride", "size"), [(2, 1), (3, 2), (4, 3)])
@pytest.mark.parametrize("memory", [LAST, torch.contiguous_format])
def test_bf16_gradients_on_maps_narrower_than_the_stride_are_right(
    memory: torch.memory_format, stride: int, size: int
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 48, 3, stride, 1)).to(memory_format=memory)
    convolutions.guard(net)
    found = gradient(net, size)
    x = torch.rand(5, 16, size, size, generator=torch.Generator().manual_seed(0))
    net.zero_grad()
    net(x).square().sum().backward()
    expected = net[0].weight.grad
    assert isinstance(expected, torch.Tensor)
    assert F.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.99
    assert not torch.is_autocast_enabled("cpu")


def test_wide_maps_stay_bf16() -> None:
    net = nn.Sequential(nn.Conv2d(16, 48, 3, 2, 1))
    convolutions.guard(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.rand(1, 16, 2, 2)).dtype == torch.bfloat16
        assert net(torch.rand(1, 16, 1, 1)).dtype == torch.float32
        assert nn.Linear(2, 2)(torch.rand(1, 2)).dtype == torch.bfloat16, "as it was before"


def test_equal_bf16_runs_end_equal(tmp_path: Path) -> None:
    """A ResNet on 16 pixels has 1x1 maps before its last strided convolution."""
    found = []
    for name in "abc":
        config = tiny.config(backbone="test_resnet", precision="bf16", epochs=1)
        store = Store(tmp_path / name)
        model = build(config, 10, store)
        data = tiny.dataset()
        found.append(
            tiny.repeatable(
                Trainer(config, data, model, store.run(config.id), device=tiny.CPU).fit()
            )
        )
    assert found[0] == found[1] == found[2]
