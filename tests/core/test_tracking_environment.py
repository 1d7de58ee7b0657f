"""The user's environment and W&B: what of it reaches W&B, and what must not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import wandb
from wandb_file import segments

from core.store import tracking
from core.store.folders import Store

HOSTILE = {
    "WANDB_SWEEP_ID": "s",
    "WANDB_RUN_ID": "other",
    "WANDB_NAME": "other",
    "WANDB_DIR": "/nowhere",
    "WANDB_RESUME": "must",
    "WANDB_RUN_GROUP": "other",
    "WANDB_MODE": "disabled",
    "WANDB_USE_DOT_WANDB": "true",
    "WANDB_X_SKIP_TRANSACTION_LOG": "true",
    "WANDB_LAUNCH": "true",
    "WANDB_CONFIG": "{",
    "WANDB__SKIP_TRANSACTION_LOG": "true",
    "WANDB_START_METHOD": "x",
    "TRAINING_JOB_NAME": "job",
    "CURRENT_HOST": "host",
}
"""Variables under each of which W&B would change the id, the group or the place of the run."""
TRACK = """
import sys
from pathlib import Path
import tiny
from core.store.folders import Store
from core.store.tracking import Tracker
config = tiny.config()
said = []
run = Store(Path(sys.argv[1])).run(config.id)
Tracker.start(config, run, mode="offline", group="mine", on_failure=said.append).finish()
assert not said, said
"""


def test_the_environment_changes_neither_id_nor_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_PROJECT", "asked")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    subprocess.run([sys.executable, "-c", TRACK, str(tmp_path)], check=True, cwd=tmp_path)
    folder = Store(tmp_path).run(tiny.config().id)
    (segment,) = segments(folder)
    assert (segment["id"], segment["group"]) == (folder.id, "mine")
    assert segment["project"] == "asked", "what says where W&B is stays"


def test_the_environment_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    before = dict(os.environ)
    assert "WANDB_SWEEP_ID" not in tracking.environment()
    with tracking._own_environment():
        assert "WANDB_SWEEP_ID" not in os.environ
    assert dict(os.environ) == before


@pytest.mark.parametrize("mode", ["offline", "disabled", "dryrun"])
def test_auto_follows_the_mode_of_the_user(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    assert tracking.is_online("auto")
    monkeypatch.setenv("WANDB_MODE", mode)
    assert not tracking.is_online("auto") and tracking.is_online("online")
