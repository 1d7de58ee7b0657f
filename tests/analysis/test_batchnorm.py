"""Numbers of runs whose BatchNorm was over other numbers of images say so in every output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import analysis_store as made
import pytest
from report_page import written

from analysis.command import Source, explain, provenance
from analysis.command import tables as write
from core.store.folders import Store
from core.store.json_files import read_json, write_json

SIGN = "\N{SECTION SIGN}"
NOTE = "BatchNorm over other numbers of images than in comparable runs, or over changing ones: "


def store(root: Path, changed: dict[tuple[str, str], list[int]]) -> list[dict[str, Any]]:
    """Finished runs of one model, over 128 images but for some; changed: (dataset, setting)."""
    runs = made.grid(backbones=("swin",), epsilons=("4/255",))
    for run in runs:
        made.finish(root, run)
        path = Store.at(root).run(run.id).result
        result = read_json(path)
        assert result
        result["batchnorm_images"] = changed.get((run.dataset, run.setting), [128])
        write_json(path, result)
    return made.manifest(root, runs)


@pytest.mark.parametrize("images", [[64], [128, 64]])
def test_every_output_marks_them(tmp_path: Path, images: list[int]) -> None:
    source = Source.store(tmp_path, store(tmp_path, {("cars", "fix"): images}))
    output = write(source, "markdown")
    counts = ", ".join(map(str, images))
    text = (
        f"{NOTE}SWIN/Cars/fix at 4/255 ({counts}); set batchnorm_images to keep the number constant"
    )
    assert f"batchnorm: {text}" in output.remarks
    for table in output.tables:
        for _, entries in table.rows:
            for entry in entries:
                assert entry.key
                odd = (entry.key.dataset, entry.key.setting) == ("Cars", "fix")
                assert (SIGN in entry.mark) == odd
    assert text in output.text
    told = f"BatchNorm over {' and '.join(map(str, images))} images"
    assert told in explain(source, "SWIN/Cars/fix/clean@4")
    sidecar = json.loads(json.dumps(provenance(source)))
    assert images in sidecar["batchnorm_images"].values()
    assert source.results
    page = written(source.results, tmp_path / "report")
    assert page.count(NOTE) >= 2, "among the findings, and below the table"


def test_equal_counts_and_networks_without_are_not_marked(tmp_path: Path) -> None:
    cases: dict[str, dict[tuple[str, str], list[int]]] = {"a": {}, "b": {("cars", "fix"): []}}
    for name, changed in cases.items():
        output = write(Source.store(tmp_path / name, store(tmp_path / name, changed)))
        assert not output.remarks and SIGN not in output.text
