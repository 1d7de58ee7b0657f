"""`sweep run CONFIG.yaml`: what is wrong with the file, and why a run does not begin."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from core.config import RunConfig
from core.store.folders import Store
from core.store.json_files import write_json

CONFIG = {"backbone": "mini_convnext", "dataset": "fake", "weights": "random", "image_size": 32}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe", ": not UTF-8 text (byte 0)"),
        (b"backbone: vit\nevals: 3", ":2: evals: expected a list of mappings, got 3"),
        (b"backbone: vit\nevals: [3]", ":2: evals: expected a list of mappings, got [3]"),
        (b"backbone: [", ":1: not valid YAML: "),
    ],
)
def test_a_bad_file_is_one_line(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]], content: bytes, told: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    code, _, err = call("run", str(path))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"{path}{told}")


def test_a_cancelled_run_says_so(
    tmp_path: Path, store: Store, call: Callable[..., tuple[int, str, str]]
) -> None:
    path, folder = tmp_path / "run.yaml", store.run(RunConfig.parse(CONFIG).id)
    path.write_text(yaml.safe_dump(CONFIG))
    write_json(folder.cancel, {})
    code, _, err = call("run", str(path))
    assert code == 2
    assert f"{folder.id}: was cancelled; `sweep retry`, or remove {folder.cancel}" in err
