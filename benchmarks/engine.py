"""What attacking, evaluating and a scheduled training cost, as ratios within one process.

1. APGD against its bound, n x (forward + input gradient) + 1 forward, and against other libraries
   where they are installed (torchattacks, pyautoattack, foolbox).
2. Expected robustness, exact and fast, against one APGD per image and strength.
3. A run under `sched` against the same code attacking with eps = 0 before T1.

CPU seconds of this process on one thread, variants interleaved, medians; counts are exact.

    python benchmarks/engine.py [repetitions]
"""

from __future__ import annotations

import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import audit, evaluate, models, schedules
from core.attacks import apgd, attacking, gradient_of, loss_of
from core.config import RunConfig
from core.data import Dataset, Split
from core.rundir import Store
from core.train import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny

STEPS, EPSILON = 7, 4 / 255
CPU = torch.device("cpu")
Work = Callable[[], object]


def seconds(variants: dict[str, Work], repetitions: int) -> dict[str, float]:
    """Median CPU seconds of each variant; they take turns, after one round to warm up."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for repetition in range(repetitions + 1):
        for name, work in variants.items():
            start = time.process_time()
            work()
            if repetition:
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in spent.items()}


def config_of(backbone: str, size: int, **fields: Any) -> RunConfig:
    data = {"backbone": backbone, "weights": "random", "dataset": "fake", "image_size": size}
    return RunConfig.parse(data | fields)


def bound(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """The calls of the model that APGD cannot do without."""
    with attacking(model) as target:
        for _ in range(STEPS):
            gradient_of(target, x, y)
        loss_of(target, x, y)


def peers(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Work]:
    """The same attack by the libraries that are installed."""
    found: dict[str, Work] = {}
    if package := _installed("torchattacks"):
        theirs = package.APGD(model, eps=EPSILON, steps=STEPS, n_restarts=1)
        found["torchattacks"] = lambda: theirs(x, y)
    if package := _installed("pyautoattack.autopgd_base"):
        other = package.APGDAttack(
            model, n_iter=STEPS, eps=EPSILON, n_restarts=1, seed=0, device="cpu", loss="ce"
        )
        found["pyautoattack"] = lambda: other.perturb(x, y)
    if package := _installed("foolbox"):
        wrapped = package.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
        pgd = package.attacks.LinfPGD(steps=STEPS, random_start=True)
        found["foolbox PGD"] = lambda: pgd(wrapped, x, y, epsilons=EPSILON)
    return found


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def attack_cost(backbone: str, size: int, batch: int, repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = models.build(config_of(backbone, size), 10, Store(Path(folder))).eval()
    x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    # Labels the model agrees with: other libraries skip images that are wrong from the start.
    y = model(x).argmax(1)
    variants: dict[str, Work] = {
        "bound": lambda: bound(model, x, y),
        "ours": lambda: apgd(model, x, y, epsilon=EPSILON, steps=STEPS),
        **peers(model, x, y),
    }
    spent = seconds(variants, repetitions)
    ratios = ", ".join(
        f"{name} {value / spent['bound']:.2f}" for name, value in spent.items() if name != "bound"
    )
    print(
        f"  {backbone:<12} {size:>3} px, batch {batch:>2}: {ratios}  (bound {spent['bound']:.2f} s)"
    )


def evaluation_cost() -> None:
    trained, steps, batch = tiny.train_one(), 10, 50
    grid = [i / 8 * 1.2 / 255 for i in range(9)]
    split, images = trained.test, len(trained.test)
    how: dict[str, Any] = {"steps": steps, "batch": batch, "device": CPU}

    def naive() -> None:
        for epsilon in grid[1:]:
            for index in torch.arange(images).split(batch):
                apgd(trained.net, *split.batch(index, CPU), epsilon=epsilon, steps=steps)

    found = {mode: evaluate.search(trained.net, split, grid, mode=mode, **how)
             for mode in ("exact", "fast")}  # fmt: skip
    audited = audit.check(found["fast"], trained.net, split, grid, **how)
    spent = seconds(
        {
            "naive": naive,
            "exact": lambda: evaluate.search(trained.net, split, grid, **how),
            "fast": lambda: evaluate.search(trained.net, split, grid, mode="fast", **how),
        },
        3,
    )
    calls = images * (len(grid) - 1) * (steps + 1)
    robust = found["exact"].correct(len(grid) - 1)
    print(f"  {images} images, {robust} right at the largest of 8 strengths, APGD-{steps}")
    for mode, result in found.items():
        print(
            f"  {mode}: forwards {result.forwards / calls:.3f}, "
            f"time {spent[mode] / spent['naive']:.2f} of naive"
        )
    print(
        f"  audit of fast: {audited.disagreeing} of {audited.pairs} pairs disagree, "
        f"forwards {audited.forwards / calls:.3f} of naive on top"
    )


def schedule_cost(repetitions: int) -> None:
    config = config_of("resnet50", 224, batch=2, schedule="sched")
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    split = Split(images, torch.tensor([0, 1]))
    dataset = Dataset("noise", 10, split, split, split)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        trainer = Trainer(
            config, dataset, models.build(config, 10, store), store.run(config.id), device=CPU
        )
        index, table = torch.arange(2), torch.rand(2, 7)
        trainer.model.train()

        def step(epsilon: float) -> Work:
            return lambda: trainer.step.make(split, index, table, epsilon)

        # A strength this small takes the whole attack and changes nothing.
        spent = seconds({"clean": step(0.0), "attacked": step(1e-12)}, repetitions)
    schedule = schedules.make(config)
    clean = sum(schedule.alpha(epoch) == 0 for epoch in range(config.epochs))
    ratio = spent["attacked"] / spent["clean"]
    share = (clean + (config.epochs - clean) * ratio) / (config.epochs * ratio)
    print(f"  an attacked step costs {ratio:.2f} clean ones; {clean} of {config.epochs} epochs are")
    print(f"  clean, so the run costs {share:.3f} of one that attacks in all of them")


def main() -> None:
    torch.set_num_threads(1)
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"APGD-{STEPS} / bound (gates: 1.05 at 224 px, 1.25 on the mini networks)")
    for backbone, size, batch in (
        ("mini_resnet", 32, 32),
        ("mini_convnext", 32, 32),
        ("vit_small_patch16_224", 224, 2),
        ("resnet50", 224, 2),
    ):
        attack_cost(backbone, size, batch, repetitions)
    print("Expected robustness / naive (gates: exact 0.85, fast 0.20 forwards, fast 0.25 time)")
    evaluation_cost()
    print("A run under sched / attacking at eps = 0 (gate: 0.83)")
    schedule_cost(repetitions)


if __name__ == "__main__":
    main()
