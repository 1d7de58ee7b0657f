"""Throughput of the engine on one GPU, as a share of the GPU's peak, and hours for 150 runs.

    benchmarks/gpu.sh [--minutes 9] [--quick] [--out FILE]

Trains on noise with random weights: bf16, APGD-7, the grid's batch. Measures eager calls first,
then compiled ones and CUDA graphs, as far as time allows. The page is rewritten after every part,
so that an interrupted call leaves its results. --quick: tiny networks, also on a CPU, to test the
benchmark. Exit code 1 if a gate is missed, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hours
import torch
from report import RESULTS, Report, Work
from torch.utils.flop_counter import FlopCounterMode

from core.attack.apgd import attacking, gradient_of
from core.config import EvalConfig, RunConfig
from core.data.splits import Split
from core.machine.runtime import autocast, device, judging
from core.model import convolutions, network
from core.options import Compile
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import read_json
from core.training.step import Step, Threat, half

EPSILON, CLASSES = 4 / 255, 100


@dataclass(frozen=True)
class Sizes:
    """Sizes of networks, images and measurements."""

    backbones: tuple[str, ...] = ("r50", "vit", "swin", "cnx")
    image: int = 224
    batch: int = 128
    matmul: int = 8192
    seconds: float = 3.0
    run_images: int | None = None  # of each split of the whole run


QUICK = Sizes(("test_vit",), 16, 8, 256, 0.2, 16)


@dataclass
class Bench:
    """The measurements so far; speeds are images per second."""

    sizes: Sizes
    report: Report
    out: Path | None
    end: float
    on: torch.device = field(default_factory=device)
    peak: float = 0.0  # FLOP/s
    speeds: dict[str, dict[str, float]] = field(default_factory=dict)

    def left(self) -> float:
        return self.end - time.perf_counter()

    def wait(self) -> None:
        if self.on.type == "cuda":
            torch.cuda.synchronize()

    def rate(self, work: Work, images: int) -> float:
        """Images per second of `work`, which processes `images`, after two warm-up rounds."""
        work()
        work()
        self.wait()
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < self.sizes.seconds or rounds < 2:
            work()
            self.wait()
            rounds += 1
        return images * rounds / (time.perf_counter() - start)

    def config(self, backbone: str, **fields: Any) -> RunConfig:
        base = {"weights": "random", "dataset": "fake", "image_size": self.sizes.image}
        batch = {"backbone": backbone, "batch": self.sizes.batch, "precision": "bf16"}
        return RunConfig.parse(base | batch | fields)

    def step(self, backbone: str, how: Compile = "none", layout: str = "as built") -> Step:
        config = self.config(backbone)
        with tempfile.TemporaryDirectory() as folder:
            model = network.build(config, CLASSES, Store(Path(folder))).to(self.on)
        model.train()
        batch = self.sizes.batch
        step = Step(config, model, device=self.on, micro_batch=batch, compile=how)
        step.remark = self.report.say
        if layout == "contiguous":
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            step.layout = torch.contiguous_format
        return step

    def work(self, step: Step, epsilon: float, batch: int | None = None) -> Work:
        """A function that makes one step on noise in host memory."""
        batch, size = batch or self.sizes.batch, self.sizes.image
        generator = torch.Generator().manual_seed(0)
        shape = (batch, 3, size, size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        split = Split(images, torch.arange(batch) % CLASSES)
        table, index = torch.rand(batch, 7, generator=generator), torch.arange(batch)
        threat = Threat(batch, step.device, epsilon=epsilon)
        return lambda: step.make(split, index, table, threat)


def measure_peak(bench: Bench) -> None:
    n = bench.sizes.matmul
    a, b = (torch.randn(n, n, device=bench.on, dtype=torch.bfloat16) for _ in range(2))
    bench.peak = 2 * n**3 * bench.rate(lambda: a @ b, 1)
    bench.report.say(
        f"Peak, bf16 product of {n} x {n} matrices of noise: {bench.peak / 1e12:.4g} TFLOP/s"
    )


def flops(bench: Bench, backbone: str) -> float:
    """Floating-point operations per image of a step with attack; a multiply-add counts as two.

    Gradients with respect to inputs, which the counter cannot follow, count as half a backward.
    """
    step = bench.step(backbone)
    with FlopCounterMode(display=False) as whole:
        bench.work(step, 0.0, batch=2)()
    size = bench.sizes.image
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        step.model(torch.rand(2, 3, size, size, device=bench.on))
    forward = counter.get_total_flops() / 2
    backward = whole.get_total_flops() / 2 - forward
    steps = step.config.attack.steps
    return (steps + 2) * forward + (steps / 2 + 1) * backward


def train(bench: Bench, how: Compile, layout: str = "as built") -> None:
    """Measure training of every backbone with one way of calling the model; one table."""
    called = {"none": "eager", "default": "torch.compile", "cuda_graphs": "CUDA graphs"}[how]
    note = "" if layout == "as built" else f", {layout} instead of channels_last"
    bench.report.section(
        f"Training, bf16, AT-7, {called}{note}",
        *("backbone", "images/s", "clean images/s", "of the peak", "peak GiB", "micro-batch"),
        *("loss", "ready after s"),
    )
    for backbone in bench.sizes.backbones:
        if bench.left() < (20 if how == "none" else 75):
            bench.report.say(f"| {backbone} | not measured: out of time |")
            continue
        started = time.perf_counter()
        step = bench.step(backbone, how, layout)
        if layout == "contiguous" and convolutions.layout(step.model) is torch.contiguous_format:
            continue
        if bench.on.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        attacked = bench.work(step, EPSILON)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = float(attacked())  # type: ignore[arg-type]
        ready = time.perf_counter() - started
        speed = bench.rate(attacked, bench.sizes.batch)
        gib = torch.cuda.max_memory_allocated() / 2**30 if bench.on.type == "cuda" else 0.0
        known = bench.speeds.setdefault(backbone, {})
        if how == "none" and layout == "as built":
            known |= {"flops": flops(bench, backbone), "loss": loss}
            evaluating(bench, step, known)
        clean = bench.rate(bench.work(step, 0.0), bench.sizes.batch)
        known["clean"] = max(known.get("clean", 0), clean)
        known["attacked"] = max(known.get("attacked", 0), speed)
        share = speed * known["flops"] / bench.peak
        bench.report.row(
            *(backbone, f"{speed:.1f}", f"{clean:.1f}", f"{share:.3f}", f"{gib:.1f}"),
            *(step.micro_batch, f"{loss:.4f}", f"{ready:.0f}"),
        )
        if how != "none" and step.network is not step.model:
            apart = abs(loss / known["loss"] - 1)
            bench.report.gate(f"{called}, {backbone}: first loss, apart from eager", apart, 0.05)
        del step, attacked


def evaluating(bench: Bench, step: Step, known: dict[str, float]) -> None:
    """Measure forward and input gradient: in fp32, as evaluations use them, and in bf16, as
    validation does."""
    size, batch = bench.sizes.image, 2 * bench.sizes.batch
    while True:
        try:
            x = torch.rand(batch, 3, size, size, device=bench.on)
            y = torch.zeros(batch, dtype=torch.long, device=bench.on)
            with attacking(step.model) as model:
                with judging():
                    known["fp32"] = bench.rate(lambda: gradient_of(model, x, y), batch)  # noqa: B023
                with autocast("bf16", bench.on):
                    known["bf16"] = bench.rate(lambda: gradient_of(model, x, y), batch)  # noqa: B023
            return
        except torch.OutOfMemoryError:
            batch = half(batch)


def waits(bench: Bench) -> None:
    """Make a step in torch's debug mode, which reports operations that make the host wait."""
    bench.report.section("Host and device")
    found = 0
    for backbone in bench.sizes.backbones[:2] if bench.on.type == "cuda" else ():
        work = bench.work(bench.step(backbone), EPSILON)
        work()
        torch.cuda.set_sync_debug_mode("error")
        try:
            work()
        except RuntimeError as error:
            found += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            bench.report.say(f"{backbone}: {str(error).splitlines()[0]} ({place})")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    if bench.on.type == "cuda":
        bench.report.gate("steps in which the host waited for the device", found, 0)
    else:
        bench.report.say("Nothing to wait for on a CPU.")


