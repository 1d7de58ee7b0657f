"""One small run from config to result, in this process, and what its folder must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny
import yaml

from core.config import EvalConfig, RunConfig
from core.run import pipeline
from core.store import checkpoint
from core.store.claims import Claim
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, read_jsonl

CONFIG = tiny.config(schedule={"T1": 0, "T2": 2}, epochs=3)
FAST = EvalConfig.parse({"steps": 2, "epsilons": "0..8/255", "images": 12})
MORE = EvalConfig.parse({"steps": 3, "epsilons": ["0", "1/255"], "split": "val"})


def execute(
    store: Store,
    config: RunConfig,
    evals: list[EvalConfig],
    *,
    claim: Claim | None = None,
    **options: Any,
) -> dict[str, Any]:
    claim = claim or Claim.acquire(store.run(config.id))
    assert claim
    try:
        chosen = pipeline.Options(**{"tracking": "none", "images": 20} | options)
        return pipeline.execute(config, evals, store, claim, chosen)
    finally:
        claim.release("interrupted")


def flags(folder: RunDir, asked: EvalConfig) -> dict[str, Any]:
    with np.load(folder.eval_flags(asked.id)) as stored:
        return dict(stored)


def assert_keeps_its_promise(folder: RunDir) -> bool:
    """If there is a result, everything it names is there and whole. True if there is one."""
    result = read_json(folder.result)
    if result is None:
        return False
    rows = read_jsonl(folder.metrics)
    assert [row["epoch"] for row in rows] == list(range(result["epochs"]))
    state, remarks = checkpoint.load(folder)
    assert state is not None and remarks == [] and len(state["rows"]) == result["epochs"]
    for eval_id in result["evals"]:
        stored = read_json(folder.eval_json(eval_id))
        assert stored is not None and stored["id"] == eval_id
        with np.load(folder.eval_flags(eval_id)) as arrays:
            assert len(arrays["critical"]) == stored["n"]
    assert yaml.safe_load(folder.config.read_text()) and read_json(folder.env)
    return True
