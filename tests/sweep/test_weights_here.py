"""Weights where jobs look for them, and what doctor finds in local files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.config import ConfigError
from core.data import inputs
from core.store.folders import Store
from slurm.profile import Profile
from sweep.inputs import pretrained

COMMIT = "c0ffee" + "0" * 34


def profile(**fields: Any) -> Profile:
    return Profile.model_validate({"name": "p", "executor": "local", **fields})


def test_the_cache_is_that_of_the_hubs_own_client(tmp_path: Path) -> None:
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for variables in (
        {},
        {"XDG_CACHE_HOME": str(tmp_path / "xdg")},
        {"HF_HOME": str(tmp_path / "home")},
        {"HF_HOME": str(tmp_path / "home"), "HUGGINGFACE_HUB_CACHE": str(tmp_path / "old")},
        {"HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "hub")},
    ):
        hidden = ("HF_", "XDG_", "HUGGINGFACE_")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | variables
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
        assert str(inputs.hub_cache(environ)) == said.stdout.strip(), variables


def test_a_profile_says_where_its_jobs_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    there = profile(env={"HF_HOME": "$SCRATCH/hf"})
    assert pretrained.hub_of(there) == tmp_path / "hf" / "hub"
    assert pretrained.required_hub(there) is None, "local runs may download"
    offline = profile(env={"HF_HOME": "$SCRATCH/hf", "HF_HUB_OFFLINE": 1})
    assert pretrained.required_hub(offline) == tmp_path / "hf" / "hub"
    cluster = profile(executor="slurm", slurm={"timeout_min": 60}, env={"HF_HOME": "$SCRATCH/hf"})
    assert pretrained.required_hub(cluster) == tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pretrained.required_hub(there) is not None
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(ConfigError, match="a variable in it is not set here"):
        pretrained.hub_of(cluster)


def test_a_half_downloaded_repository_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "models--timm--x"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "0.incomplete").write_text("x")
    assert inputs.cached_weights("timm/x", tmp_path) is None
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    assert inputs.cached_weights("timm/x", tmp_path) is None
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/gone")
    assert inputs.cached_weights("timm/x", tmp_path) is None
    (folder / "blobs" / "gone").write_text("x")
    assert inputs.cached_weights("timm/x", tmp_path) == snapshot / "model.safetensors"


@pytest.mark.slow
def test_doctor_compares_the_names_in_local_checkpoints(
    store: Store, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    """A file that is there and holds other names would end the run on its node."""
    import tiny
    import torch

    from core.model import network

    store.weights.mkdir(parents=True)
    own = network.build(tiny.config(), 5, store).net.state_dict()
    torch.save(own, store.weights / "own.pt")
    torch.save({f"other.{i}": torch.zeros(2) for i in range(9)}, store.weights / "foreign.pt")
    path = tmp_path / "checkpoints.yaml"
    text = "name: checkpoints\nbase: {backbone: test_vit, dataset: fake, image_size: 16}\n"
    for names, code in (("[own.pt]", 0), ("[own.pt, foreign.pt]", 1)):
        path.write_text(f"{text}grid: {{weights: {names}}}\n")
        found = call("doctor", str(path), "--json")
        checks = [check for check in json.loads(found[1]) if check["name"] == "weights"]
        assert found[0] == code and len(checks) == 1, found
        assert checks[0]["verdict"] == ("fail" if code else "ok")
    (line,) = checks[0]["detail"].splitlines()
    assert str(store.weights / "foreign.pt") in line
