"""The sister benchmark in miniature, from its grid to its ranking, on a real Slurm."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_bed import inside, needs_slurm
from slurm_sweep import Sweep
from waiting import until

from slurm.testbed import Bed
from sweep import launcher
from sweep.state.plan import State
from sweep.tune import winners

pytestmark = [*needs_slurm, pytest.mark.slow]

GRID = """\
name: mini_guide
base:
  weights: random
  image_size: 32
  batch: 256
  optim: {betas: [0.9, 0.95], warmup: 0}
  attack.steps: 1
  validation: {steps: 1, images: 8}
tune:
  trials: 0
  space: {optim.lr: [1e-4, 1e-2], optim.rate: [cosine, constant]}
  separate_head: true
grid:
  backbone: [mini_convnext, test_efficientnet, test_vit]
  dataset: [glyph, plane]
  objective: [{kind: at}, {kind: trades, beta: 1}]
  training:
    - {protocol: full, epochs: 2}
    - {protocol: full, epochs: 1}
    - {protocol: linear, epochs: 1}
evals:
  - {attack: autoattack, epsilons: [0, 4/255], steps: 1, images: 3}
  - {attack: autoattack, norm: l2, epsilons: [0, 2], steps: 1, images: 3}
  - {attack: autoattack, norm: l1, epsilons: [0, 75], steps: 1, images: 3}
  - {attack: corruptions, severity: 3, images: 11}
tables: [guide]
"""


def test_from_a_grid_to_its_ranking(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bed(nodes=1, cpus=2, acct="none", kill_wait=2) as bed, inside(bed, monkeypatch):
        sweep = Sweep(tmp_path, bed, "mini_guide")
        sweep.grid_file.write_text(GRID)
        sweep.write_profile(runs_per_job=18)
        grid, root = str(sweep.grid_file), ("--root", str(sweep.store.root))

        code, _, err = call("launch", grid, "--profile", str(sweep.profile_file), *root)
        assert code == 0, err
        until(lambda: not bed.run("squeue", "-h").strip(), every=1.0)
        counts = launcher.look(winners.apply(sweep.grid, sweep.store), sweep.store).counts
        assert counts == {State.DONE: 3 * 2 * 2 * 3}
        code, out, err = call("tables", grid, "--table", "ranking", "--format", "tidy", *root)
        assert code == 0, err
        rows = [*csv.DictReader(io.StringIO(out))]
        configurations = {(row["protocol"], row["backbone"], row["loss"]) for row in rows}
        assert len(rows) == len(configurations) == 3 * 3 * 2
        assert all(1 <= float(row["borda"]) / (2 * 5) <= 6 for row in rows)
        code, out, _ = call("tables", grid, "--table", "measurements", "--format", "tidy", *root)
        assert code == 0 and len([*csv.DictReader(io.StringIO(out))]) >= 36
