"""A run on its device: judged in fp32, and what fits on the GPU is found once for all runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from core.config import EvalConfig
from core.machine import runtime
from core.model import network
from core.run import pipeline
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import read_json
from core.training import microbatch
from core.training.microbatch import Card, Fits

# Precision.


def test_a_bf16_run_is_judged_in_fp32(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[torch.dtype]] = {"train": set(), "evaluate": set()}
    real, phase = network.build, ["train"]

    def build(*args: Any) -> nn.Module:
        model = real(*args)
        model.register_forward_hook(lambda _, __, logits: seen[phase[0]].add(logits.dtype))
        return model

    def judging() -> Any:
        phase[0] = "evaluate"
        return runtime.judging()

    monkeypatch.setattr(network, "build", build)
    monkeypatch.setattr("core.run.measure.judging", judging)
    evals = [EvalConfig.parse({"steps": 2, "epsilons": "0..2/255", "images": 5})]
    execute(store, evals=evals, fields={"precision": "bf16", "epochs": 1})
    assert seen == {"train": {torch.bfloat16}, "evaluate": {torch.float32}}


def test_judging_is_fp32_whatever_is_around_it() -> None:
    model, before = nn.Linear(4, 2), torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.rand(3, 4)).dtype == torch.bfloat16
        with runtime.judging():
            assert model(torch.rand(3, 4)).dtype == torch.float32
            assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 is before


# What fits is found once.


def execute(
    store: Store,
    *,
    evals: list[EvalConfig] | None = None,
    fields: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    config = tiny.config(**fields or {})
    claim = Claim.acquire(store.run(config.id))
    assert claim
    chosen = pipeline.Options(**{"tracking": "none", "images": 20} | options)
    try:
        pipeline.execute(config, evals or [], store, claim, chosen)
    finally:
        claim.release("done")


class Small(nn.Module):
    """Runs out of memory where more than `room` images are trained at once."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = inner, room
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x) if self.training else 0)
        logits: Tensor = self.inner(x)
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return logits


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[Small]:
    """A GPU with room for four images; the models that were trained on it, in order."""
    made: list[Small] = []
    real = network.build

    def build(*args: Any) -> nn.Module:
        made.append(Small(real(*args), room=4))
        return made[-1]

    monkeypatch.setattr(network, "build", build)
    monkeypatch.setattr(microbatch, "card", lambda device: Card("Small GPU", 4.0))
    return made


def test_a_micro_batch_that_fits_is_found_once(store: Store, small: list[Small]) -> None:
    execute(store)
    execute(store, fields={"seed": 1, "batch": 20})
    execute(store, fields={"image_size": 32})
    execute(store, fields={"seed": 2}, micro_batch=2)
    execute(store, fields={"seed": 3, "batch": 3})
    assert [model.largest for model in small] == [10, 4, 10, 2, 3]
    files = sorted((store.root / "index" / "fits").iterdir())
    contents = [read_json(file) for file in files]
    assert {(c["image_size"], c["micro_batch"]) for c in contents if c} == {(16, 4), (32, 4)}
    assert all(c and c["gpu"] == {"name": "Small GPU", "memory_gib": 4.0} for c in contents)


def test_effective_batch_and_result_do_not_depend_on_what_is_known(
    store: Store, tmp_path: Path, small: list[Small]
) -> None:
    """From the second step on the first run trains in the parts of the second."""
    fields = {"backbone": "test_resnet", "image_size": 32}
    execute(store, fields=fields)
    again = Store(tmp_path / "again")
    shutil.copytree(store.root / "index", again.root / "index")
    execute(again, fields=fields)
    one, two = (model.state_dict() for model in small)
    assert [model.largest for model in small] == [10, 4]
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_smallest_one_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microbatch, "card", lambda device: Card("Small GPU", 4.0))
    fits = Fits(tiny.config(), store, tiny.CPU)
    assert fits.recall() is None
    for size, expected in ((32, 32), (64, 32), (8, 8)):
        fits.remember(size)
        assert fits.recall() == expected
    other = (
        Fits(tiny.config(precision="bf16"), store, tiny.CPU),
        Fits(tiny.config(protocol="lora", lora={"targets": ["qkv"]}), store, tiny.CPU),
        Fits(tiny.config(), store, tiny.CPU, processes=2),
        Fits(tiny.config(), store, tiny.CPU, compile="default"),
    )
    assert [one.recall() for one in other] == [None] * len(other)
    same = Fits(tiny.config(seed=4, batch=64, epsilon_g="4/255", epochs=9), store, tiny.CPU)
    assert same.recall() == 8


def test_nothing_is_kept_on_a_cpu(store: Store) -> None:
    Fits(tiny.config(), store, tiny.CPU).remember(4)
    assert not (store.root / "index").exists()


def test_a_shared_gpu_says_nothing_about_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * gib)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    for free, expected in ((58, Card("H100", 80.0)), (30, None)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d, f=free: (f * gib, 80 * gib))
        assert microbatch.card(torch.device("cuda")) == expected
