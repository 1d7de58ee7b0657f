"""A large sweep as runs leave it, drawn and not trained: 30 pairs, several axes, failures, noise.

One way of drawing for the tests of the report and for its benchmark.
"""

from __future__ import annotations

import json
import time
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from core.config import RunConfig
from core.store.damage import checksums
from core.store.folders import RunDir, Store
from core.store.records import delay
from sweep.grid import Grid, load_grid

BACKBONES = ("vit", "swin", "cnx", "r50", "clipvit", "clipcnx")
DATASETS = {"aircraft": 3333, "caltech256": 5893, "cars": 8041, "cub": 5794, "dogs": 8580}
"""With the images of their test splits."""
REASONS = ("out of memory: 79.1 GiB in use", "the loss is not finite in epoch 7", "node lost")


PER_SEED = 360


def grid_text(seeds: int) -> str:
    """A grid of 360 runs for each seed: 30 pairs at 2 strengths, 3 schedules and 2 objectives."""
    return f"""name: drawn
about: {{question: "Which schedule and which objective transfer best?"}}
base: {{epochs: 50}}
grid:
  backbone: [{", ".join(BACKBONES)}]
  dataset: [{", ".join(DATASETS)}]
  epsilon_g: [4/255, 8/255]
  schedule: [fix, sched, uniform]
  objective: [{{kind: at}}, {{kind: trades}}]
seeds: [{", ".join(map(str, range(seeds)))}]
evals:
  - {{epsilons: 0..16/255, steps: 10}}
"""


def draw(root: Path, seeds: int, *, share_of_images: float = 1.0) -> Grid:
    """Write a grid file and a store of its runs into a folder, and return the grid. Of a hundred
    runs two have failed, one is at work and one has not begun."""
    path = root / "drawn.yaml"
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(grid_text(seeds))
    grid = load_grid(str(path))
    for number, run in enumerate(grid.runs):
        place = number % 100
        if place != 99:
            folder = Store.at(root).run(run.id)
            _Drawn(folder, run.config, run.evals[0], share_of_images).write(place)
    return grid


class _Drawn:
    """One run folder."""

    def __init__(self, folder: RunDir, run: RunConfig, evaluation: Any, share: float) -> None:
        self.folder, self.run, self.evaluation = folder, run, evaluation
        self.random = np.random.default_rng(int.from_bytes(run.id.encode()) % 2**32)
        self.images = round(DATASETS[run.dataset] * share)
        hard = 0.06 * BACKBONES.index(run.backbone) + 0.03 * list(DATASETS).index(run.dataset)
        strong = 0.1 * (run.epsilon_g.in_255ths == 8)
        self.hopeless = run.setting == "fix" and hard + strong > 0.3
        self.top = {"fix": 0.6, "sched": 0.7, "uniform": 0.74}[run.setting]
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
        # Of a process on another machine, whose heart beats if it has not ended.
        claim = attempt | {"machine": "elsewhere", "pid_start": "1", "since": time.time() - 300}
        claim |= {"progress": {"phase": "train", "epoch": len(epochs), "epochs": 50, "share": 0.2}}
        (folder.path / "claim-0001.json").write_text(json.dumps(claim))
        if ended == "done":
            self.evaluated(epochs)

    def epochs(self) -> list[dict[str, Any]]:
        late = 10 if self.run.setting == "fix" else 0
        t = np.arange(50)
        grown = np.where(t >= late, 1 - 0.9 ** (t + 1 - late), 0.01)
        clean = np.clip(self.top * grown + 0.01 * self.random.standard_normal(50), 0.004, 1)
        adv = clean * np.clip(0.45 + 0.02 * self.random.standard_normal(50), 0, 1)
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
        asked = self.evaluation
        n, strengths = self.images, asked.epsilons
        right = self.random.random(n) < self.top
        broken = 1 + self.random.exponential(12, n).astype(int)
        critical = np.where(right, np.minimum(broken, len(strengths)), 0).astype(np.int16)
        index = np.arange(n, dtype=np.int32)
        content = BytesIO()
        np.savez(content, critical=critical, index=index, label=(index % 100).astype(np.int16))
        self.folder.eval_flags(asked.id).write_bytes(content.getvalue())
        about = {"attack": asked.attack, "norm": "linf", "n": n}
        rows = [
            {**about, "epsilon": str(strength), "correct": int((critical > i).sum())}
            for i, strength in enumerate(strengths)
        ]
        record = {"id": asked.id, "config": asked.to_dict(), "rows": rows, "n": n}
        record |= {"split_images": n, "forwards": 40 * n, "backwards": 30 * n, "seconds": 250.0}
        commit = ("0123abcdef" if self.run.seed else "abcdef0123") * 4
        record |= {"zero_gradient_images": 0, "commit": commit}
        record |= {"flags_crc32": zlib.crc32(content.getvalue())}
        self.folder.eval_json(asked.id).write_text(json.dumps(record))
        result = {"id": self.run.id, "setting": self.run.setting, "epochs": 50}
        result |= {"delay": delay(epochs, 50), "evals": [asked.id], "attempts": 1}
        result |= {"finished": "2026-01-02T03:54:05+00:00", "seconds": 3245.5}
        result |= {"crc32": checksums(self.folder, [asked.id])}
        self.folder.result.write_text(json.dumps(result))
