"""The network of a run whose training has ended, loaded for use, and exported for other programs.

An export is a folder that timm loads (`timm.create_model("local-dir:DIR", pretrained=True)`):
model.safetensors with the weights, config.json with the architecture in timm's format, and
card.json with training data, config and evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from core.config import ConfigError, RunConfig, own_code
from core.config.datasets import entries
from core.config.registry import backbone
from core.model import lora, network
from core.model.network import Classifier
from core.store import shapes
from core.store.files import write_atomic
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, write_json

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.json"


def load_trained(run: RunDir, store: Store, device: torch.device | str = "cpu") -> Classifier:
    """The final network of a run (with averaged weights if the run has them), in evaluation mode on
    `device`: maps pixels [B, 3, H, W] in [0, 1] to logits [B, classes]. Reading the checkpoint runs
    no code from it (weights_only); pretrained weights are not needed.

    Raises ConfigError if the training has not ended or the user's own code has changed since, and
    DamagedError if the checkpoint is damaged.
    """
    return _load(run, store)[2].to(device).eval()


def _load(run: RunDir, store: Store) -> tuple[RunConfig, int, Classifier]:
    """As `network.load_final`, but refuses the user's own code if it has changed since the run."""
    RunConfig.parse(run.read_config(), where=str(run.config)).check_code()
    return network.load_final(run, store)


def export(run: RunDir, store: Store, to: Path) -> dict[str, Any]:
    """Write the final network of a run to the folder `to`, with LoRA adapters merged into the
    weights; returns its card. Raises as `load_trained`, and ConfigError if the folder is not empty.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to}: expected an empty or new folder")
    config, classes, model = _load(run, store)
    lora.remove(model.eval())
    mean, std = (part.flatten().tolist() for part in (model.mean, model.std))
    size = config.image_size
    pixels = {
        "input_size": [3, size, size],
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    weights = {name: value.contiguous() for name, value in model.net.state_dict().items()}
    card = {
        "run": run.id,
        "setting": config.setting,
        "load": _how_to_load(config, classes, to),
        "input": "RGB in [0, 1], then (pixels - mean) / std, which is not part of the weights",
        "pixels": pixels,
        "classes": classes,
        "backbone": _backbone(config, model.net),
        "data": _data(config),
        "evaluations": [*_evaluations(run)],
        "config": config.to_dict(),
        "made_with": {key: (read_json(run.env) or {}).get(key) for key in ("commit", "versions")},
    }
    to.mkdir(parents=True, exist_ok=True)
    if _is_plain(config):
        write_json(to / CONFIG, _config(model.net, classes, pixels))
    content = save(weights, metadata={"format": "pt", "run": run.id})
    write_atomic(to / WEIGHTS, lambda file: file.write(content))
    write_json(to / CARD, card)
    return card


def _is_plain(config: RunConfig) -> bool:
    """Whether the architecture is one of timm's, unmodified."""
    return not own_code.is_own(config.backbone) and not backbone(config.backbone).group_norm


def _config(net: Any, classes: int, pixels: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json, in the format that timm reads from the Hugging Face hub."""
    cfg: dict[str, Any] = net.pretrained_cfg
    kept = ("classifier", "first_conv", "fixed_input_size")
    about = {key: cfg[key] for key in kept if cfg.get(key) is not None}
    sized = {"img_size": pixels["input_size"][-1]} if cfg.get("fixed_input_size") else {}
    return {
        "architecture": cfg["architecture"],
        "num_classes": classes,
        "num_features": net.num_features,
        **({"model_args": sized} if sized else {}),
        "pretrained_cfg": {**about, **pixels, "num_classes": classes, "custom_load": False},
    }


def _how_to_load(config: RunConfig, classes: int, to: Path) -> str:
    """A Python expression that creates the network with its weights."""
    entry, file = backbone(config.backbone), str(to / WEIGHTS)
    if _is_plain(config):
        return f"timm.create_model({f'local-dir:{to}'!r}, pretrained=True)"
    if own_code.is_own(config.backbone):
        return (
            f"{config.backbone} for {classes} classes, safetensors.torch.load_model(.., {file!r})"
        )
    layer = f"lambda channels, **_: torch.nn.GroupNorm({entry.group_norm}, channels)"
    known = f"num_classes={classes}, norm_layer={layer}, checkpoint_path={file!r}"
    return f"timm.create_model({entry.timm!r}, {known})"


def _backbone(config: RunConfig, net: Any) -> dict[str, Any]:
    """The weights that training began with. licence: as stated by timm, or None."""
    entry, pretrained = backbone(config.backbone), config.weights == "pretrained"
    cfg: dict[str, Any] = getattr(net, "pretrained_cfg", None) or {}
    return {
        "name": config.backbone,
        "timm": None if own_code.is_own(config.backbone) else entry.timm,
        "weights": config.weights,
        "pretraining": entry.pretraining if pretrained else "",
        "reference": entry.reference if pretrained else "",
        "licence": cfg.get("license") if pretrained and not entry.checkpoint else None,
    }


def _data(config: RunConfig) -> dict[str, Any]:
    entry = entries().get(config.dataset)
    about = {"title": entry.title, "licence": entry.licence, "page": entry.page} if entry else {}
    return {"dataset": config.dataset, **about}


def _evaluations(run: RunDir) -> Iterator[dict[str, Any]]:
    kept = ("id", "config", "rows", "expected", "metrics", "n", "split_images")
    for name in sorted(run.evals_on_disk()):
        if record := read_json(run.eval_json(name), shapes.Evaluation):
            yield {key: record[key] for key in kept if key in record}
