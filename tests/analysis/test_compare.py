"""Our numbers beside the published ones: each beside its own."""

from __future__ import annotations

from pathlib import Path

import analysis_store as made
import numpy as np
import pytest

from analysis.command import Source, tables
from core.config import AutoAttack, EvalConfig


def test_comparison_with_the_published(tmp_path: Path) -> None:
    runs = made.grid(("swin",), ("cars",), ("4/255",), ("fix", "sched"))
    critical = np.repeat([0, 9], [398, 602]).astype(np.int16)  # 60.20 % clean, adv and expected
    for run in runs:
        made.finish(tmp_path, run, critical=critical)
    source = Source.store(tmp_path, made.manifest(tmp_path, runs))
    (table,) = tables(source, numbers=[1], compare=True).tables
    rows = {labels: [entry.text for entry in row] for labels, row in table.rows}
    assert rows["SWIN", "Cars", "4/255", "fix"][:3] == ["60.20", "60.20", "+0.00"]
    assert rows["SWIN", "Cars", "4/255", "sched"][:3] == ["60.20", "84.70", "-24.50"]
    assert rows["ViT", "Dogs", "4/255", "fix"][0] == "\N{EN DASH}"
    assert table.complete


@pytest.mark.parametrize("weighted", [False, True])
def test_each_attack_is_compared_with_itself(tmp_path: Path, weighted: bool) -> None:
    """By its kind, whatever its name says beside it."""
    usual = made.EVALUATION
    if weighted:
        usual = EvalConfig.parse(usual.to_dict() | {"prior": [1] * len(usual.epsilons)})
    name = "APGD-10 (l-inf, expected by its own prior)" if weighted else "APGD-10"
    strong = AutoAttack(epsilons=made.EVALUATION.epsilons)
    (run,) = made.grid(("swin",), ("cars",), ("4/255",), ("fix",))
    for asked, share in ((strong, 299), (usual, 319)):  # 29.90 and 31.90 %, as published
        critical = np.repeat([0, 9], [1000 - share, share]).astype(np.int16)
        made.finish(tmp_path, run, asked, critical=critical)
    source = Source.store(tmp_path, made.manifest(tmp_path, [run], (strong, usual)))
    (table,) = tables(source, numbers=[6], compare=True).tables
    rows = {labels: [entry.text for entry in row] for labels, row in table.rows}
    cell = ("SWIN", "Cars", "4/255", "fix")
    assert rows[*cell, name][3:6] == ["31.90", "31.90", "+0.00"]
    assert rows[*cell, "AutoAttack-10"][3:6] == ["29.90", "29.90", "+0.00"]
    assert rows["SWIN", "Cars", "8/255", "fix", "APGD"][4] == "3.20" and len(rows) == 16


def test_every_variant_is_compared(tmp_path: Path) -> None:
    runs = [made.config(backbone="swin", schedule="fix", optim={"lr": lr}) for lr in (1e-3, 1e-4)]
    for run, share in zip(runs, (602, 500), strict=True):
        critical = np.repeat([0, 9], [1000 - share, share]).astype(np.int16)
        made.finish(tmp_path, run, critical=critical)
    source = Source.store(tmp_path, made.manifest(tmp_path, runs))
    (table,) = tables(source, numbers=[1], compare=True).tables
    found = {labels[4]: entries[2].text for labels, entries in table.rows if labels[4]}
    assert found == {"optim.lr=0.001": "+0.00", "optim.lr=0.0001": "-10.20"}
