"""A large sweep as runs leave it, drawn and not trained: 30 pairs, several axes, failures, noise.

One way of drawing for the tests of the report and for its benchmark.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from core.config import RobustAccuracy, RunConfig
from core.store.folders import RunDir, Store
from core.store.records import delay

BACKBONES = ("vit", "swin", "cnx", "r50", "clipvit", "clipcnx")
DATASETS = {"aircraft": 3333, "caltech256": 5893, "cars": 8041, "cub": 5794, "dogs": 8580}
"""With the images of their test splits."""
EVALUATION = RobustAccuracy()
AT_ALL = (("4/255", "8/255"), ("fix", "sched"), ("at", "trades"))
AXES = (
    {"schedule": "standard"},
    *(
        {"epsilon_g": e, "schedule": s, "objective": {"kind": o}}
        for e, s, o in itertools.product(*AT_ALL)
    ),
    *({"epsilon_g": e, "schedule": "uniform"} for e in ("4/255", "8/255")),
    {"epsilon_g": "4/255", "schedule": "sched", "protocol": "lora"},
)
REASONS = ("out of memory: 79.1 GiB in use", "the loss is not finite in epoch 7", "node lost")


def configs(count: int) -> Iterator[RunConfig]:
    """`count` runs: seeds without end over backbones, datasets and AXES."""
    cells = list(itertools.product(BACKBONES, DATASETS, AXES))
    made: dict[int, dict[str, Any]] = {}
    for number in range(count):
        seed, cell = divmod(number, len(cells))
        backbone, dataset, axes = cells[cell]
        if cell not in made:
            fields = {"backbone": backbone, "dataset": dataset, **axes}
            made[cell] = RunConfig.parse(fields).to_dict()
        yield RunConfig.parse({**made[cell], "seed": seed})


def draw(root: Path, count: int, *, share_of_images: float = 1.0) -> list[dict[str, Any]]:
    """Write a store of `count` runs, and return the rows of its manifest. Of a hundred runs two
    have failed, one is at work and one has not begun."""
    rows = []
    for number, run in enumerate(configs(count)):
        place = number % 100
        if place != 99:
            _Drawn(Store.at(root).run(run.id), run, share_of_images).write(place)
        ids = {EVALUATION.id: EVALUATION.to_dict()}
        rows.append({"id": run.id, "setting": run.setting, "config": run.to_dict(), "evals": ids})
    return rows


class _Drawn:
    """One run folder."""

    def __init__(self, folder: RunDir, run: RunConfig, share: float) -> None:
        self.folder, self.run = folder, run
        self.random = np.random.default_rng(int.from_bytes(run.id.encode()) % 2**32)
        self.images = round(DATASETS[run.dataset] * share)
        hard = 0.06 * BACKBONES.index(run.backbone) + 0.03 * list(DATASETS).index(run.dataset)
        strong = 0.1 * (run.epsilon_g.in_255ths == 8) + 0.05 * (run.protocol == "lora")
        self.hopeless = run.setting == "fix" and hard + strong > 0.3
        self.top = {"standard": 0.92, "fix": 0.6, "sched": 0.7, "uniform": 0.74}[run.setting]
        self.top -= hard + strong + 0.04 * (run.objective.kind == "trades")
        self.top += 0.02 * self.random.standard_normal()
        self.top = 0.012 if self.hopeless else self.top

    def write(self, place: int) -> None:
        folder = self.folder
        folder.evals.mkdir(parents=True)
        ended = {0: "failed", 1: "failed", 2: None}.get(place, "done")
        epochs = self.epochs()[: 50 if ended == "done" else 5 + place]
        folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in epochs))
        lines = [f"epoch {r['epoch']} loss {r['train_loss']:.4f} of {self.run.id}" for r in epochs]
        folder.log.write_text("\n".join(lines))
        versions = {"torch": "2.9.0", "timm": "1.0.20", "numpy": "2.3.4"}
        env = {"commit": "0123abc", "dirty": "", "python": "3.11.7", "versions": versions}
        folder.env.write_text(json.dumps({**env, "host": f"n{place % 8}", "device": "H100"}))
        attempt = {"attempt": 1, "host": f"n{place % 8}", "pid": 1, "job": "7", "gpus": 1}
        attempt |= {"started": "2026-01-02T03:00:00+00:00", "ended": "2026-01-02T03:54:05+00:00"}
        reason = REASONS[place % 3] if ended == "failed" else None
        attempt |= {"ended": attempt["ended"] if ended else None}
        attempt |= {"outcome": ended, "kind": "oom" if reason else None, "reason": reason}
        folder.attempts.write_text(json.dumps(attempt) + "\n")
        if ended == "done":
            self.evaluated(epochs)

    def epochs(self) -> list[dict[str, Any]]:
        late = 10 if self.run.setting == "fix" else 0
        t = np.arange(50)
        grown = np.where(t >= late, 1 - 0.9 ** (t + 1 - late), 0.01)
        clean = np.clip(self.top * grown + 0.01 * self.random.standard_normal(50), 0.004, 1)
        share = 0.05 if self.run.setting == "standard" else 0.45
        adv = clean * np.clip(share + 0.02 * self.random.standard_normal(50), 0, 1)
        loss = 4.6 - 4 * clean + 0.02 * self.random.standard_normal(50)
        return [
            {
                "epoch": i,
                "classes": 100,
                "epsilon": float(self.run.epsilon_g),
                "lr": 1e-4 * (1 - i / 50),
                "train_loss": round(loss[i], 6),
                "train_clean_correct": -1,
                "train_images": 6667,
                "val_loss": round(loss[i] + 0.1, 6),
                "val_clean_correct": int(3333 * clean[i]),
                "val_clean_images": 3333,
                "val_adv_correct": int(1000 * adv[i]),
                "val_adv_images": 1000,
                "val_epsilon": str(self.run.validation_epsilon),
                "seconds": round(60 + self.random.random(), 3),
                "images_per_s": round(900 + 20 * self.random.random(), 1),
            }
            for i in range(50)
        ]

    def evaluated(self, epochs: list[dict[str, Any]]) -> None:
        n, strengths = self.images, EVALUATION.epsilons
        right = self.random.random(n) < self.top
        reach = 1.5 if self.run.setting == "standard" else 12
        broken = 1 + self.random.exponential(reach, n).astype(int)
        critical = np.where(right, np.minimum(broken, len(strengths)), 0).astype(np.int16)
        index = np.arange(n, dtype=np.int32)
        content = BytesIO()
        np.savez(content, critical=critical, index=index, label=(index % 100).astype(np.int16))
        self.folder.eval_flags(EVALUATION.id).write_bytes(content.getvalue())
        about = {"attack": EVALUATION.attack, "norm": "linf", "n": n}
        rows = [
            {**about, "epsilon": str(strength), "correct": int((critical > i).sum())}
            for i, strength in enumerate(strengths)
        ]
        record = {"id": EVALUATION.id, "config": EVALUATION.to_dict(), "rows": rows, "n": n}
        record |= {"split_images": n, "forwards": 40 * n, "backwards": 30 * n, "seconds": 250.0}
        record |= {"zero_gradient_images": 0, "commit": "0123abc"}
        record |= {"flags_crc32": zlib.crc32(content.getvalue())}
        self.folder.eval_json(EVALUATION.id).write_text(json.dumps(record))
        result = {"id": self.run.id, "setting": self.run.setting, "epochs": 50}
        result |= {"delay": delay(epochs, 50), "evals": [EVALUATION.id], "attempts": 1}
        result |= {"finished": "2026-01-02T03:54:05+00:00", "seconds": 3245.5}
        self.folder.result.write_text(json.dumps(result))
