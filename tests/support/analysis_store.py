"""Builds stores with made-up but format-true run folders, for the tests of analysis."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from core.config import EvalConfig, RobustAccuracy, RunConfig
from core.store.folders import RunDir, Store
from core.store.json_files import read_jsonl
from core.store.records import delay

EVALUATION = RobustAccuracy(epsilons=tuple(Fraction(i, 255) for i in range(9)))
N = 512


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Like the product's, without waiting for the disk: tests make hundreds of files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(**fields: Any) -> RunConfig:
    return RunConfig.parse({"backbone": "vit", "dataset": "cars", "epochs": 12, **fields})


def grid(
    backbones: Sequence[str] = ("vit", "swin"),
    datasets: Sequence[str] = ("aircraft", "cars"),
    epsilons: Sequence[str] = ("4/255", "8/255"),
    schedules: Sequence[str] = ("standard", "fix", "sched"),
    seeds: Sequence[int] = (0,),
    **fields: Any,
) -> list[RunConfig]:
    """The distinct runs of a product, standard once per backbone, dataset and seed."""
    runs = [
        config(backbone=b, dataset=d, epsilon_g=e, schedule=s, seed=seed, **fields)
        for b in backbones
        for d in datasets
        for e in epsilons
        for s in schedules
        for seed in seeds
    ]
    return list({run.id: run for run in runs}.values())


def manifest(
    root: Path,
    runs: Iterable[RunConfig],
    evaluations: Sequence[EvalConfig] = (EVALUATION,),
    name: str = "demo",
) -> list[dict[str, Any]]:
    """Write a sweep's manifest and return its rows."""
    rows = [
        {
            "id": run.id,
            "setting": run.setting,
            "config": run.to_dict(),
            "evals": [evaluation.id for evaluation in evaluations],
        }
        for run in runs
    ]
    write_jsonl(Store.at(root).sweep(name).manifest, rows)
    return rows


def flags(run: RunConfig, n: int = N, strengths: int = 9, clean: float | None = None) -> np.ndarray:
    """Index of the first strength that breaks each image; accuracy falls with the strength."""
    seed = int.from_bytes(run.id.encode()) % 2**32
    level = {"standard": 0.9, "fix": 0.15, "sched": 0.7}.get(run.setting, 0.5)
    reach = {"standard": 1.0, "fix": 6.0, "sched": 4.0}.get(run.setting, 3.0)
    generator = np.random.default_rng(seed)
    right = generator.random(n) < (level if clean is None else clean)
    broken_at = 1 + generator.exponential(reach, n).astype(int)
    return np.where(right, np.minimum(broken_at, strengths), 0).astype(np.int16)


def finish(
    root: Path,
    run: RunConfig,
    evaluation: EvalConfig = EVALUATION,
    *,
    critical: np.ndarray | None = None,
    split_images: int | None = None,
) -> RunDir:
    """Write the folder of a complete run; a second call adds a second evaluation."""
    folder = start(root, run)
    critical = flags(run, strengths=len(evaluation.epsilons)) if critical is None else critical
    n = len(critical)
    record = {
        "id": evaluation.id,
        "config": evaluation.to_dict(),
        "rows": [
            {
                "attack": evaluation.attack,
                "norm": evaluation.norm,
                "epsilon": str(strength),
                "n": n,
                "correct": int((critical > i).sum()),
            }
            for i, strength in enumerate(evaluation.epsilons)
        ],
        "n": n,
        "split_images": n if split_images is None else split_images,
        "forwards": 40 * n,
        "backwards": 30 * n,
        "seconds": 2.5,
        "zero_gradient_images": 0,
        "commit": "0123abc",
    }
    write_json(folder.eval_json(evaluation.id), record)
    index = np.arange(n, dtype=np.int32)
    flags_file = folder.eval_flags(evaluation.id)
    np.savez(flags_file, critical=critical, index=index, label=index % 10)
    rows = read_jsonl(folder.metrics)
    evals = sorted(path.stem for path in folder.path.glob("evals/*.json"))
    result = {
        "id": run.id,
        "setting": run.setting,
        "epochs": run.epochs,
        "delay": delay(rows, run.epochs),
        "evals": evals,
        "finished": "2026-01-02T03:04:05+00:00",
        "attempts": 1,
        "seconds": 61.5,
    }
    write_json(folder.result, result)
    attempt(folder, outcome="done")
    return folder


def start(root: Path, run: RunConfig, epochs: int | None = None) -> RunDir:
    """Write the folder of a run that got through `epochs` epochs, without a result."""
    folder = Store.at(root).run(run.id)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(yaml.dump(run.to_dict(), Dumper=yaml.CSafeDumper, sort_keys=False))
    versions = {"python": "3.11.7", "torch": "2.9.0", "timm": "1.0.20"}
    env = {"commit": "0123abc", "dirty": "", "versions": versions, "host": "node1"}
    write_json(folder.env, {**env, "device": "cpu"})
    write_jsonl(folder.metrics, metrics(run)[: run.epochs if epochs is None else epochs])
    folder.log.write_text("epoch 0\nepoch 1\n")
    return folder


def metrics(run: RunConfig, images: int = 256) -> list[dict[str, Any]]:
    top = {"standard": 0.9, "fix": 0.15, "sched": 0.75}.get(run.setting, 0.5)
    late = 2 * int(run.epsilon_g.in_255ths) if run.setting == "fix" else 0
    rows = []
    for epoch in range(run.epochs):
        grown = max(0.0, 1 - 0.6 ** (epoch + 1 - late)) if epoch >= late else 0.0
        clean = int(images * max(0.016, top * grown))
        rows.append(
            {
                "epoch": epoch,
                "epsilon": float(run.epsilon_g),
                "lr": 1e-3,
                "train_loss": 4.2 - 3 * top * grown,
                "train_clean_correct": -1 if run.setting == "standard" else clean,
                "train_images": 1280,
                "val_loss": 4.2 - 2.5 * top * grown,
                "val_clean_correct": clean,
                "val_clean_images": images,
                "val_adv_correct": clean // 4,
                "val_adv_images": images // 2,
                "val_epsilon": str(run.validation_epsilon),
                "seconds": 1.5,
                "images_per_s": 900.0,
            }
        )
    return rows


def attempt(folder: RunDir, **fields: Any) -> None:
    """Append one row to attempts.jsonl."""
    rows = read_jsonl(folder.attempts)
    row: Mapping[str, Any] = {
        "attempt": len(rows) + 1,
        "host": "node1",
        "pid": 1,
        "job": "local",
        "started": "2026-01-02T03:00:00+00:00",
        "ended": "2026-01-02T03:04:05+00:00",
        "outcome": None,
        "kind": None,
        "reason": None,
        **fields,
    }
    write_jsonl(folder.attempts, [*rows, row])


def fill(root: Path, runs: Iterable[RunConfig]) -> list[dict[str, Any]]:
    """A finished sweep: manifest and all run folders."""
    runs = list(runs)
    for run in runs:
        finish(root, run)
    return manifest(root, runs)


def rewrite(path: Path, **fields: Any) -> None:
    """Change keys of a JSON file."""
    write_json(path, json.loads(path.read_text()) | fields)
