"""The functions of `epsweep` for runs, results and launches, built on core, sweep and analysis.

Common arguments: `run` is a run's id or the beginning of one; `root` is the store, by default
$EPSWEEP_ROOT or ./outputs; `grid` is a grid file, the name of a shipped grid, or a mapping. In the
examples, `grid` and `run` are a small grid and one of its runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from core.config import ConfigError, RunConfig
from core.errors import first_line
from core.store.flags import read_flags
from core.store.folders import RunDir, Store
from core.store.json_files import read_json
from sweep.state import run_logs

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

    from core.model.network import Classifier
    from sweep.grid import Grid

Root = str | Path | None
AnyGrid = str | Path | Mapping[str, Any]


def load(root: Root = None, grid: AnyGrid | None = None) -> pd.DataFrame:
    """The results of a store as a tidy frame, with a row per (run, evaluation, eps_g, metric).

    grid: only runs of this grid, with rows for missing ones, too. docs/python.md lists the columns.
    Accuracies are in percent, or NaN if not measured; the columns state and reason say why. Raises
    ConfigError if the store has no runs.

    >>> frame = epsweep.load(grid=grid)
    >>> expected = frame[frame.metric == "expected"].groupby("setting").value.mean()
    """
    from analysis import load as load_frame

    return load_frame(_store(root).root, _rows(grid, root))


def curves(root: Root = None, grid: AnyGrid | None = None) -> pd.DataFrame:
    """Accuracy at every strength of every attack evaluation, a row each. Columns: those of the run,
    epsilon (in 255ths, in any norm), correct, n and accuracy (percent). Raises as `load` does.

    >>> epsweep.curves().pivot_table("accuracy", "epsilon", "setting").index.tolist()
    [0.0, 1.0, 2.0]
    """
    from analysis import Results

    return Results(_store(root).root, _rows(grid, root)).curves


def epochs(root: Root = None, grid: AnyGrid | None = None) -> pd.DataFrame:
    """The metrics of training, a row per run and epoch. Columns: those of the run, epsilon in
    [0, 1], learning rate, losses, val_clean and val_adv in percent, seconds, images per second.
    Raises as `load` does.

    >>> best = epsweep.epochs().groupby("run_id").val_adv.max()  # percent
    """
    from analysis import Results

    return Results(_store(root).root, _rows(grid, root)).epochs


def flags(run: str, evaluation: str | None = None, root: Root = None) -> pd.DataFrame:
    """The result of an evaluation for each image, a row each in the order of the split.

    evaluation: its id or the beginning of one; may be omitted if the run has only one. Columns:
    index in the split, label, and those of the kind of evaluation. For attacks: critical (index of
    the smallest strength that breaks the image), taken (the class it is taken for from there on,
    its label if none does, -1 if unknown) and epsilon (that strength as text, '' if none does).
    For corruptions: one per type, 1 right, 0 wrong, -1 not tried.
    Raises ConfigError if no run or evaluation matches, or several do, and DamagedError.

    >>> images = epsweep.flags(run, "apgd")
    >>> kept = images[images.epsilon == ""]  # classified correctly up to the largest strength
    """
    import pandas as pd

    from core.data.corruptions import CORRUPTIONS

    folder = _folder(run, root)
    name = _chosen(evaluation, sorted(folder.evals_on_disk()), folder)
    found, record = read_flags(folder.eval_flags(name)), read_json(folder.eval_json(name))
    if found is None or record is None:
        raise ConfigError(f"{folder.id}: evaluation {name} was deleted meanwhile")
    columns: dict[str, Any] = {key: found.pop(key) for key in ("index", "label")}
    for key, values in found.items():
        if values.ndim == 1:
            columns[key] = values
        else:
            parts = values.reshape(len(values), -1).T
            names = [*CORRUPTIONS] if key == "right" else [f"{key}_{i}" for i in range(len(parts))]
            columns |= zip(names, parts, strict=True)
    if "critical" in found and "epsilons" in record["config"]:
        strengths = [*map(str, record["config"]["epsilons"]), ""]
        columns["epsilon"] = [strengths[level] for level in found["critical"]]
    return pd.DataFrame(columns).sort_values("index", ignore_index=True)


def load_model(run: str, root: Root = None, *, device: torch.device | str = "cpu") -> Classifier:
    """The trained network of a run, in evaluation mode on `device`.

    It maps pixels [B, 3, H, W] in [0, 1], of the run's `image_size`, to logits [B, classes], with
    normalisation inside. If the run has a moving average of the weights, that is used. Reading the
    checkpoint runs no code from it (weights_only).
    Raises ConfigError if no run or several match, the training has not ended, or there is no such
    device, and DamagedError.

    >>> images, labels = epsweep.load_images(run, count=4)
    >>> epsweep.load_model(run)(images).shape  # the task has 10 classes
    torch.Size([4, 10])
    """
    import torch

    from core.run.trained import load_trained

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown to torch, or not on this machine
        raise ConfigError(f"device: {device}: {first_line(error)}") from None
    return load_trained(_folder(run, root), _store(root), device)


def load_images(
    run: str, split: str = "test", count: int | None = None, root: Root = None
) -> tuple[Tensor, Tensor]:
    """Images and labels of a run's dataset: float32 [N, 3, H, W] in [0, 1], and int64 [N].

    split: 'train' (without augmentation), 'val' or 'test'. count: only the first images, which are
    a fair sample. Raises ConfigError if split or count are invalid or the dataset is not on this
    machine.

    >>> images, labels = epsweep.load_images(run, "val", count=4)
    >>> images.shape, labels.shape
    (torch.Size([4, 3, 16, 16]), torch.Size([4]))
    """
    import torch

    from core.attack.examples import check_count
    from core.data import splits
    from core.datasets.own import SPLITS

    if count is not None:
        check_count("count", count)
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    folder = _folder(run, root)
    config = RunConfig.parse(folder.read_config(), where=str(folder.config))
    part = getattr(splits.load(config, _store(root)), split).first(count)
    images, labels = part.batch(torch.arange(len(part)), torch.device("cpu"))
    return images, labels


def export(run: str, to: str | Path, root: Root = None) -> dict[str, Any]:
    """Write the trained network of a run to a new folder, for use without epsweep, as
    `sweep export` does; returns the content of its card.json. Raises as `load_model` does, and
    ConfigError if the folder is not empty.

    >>> card = epsweep.export(run, "exported")
    >>> card["load"]  # what another program runs; card["pixels"] says how it normalises
    "timm.create_model('local-dir:exported', pretrained=True)"
    """
    from core.run import trained

    if not isinstance(to, str | Path):
        raise ConfigError(f"to: expected a folder, got {to!r}")
    return trained.export(_folder(run, root), _store(root), Path(to))


def launch(
    grid: AnyGrid,
    profile: str = "local",
    root: Root = None,
    *,
    only: str | Sequence[str] = (),
    wait: bool = True,
    tracking: str | None = None,
    quiet: bool = False,
) -> dict[str, str]:
    """Run whatever a grid still lacks, as `sweep launch` does; returns run id -> state.

    grid: a file, the name of a shipped grid, or the content of a grid file as a mapping. profile: a
    shipped one ('debug' runs in this process, 'local' in workers on this machine) or a file. only:
    a filter such as 'backbone=swin', or several. wait: wait until runs on this machine have ended;
    on a cluster, return as soon as they are queued. tracking: 'none', 'offline', 'online' or 'auto'
    for W&B; None for the profile's.

    A script that other processes import (multiprocessing, spawn) must call this under
    `if __name__ == "__main__":`. Raises ConfigError and ClusterError; on Ctrl-C, StoppedError once
    the workers have saved their runs.

    >>> states = epsweep.launch(grid, "debug", tracking="none", quiet=True)
    >>> {*states.values()}
    {'done'}
    """
    from rich.console import Console

    from sweep import launcher
    from sweep.tune import winners

    store, given = _store(root), _grid(grid)
    loaded = winners.apply(given, store)
    where = launcher.load_profile(profile, tracking=tracking)
    filters, console = _filters(only), Console(quiet=quiet, markup=False, emoji=False)
    launcher.launch(loaded, store, where, only=filters, wait=wait, console=console)
    return _states(loaded, store, filters)


def status(grid: AnyGrid, root: Root = None, *, only: str | Sequence[str] = ()) -> dict[str, str]:
    """The states of a grid's runs: run id -> 'new', 'pending', 'running', 'done', 'failed', ...
    (docs/troubleshooting.md has all). Changes nothing. Raises ConfigError.

    >>> [run for run, state in epsweep.status(grid).items() if state != "done"]
    []
    """
    from sweep.tune import winners

    store = _store(root)
    return _states(winners.apply(_grid(grid), store), store, _filters(only))


def _states(grid: Grid, store: Store, only: Sequence[str]) -> dict[str, str]:
    from sweep import launcher

    seen = launcher.look(grid, store, only)
    return {status.run.id: str(status.state) for status in seen.statuses}


def _grid(grid: AnyGrid) -> Grid:
    from sweep.grid import load_grid, parse_grid

    if isinstance(grid, str | Path):
        return load_grid(grid)
    if not isinstance(grid, Mapping):
        kind = type(grid).__name__
        raise ConfigError(f"grid: expected a file, the name of a grid or a mapping, got {kind}")
    try:
        text = yaml.safe_dump(dict(grid), sort_keys=False)
    except yaml.YAMLError as error:
        kind = type(error.args[-1]).__name__
        raise ConfigError(f"grid: expected numbers, text, lists and mappings, got {kind}") from None
    return parse_grid(text, Path(f"{grid.get('name', 'grid')}.yaml"))


def _rows(grid: AnyGrid | None, root: Root) -> list[dict[str, Any]] | None:
    """The manifest rows of a grid's runs; None for all runs of the store."""
    if grid is None:
        return None
    from sweep.submit.submissions import manifest_rows
    from sweep.tune import winners

    return [*manifest_rows(winners.apply(_grid(grid), _store(root)).runs)]


def _folder(run: str, root: Root) -> RunDir:
    if not isinstance(run, str):
        raise ConfigError(f"run: expected the id of a run or its beginning, got {run!r}")
    return run_logs.find(_store(root), run)


def _store(root: Root) -> Store:
    if not isinstance(root, str | Path | None):
        raise ConfigError(f"root: expected a folder, got {root!r}")
    return Store.at(root)


def _filters(only: str | Sequence[str]) -> Sequence[str]:
    return [only] if isinstance(only, str) else only


def _chosen(name: str | None, there: Sequence[str], run: RunDir) -> str:
    """The only id in `there` that is or begins with `name`. Raises ConfigError if there is none, or
    several."""
    found = [item for item in there if item.startswith(str(name or ""))]
    if name in there or len(found) == 1:
        return name if name in there else found[0]  # type: ignore[return-value]
    listed = ", ".join(there) or "none"
    raise ConfigError(
        f"evaluation: {f'{name!r} matches' if name else 'expected one of'} "
        f"{len(found)} of {run.id}: {listed}"
    )
