"""W&B as a mirror of a run folder: curves and the final summary, never the only copy.

No failure of W&B stops a run; the first one is logged and recorded in attempts.jsonl. The W&B id is
the run id, so a resumed run continues the same W&B run. Offline, every attempt writes a segment
that repeats all earlier epochs, so the last attempt's is complete. Each segment records its
attempt's number, since W&B names segments by local time only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, assert_never

from core.config import ConfigError, RunConfig
from core.config.strength import Norm, in_pixels
from core.errors import first_line
from core.options import Mode
from core.store.fence import newest_attempt
from core.store.files import write_text
from core.store.folders import RunDir
from core.store.shapes import MetricsRow

PROJECT = "epsweep"
ATTEMPT = "attempt"
"""File in a segment's folder with the number of its attempt."""
SERVICE = frozenset(
    f"WANDB_{name}"
    for name in (
        *("API_KEY", "IDENTITY_TOKEN_FILE", "CREDENTIALS_FILE", "USERNAME", "USER_EMAIL"),
        *("BASE_URL", "APP_URL", "ENTITY", "ORGANIZATION", "PROJECT", "TAGS", "NOTES", "JOB_TYPE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "INSECURE_DISABLE_SSL", "_EXTRA_HTTP_HEADERS"),
        *("HTTP_TIMEOUT", "FILE_PUSHER_TIMEOUT", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"),
        "ERROR_REPORTING",
    )
)
"""Variables for W&B's address, login and labels of runs. Others are hidden from it, since they
would change a run's id or the place of its files: with WANDB_SWEEP_ID, W&B ignores the given id."""


def environment() -> dict[str, str]:
    """The environment for W&B: without WANDB_* variables other than SERVICE."""
    return {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") or k in SERVICE}


@contextmanager
def _own_environment() -> Iterator[None]:
    hidden = {name: os.environ[name] for name in os.environ.keys() - environment().keys()}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def login_problem() -> str | None:
    """Why runs cannot be uploaded, None if W&B has credentials. Contacts no server."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with _own_environment():
        import wandb  # 0.3 s; not needed for --tracking none

        try:
            known = wandb.login(prompt=False, verify=False, timeout=10)
        except Exception as error:  # a malformed key, an unreadable ~/.netrc, ...
            return f"its credentials cannot be used ({first_line(error)})"
    return None if known else "nobody is logged in; run `wandb login`, or set WANDB_API_KEY"


def is_online(mode: Mode) -> bool:
    """Whether runs are uploaded while they run. `auto` means online if W&B has credentials and
    WANDB_MODE does not say otherwise."""
    match mode:
        case "online":
            return True
        case "auto":
            wanted = os.environ.get("WANDB_MODE") or "online"
            return wanted == "online" and not login_problem()
        case "offline" | "none":
            return False
        case _:
            assert_never(mode)


class Tracker:
    """Logs one run to W&B. After a failure all methods do nothing."""

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
        """Begin or resume the W&B run of `config`; with mode 'none' a tracker that does nothing.
        on_failure: called with a line. Side effect: files under <run>/wandb."""
        tracker = cls(on_failure)
        if mode != "none":
            tracker._guarded(lambda: tracker._open(config, run, mode, group))
        return tracker

    def log(self, rows: Sequence[MetricsRow]) -> None:
        """Log the epochs that W&B does not have yet; `rows` are all epochs so far."""
        if self._run:
            self._guarded(lambda: self._log(rows))

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Set the run's final values."""
        if self._run:
            self._guarded(lambda: self._run.summary.update(dict(summary)))

    def finish(self, *, failed: bool = False) -> None:
        """Flush and close the W&B run."""
        if self._run:
            self._guarded(lambda: self._run.finish(exit_code=int(failed)))
            self._run = None

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # no failure of W&B may stop the run
            self._run = None
            self._on_failure(f"W&B failed ({first_line(error)}); the run folder has all results")

    def _open(self, config: RunConfig, run: RunDir, mode: Mode, group: str | None) -> None:
        online = is_online(mode)
        run.path.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        with _own_environment():
            self._run = _begin(config, run, online, group)
        if not online:
            write_text(Path(self._run.dir).parent / ATTEMPT, f"{newest_attempt(run.path)}\n")
        self._next_step, self._norm = self._run.step, config.norm

    def _log(self, rows: Sequence[MetricsRow]) -> None:
        for row in rows[self._next_step :]:
            self._run.log(curves(row, self._norm), step=row["epoch"])
        self._next_step = max(self._next_step, len(rows))


def _begin(config: RunConfig, run: RunDir, online: bool, group: str | None) -> Any:
    import wandb

    about = config.to_dict() | {"setting": config.setting}
    return wandb.init(**_how(config.id, run.path, online), group=group, config=about)


def _how(name: str, folder: Path, online: bool) -> dict[str, Any]:
    """Arguments with which every W&B run is started."""
    import wandb

    return {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "id": name,
        "name": name,
        "dir": str(folder),
        "mode": "online" if online else "offline",
        # An offline segment repeats every epoch: marked as resumed, it would be appended on upload
        # to the epochs that W&B has already.
        "resume": "allow" if online else None,
        # If W&B has failed on an earlier run, that is still open; do not continue it.
        "reinit": "create_new",
        "settings": wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            init_timeout=60,
            sagemaker_disable=True,  # SageMaker would choose the id
        ),
    }


def show(name: str, images: Mapping[str, Sequence[tuple[Any, str]]], folder: Path) -> str:
    """Log pictures (uint8 [H, W, 3], each with a caption) under their keys, in a separate W&B run
    called `name`, so that the W&B runs of training contain epochs only. Returns its address, or the
    command that uploads it. Raises ConfigError if W&B fails in any way."""
    online = is_online("auto")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        with _own_environment():
            import wandb

            run = wandb.init(**_how(name, folder, online), job_type="pictures")
            for key, pictures in images.items():
                run.log({key: [wandb.Image(pixels, caption=text) for pixels, text in pictures]})
            run.finish()
    except Exception as error:
        raise ConfigError(f"W&B: {first_line(error)}") from None
    return str(run.url) if online else f"wandb sync {Path(run.dir).parent}"


def curves(row: MetricsRow, norm: Norm) -> dict[str, float]:
    """One epoch's values for W&B: accuracies in [0, 1], the strength in 255ths only for l-inf."""
    in_255ths = {"train/epsilon_255": row["epsilon"] * 255}
    logged: dict[str, float] = {
        "epoch": row["epoch"],
        **(in_255ths if in_pixels(norm) else {"train/epsilon": row["epsilon"]}),
        "train/lr": row["lr"],
        "train/loss": row["train_loss"],
        "train/images_per_s": row["images_per_s"],
        "val/loss": row["val_loss"],
        "val/clean": row["val_clean_correct"] / row["val_clean_images"],
        "val/adv": row["val_adv_correct"] / row["val_adv_images"],
    }
    if row["train_clean_correct"] >= 0:
        logged["train/clean"] = row["train_clean_correct"] / row["train_images"]
    if row.get("train_adv_correct", -1) >= 0:
        logged["train/adv"] = row["train_adv_correct"] / row["train_images"]
    return logged
