"""W&B as a mirror of a run folder: curves and the final summary, never the only copy.

W&B may fail in any way without stopping a run; the first failure is said once and kept in
attempts.jsonl. The W&B id is the run id, so a resumed run goes on as the same W&B run. Offline,
every attempt leaves a segment that repeats the epochs before it: the newest one is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from core.config import RunConfig
from core.records import MetricsRow
from core.rundir import RunDir

Mode = Literal["auto", "online", "offline", "none"]
PROJECT = "epsweep"


class Tracker:
    """Logs one run; every method is safe to call after a failure and then does nothing."""

    def __init__(self, on_failure: Callable[[str], None]) -> None:
        self._on_failure = on_failure
        self._run: Any = None
        self._next_step = 0

    @classmethod
    def start(
        cls,
        config: RunConfig,
        run: RunDir,
        *,
        mode: Mode,
        group: str | None,
        on_failure: Callable[[str], None],
    ) -> Tracker:
        """Begin or resume the W&B run of `config`. `auto` is online where a login exists, else
        offline. Side effect: files under <run>/wandb."""
        tracker = cls(on_failure)
        if mode != "none":
            tracker._guarded(lambda: tracker._open(config, run, mode, group))
        return tracker

    def log(self, rows: Sequence[MetricsRow]) -> None:
        """Log the epochs W&B does not have yet; `rows` are all epochs so far."""
        if self._run:
            self._guarded(lambda: self._log(rows))

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Set final values of the run."""
        if self._run:
            self._guarded(lambda: self._run.summary.update(dict(summary)))

    def finish(self, *, failed: bool = False) -> None:
        """Flush and close."""
        if self._run:
            self._guarded(lambda: self._run.finish(exit_code=int(failed)))
            self._run = None

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # whatever W&B does must not reach the run
            self._run = None
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self._on_failure(f"W&B stopped ({reason[0]}); the run folder keeps everything")

    def _open(self, config: RunConfig, run: RunDir, mode: Mode, group: str | None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # 0.3 s; not needed for --tracking none

        online = mode == "online" or (
            mode == "auto" and wandb.login(prompt=False, verify=False, timeout=10)
        )
        run.path.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=config.id,
            name=config.id,
            group=group,
            config=config.to_dict() | {"setting": config.setting},
            dir=str(run.path),
            mode="online" if online else "offline",
            # A segment repeats every epoch: as a "resumed" one, it would be appended on upload to
            # what W&B has of the run, with steps of its own.
            resume="allow" if online else None,
            # A run that W&B failed on is still open; this one must not become a part of it.
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, init_timeout=60
            ),
        )
        self._next_step = self._run.step

    def _log(self, rows: Sequence[MetricsRow]) -> None:
        for row in rows[self._next_step :]:
            self._run.log(curves(row), step=row["epoch"])
        self._next_step = max(self._next_step, len(rows))


def curves(row: MetricsRow) -> dict[str, float]:
    """One epoch as W&B sees it: accuracies in [0, 1]."""
    logged: dict[str, float] = {
        "epoch": row["epoch"],
        "train/epsilon_255": row["epsilon"] * 255,
        "train/lr": row["lr"],
        "train/loss": row["train_loss"],
        "train/images_per_s": row["images_per_s"],
        "val/loss": row["val_loss"],
        "val/clean": row["val_clean_correct"] / row["val_clean_images"],
        "val/adv": row["val_adv_correct"] / row["val_adv_images"],
    }
    if row["train_clean_correct"] >= 0:
        logged["train/clean"] = row["train_clean_correct"] / row["train_images"]
    return logged