def smoke(bench: Bench) -> None:
    """Make a whole run on this device, from config to result.json."""
    from core.run import pipeline

    bench.report.section("A whole run")
    config = bench.config(bench.sizes.backbones[0], batch=32, epochs=2)
    asked = EvalConfig.parse({"steps": 2, "epsilons": "0..2/255"})
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        claim = Claim.acquire(store.run(config.id))
        assert claim
        try:
            options = pipeline.Options(tracking="none", images=bench.sizes.run_images)
            result = pipeline.execute(config, [asked], store, claim, options)
        finally:
            claim.release("done")
        stored = read_json(store.run(config.id).eval_json(asked.id)) or {}
    done = result["epochs"] == 2 and len(stored["rows"]) == 3
    bench.report.say(f"{config.id}: {result['seconds']} s of training, {stored['rows']}")
    bench.report.gate("a whole run failed", float(not done), 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if not torch.cuda.is_available() and not asked.quick:
        print("gpu.py: torch finds no GPU (use --quick to test on a CPU)", file=sys.stderr)
        return 2
    logging.getLogger("epsweep").setLevel(logging.ERROR)
    if asked.quick:
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    out = asked.out or RESULTS / f"gpu-{name.replace(' ', '-').lower()}.md"
    report = Report(f"Engine on {name}", (__doc__ or "").strip())
    end = time.perf_counter() + 60 * asked.minutes
    bench = Bench(QUICK if asked.quick else Sizes(), report, out, end)
    parts = [
        lambda: measure_peak(bench),
        lambda: train(bench, "none"),
        lambda: waits(bench),
        lambda: smoke(bench),
        lambda: train(bench, "none", "contiguous"),
        lambda: train(bench, "default"),
        lambda: train(bench, "cuda_graphs"),
        lambda: hours.extrapolate(report, bench.speeds, asked.quick),
    ]
    for part in parts:
        part()
        report.write(out)
    passed = report.close()
    report.write(out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
