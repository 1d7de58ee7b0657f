"""Costs of attacks, evaluations and scheduled training on a CPU, with gates.

    python benchmarks/engine.py [--only PART ...] [--repetitions 5] [--quick] [--no-peers]

Results are ratios within one process. Times are CPU seconds on one thread, the minimum of several
repetitions in which the variants alternate; counts are exact. Writes benchmarks/results/engine.md.
Exit code 1 if a gate is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import peers
import published
import robustness
import torch
import torch.nn.functional as F
from report import RESULTS, Report, Work, seconds
from torch import Tensor, nn

from core.attack.apgd import attacking, gradient_of, loss_of, run_apgd
from core.config import Augment, RunConfig
from core.data.splits import Split
from core.model import convolutions, network
from core.store.folders import Store
from core.training import schedules
from core.training.augment import augment_images, draw_table
from core.training.step import Step, Threat

PARTS = ("attack", "training", "layout", "robustness", "data", "memory")
STEPS, EPSILON = 7, 4 / 255
CPU = torch.device("cpu")
# backbone, image size, batch, limit for APGD's time over the bound
NETWORKS = [
    ("mini_resnet", 32, 32, 1.25),
    ("mini_convnext", 32, 32, 1.25),
    ("vit_small_patch16_224", 224, 2, 1.05),
    ("resnet50", 224, 2, 1.05),
]


def config_of(backbone: str, size: int, **fields: Any) -> RunConfig:
    data = {"backbone": backbone, "weights": "random", "dataset": "fake", "image_size": size}
    return RunConfig.parse(data | fields)


def build(config: RunConfig) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        return network.build(config, 10, Store(Path(folder)))


def bound(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """The model calls that APGD needs at least."""
    with attacking(model) as target:
        for _ in range(STEPS):
            gradient_of(target, x, y)
        loss_of(target, x, y)


def attack_cost(report: Report, repetitions: int, others: bool) -> None:
    names = list(peers.MAKERS)
    report.section(
        f"APGD-{STEPS}, time over the bound: {STEPS} x (forward + input gradient) + 1 forward",
        *("network", "batch", "bound (s)", "ours", "published", *names),
    )
    for backbone, size, batch, limit in NETWORKS:
        model = build(config_of(backbone, size)).eval()
        x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        # Labels are the model's predictions, since other libraries skip misclassified images.
        y = model(x).argmax(1)
        variants: dict[str, Work] = {
            "bound": lambda: bound(model, x, y),  # noqa: B023  called within this turn
            "ours": lambda: run_apgd(model, x, y, epsilon=EPSILON, steps=STEPS),  # noqa: B023
            "published": lambda: published.attack(model, x, y, EPSILON, STEPS),  # noqa: B023
        }
        for name in names if others else ():
            if theirs := peers.attack(name, model, x, y, epsilon=EPSILON, steps=STEPS):
                variants[name] = theirs
        spent = seconds(variants, repetitions * (4 if size < 100 else 1))
        ratio = {name: value / spent["bound"] for name, value in spent.items()}
        shown = [ratio.get(name, "-") for name in ("ours", "published", *names)]
        report.row(f"{backbone} {size} px", batch, spent["bound"], *shown)
        report.gate(f"APGD / bound, {backbone} {size} px", ratio["ours"], limit)


def training_cost(report: Report, repetitions: int) -> None:
    """Costs of whole training steps, and of a run under `sched` computed from them."""
    report.section(
        f"A training step with APGD-{STEPS} and AdamW, and a run of 50 epochs under sched",
        *("network", "batch", "bound (s)", "ours", "published loop", "sched / always attacking"),
    )
    for backbone, size, batch, _ in NETWORKS:
        config = config_of(backbone, size, batch=batch, schedule="sched")
        step = Step(config, build(config), device=CPU, micro_batch=batch)
        other = build(config)
        adamw = torch.optim.AdamW(other.parameters(), lr=1e-4)
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(
            0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator
        )
        split, index = Split(images, torch.arange(batch) % 10), torch.arange(batch)
        table, (x, y) = torch.rand(batch, 7, generator=generator), split.batch(index, CPU)

        def ours(epsilon: float) -> None:
            step.model.train()  # noqa: B023
            step.make(split, index, table, Threat(batch, CPU, epsilon=epsilon))  # noqa: B023

        def least() -> None:
            bound(step.model, x, y)  # noqa: B023
            step.make(split, index, table, Threat(batch, CPU, epsilon=0.0))  # noqa: B023

        def theirs() -> None:
            images = augment_images(split.batch(index, CPU)[0], table, config.augment)  # noqa: B023
            published.step(other, adamw, images, y, 1e-12, STEPS)  # noqa: B023

        spent = seconds(
            {
                "bound": least,
                "clean": lambda: ours(0.0),
                "ours": lambda: ours(1e-12),
                "published": theirs,
            },
            repetitions,
        )
        schedule = schedules.make(config)
        clean = sum(schedule.alpha(epoch) == 0 for epoch in range(config.epochs))
        attacked = config.epochs - clean
        share = (clean * spent["clean"] / spent["ours"] + attacked) / config.epochs
        report.row(
            *(f"{backbone} {size} px", batch, spent["bound"], spent["ours"] / spent["bound"]),
            *(spent["published"] / spent["bound"], share),
        )
        if backbone == "resnet50":
            report.gate(f"run under sched / attacking at eps = 0 too, {backbone}", share, 0.83)


def layout_cost(report: Report, repetitions: int) -> None:
    """Costs of attacks and weight gradients of convolutional networks in both memory layouts."""
    report.section(
        f"Memory layouts: APGD-{STEPS} and the gradient of the weights",
        *("network", "batch", "contiguous (s)", "channels_last / contiguous"),
    )
    for backbone, size, batch, _ in NETWORKS:
        model = build(config_of(backbone, size)).train()
        if convolutions.layout(model) is torch.contiguous_format:
            continue
        generator = torch.Generator().manual_seed(0)
        images, y = torch.rand(batch, 3, size, size, generator=generator), torch.arange(batch) % 10

        def work(layout: torch.memory_format) -> None:
            model.to(memory_format=layout)  # type: ignore[call-overload]  # noqa: B023
            x = images.contiguous(memory_format=layout)  # noqa: B023
            bound(model, x, y)  # noqa: B023
            F.cross_entropy(model(x), y).backward()  # noqa: B023

        layouts = {"last": torch.channels_last, "first": torch.contiguous_format}
        spent = seconds({name: partial(work, how) for name, how in layouts.items()}, repetitions)
        report.row(f"{backbone} {size} px", batch, spent["first"], spent["last"] / spent["first"])


def data_cost(report: Report, repetitions: int) -> None:
    """Cost of reading and augmenting a batch of a uint8 array, over a step on the same images."""
    report.section("Data", "224 px, one core", "images per second", "trained per second")
    config = config_of("resnet50", 224, batch=8)
    step = Step(config, build(config), device=CPU, micro_batch=8)
    images = torch.randint(0, 256, (512, 3, 224, 224), dtype=torch.uint8)
    split, table = Split(images, torch.arange(512) % 10), draw_table(0, 0, 512)
    index = torch.randperm(512, generator=torch.Generator().manual_seed(0))[:8]
    threat = Threat(len(split), CPU, epsilon=EPSILON)

    def batch() -> None:
        augment_images(split.batch(index, CPU)[0], table[index], Augment())

    spent = seconds(
        {
            "read": lambda: split.batch(index, CPU),
            "augmented": batch,
            "step": lambda: step.make(split, index, table, threat),
        },
        repetitions,
    )
    rate = {name: 8 / value for name, value in spent.items()}
    report.row("read, as float32", f"{rate['read']:.0f}", "")
    report.row("read and augmented", f"{rate['augmented']:.0f}", "")
    report.row("ResNet-50, AT-7", "", f"{rate['step']:.2f}")
    report.gate("data / model, time per image", spent["augmented"] / spent["step"], 0.05)


def memory(report: Report) -> None:
    report.section(
        "Saved for one backward of the attack, MiB at batch 2",
        *("network", "weights require gradients", "frozen"),
    )
    for backbone, size, _, _ in NETWORKS[2:]:
        model, found = build(config_of(backbone, size)).eval(), []
        x, y = torch.rand(2, 3, size, size), torch.tensor([0, 1])
        own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
        for frozen in (False, True):
            kept: dict[int, int] = {}

            def pack(tensor: Tensor) -> Tensor:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in own:  # noqa: B023
                    kept[storage.data_ptr()] = storage.nbytes()  # noqa: B023
                return tensor

            model.requires_grad_(not frozen)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                gradient_of(model, x, y)
            found.append(sum(kept.values()) / 2**20)
        report.row(backbone, *found)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one small network, once")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "engine.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    repetitions = 1 if asked.quick else asked.repetitions
    report = Report("Engine", (__doc__ or "").strip())
    if asked.quick:
        del NETWORKS[1:]
    for line in [] if asked.no_peers else peers.install():
        report.say(line)
    work: dict[str, Work] = {
        "attack": lambda: attack_cost(report, repetitions, not asked.no_peers),
        "training": lambda: training_cost(report, repetitions),
        "layout": lambda: layout_cost(report, repetitions),
        "robustness": lambda: robustness.measure(
            report, *((40, 80) if asked.quick else (896, 4096))
        ),
        "data": lambda: data_cost(report, repetitions),
        "memory": lambda: memory(report),
    }
    for part in PARTS:
        if part in asked.only:
            work[part]()
    passed = report.close()
    report.write(asked.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
