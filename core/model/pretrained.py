"""Loads a backbone's weights from a checkpoint file, however it was saved.

Every dict in the file and every prefix (module., model., _orig_mod., backbone., ...) is searched
for tensors with all names and shapes of the backbone; timm's converters translate names of older
releases. Each such place is a candidate, named by its path: 'state_dict_ema', 'model.module'.
Candidates with equal values count as one. If several differ, averaged weights are preferred to the
plain ones beside them, under the names that timm and our own checkpoints use; otherwise the user
has to choose: `weights: file.pt#NAME`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.config import ConfigError
from core.errors import beginning, first_line
from core.model.lite_names import rename_lite
from core.model.trainable import heads_of

State = dict[str, Tensor]
AVERAGED = {"state_dict_ema": "state_dict", "model_ema": "model", "average": "model"}
"""Averaged weights -> the plain ones they are preferred to, as timm.models.load_state_dict does by
default (use_ema) and as runs do with their own average."""
CONSTANTS = ("normalize", "normalizer")
"""Modules in which robust models store mean and standard deviation of the input; ignored if the
network has none, since the registry defines ours."""
STATISTICS = ("mu", "sigma", "mean", "std")
"""Buffers in which others, as in RobustBench, store them, often absent from the file: the network
keeps those that it is made with, and those that it has no place for are ignored."""
COUNTER = "num_batches_tracked"
"""A buffer of BatchNorm that PyTorch before 0.4.1 and converted checkpoints lack; results do not
depend on it."""
PARTIAL = 0.25
"""A prefix is considered if at least this share of the backbone's names is found under it."""


@dataclass(frozen=True)
class Candidate:
    """Tensors from one place in a file, by the backbone's names and without the head. misfits: kind
    of mismatch -> names."""

    name: str
    state: State
    misfits: dict[str, list[str]]

    @property
    def fits(self) -> bool:
        return not any(self.misfits.values())


def load_weights(net: Any, file: Path, pick: str | None = None, *, head: bool = False) -> str:
    """Load a network's weights except its head from `file`; returns a line for the log.

    pick: which candidate to take, by its name or by consecutive parts of it. head: load the head,
    too. Raises ConfigError if the file is not a checkpoint, nothing in it fits, several different
    candidates fit, or a tensor is not finite.
    """
    heads = () if head else heads_of(net)
    own = {k: v for k, v in net.state_dict().items() if not k.startswith(heads)}
    found = list(_candidates(read_checkpoint(file), own, heads, net))
    if not found:
        raise ConfigError(f"{file}: expected a state dict (name -> tensor)")
    if pick is not None:
        known, found = found, [c for c in found if _is_called(c.name, pick)]
        if not found:
            raise ConfigError(f"{file}#{pick}: no such weights in it (it has: {_names(known)})")
    fitting = [candidate for candidate in found if candidate.fits]
    if not fitting:
        raise ConfigError(f"{file}: does not fit {type(net).__name__}: {_nearest(found, own)}")
    chosen = _choose(fitting, file)
    for name, tensor in chosen.state.items():
        if not tensor.isfinite().all():
            raise ConfigError(f"{file}: tensor '{name}' has NaN or infinite values")
    net.load_state_dict(chosen.state, strict=False)
    others = [candidate for candidate in fitting if candidate is not chosen]
    also = f"; it also has: {_names(others)} (to choose: {file.name}#NAME)" if others else ""
    part = "network, with its head," if head else "backbone"
    made = [name for name in _constants(net) if name in own and name not in chosen.state]
    kept = f"; not in the file, and kept as made: {', '.join(made)}" if made else ""
    return (
        f"weights: {len(chosen.state)} of {len(own)} tensors of the {part} from {file}, "
        f"{_names([chosen])}{kept}{also}"
    )


def read_checkpoint(file: Path) -> Any:
    """The content of a .pt, .pth or .safetensors file, on the CPU. Raises ConfigError if it is
    damaged or has more than tensors and plain data; that includes argparse.Namespace, which timm's
    training script and many others save with the weights."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ConfigError(f"{file}: not a readable checkpoint ({_why(file, error)})") from None


def _why(file: Path, error: Exception) -> str:
    """Why a file cannot be read, in place of torch's message, which suggests weights_only=False:
    that would run code from the file."""
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]+)", text)
    if named or "TorchScript" in text:
        what = f"the Python object {named[1]}" if named else "a TorchScript program"
        return (
            f"it holds {what}, and reading it could run code; where it was made, save only the "
            "tensors: torch.save(model.state_dict(), 'weights.pt')"
        )
    if "Weights only load failed" in text:
        return f"{beginning(file)}; expected a file of torch.save or .safetensors"
    return f"damaged or truncated: {beginning(file)}; {first_line(error)}"


def _candidates(content: Any, own: State, heads: tuple[str, ...], net: Any) -> Iterator[Candidate]:
    """The candidates that fit; if none does, all that were tried."""
    names = {name for name in own if not name.endswith(COUNTER)}
    tried = []
    for path, tensors in tensors_in(content, ()):
        counts = _prefixes(tensors, names)
        likely = [prefix for prefix, count in counts.items() if count >= PARTIAL * len(names)]
        for prefix in likely or dict.fromkeys(("", _shared(tensors))):
            name = ".".join(path) + "." * bool(path and prefix) + prefix.removesuffix(".")
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            tried.append(_fitted(name, state, own, heads, net))
    yield from [candidate for candidate in tried if candidate.fits] or tried


def _fitted(name: str, state: State, own: State, heads: tuple[str, ...], net: Any) -> Candidate:
    """A candidate from these tensors: unchanged, or converted to timm's names if that fits."""
    attempts = []
    for convert in (dict, lambda plain: _converted(plain, net), lambda p: rename_lite(p, net)):
        given = {k: v for k, v in convert(state).items() if not k.startswith(heads)}
        given = {k: v for k, v in given.items() if k in own or not _is_constant(k)}
        attempts.append(Candidate(name, given, _misfits(own, given, {*_constants(net)})))
        if attempts[-1].fits:
            return attempts[-1]
    return attempts[0]


def tensors_in(content: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], State]]:
    """Yields (path, tensors by name) for every dict with tensors in a checkpoint, at any depth."""
    if not isinstance(content, dict):
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for key, value in named.items():
        yield from tensors_in(value, (*path, key))


def _prefixes(tensors: State, names: set[str]) -> Counter[str]:
    """Prefix -> number of `names` found under it."""
    found = Counter[str]()
    for key in tensors:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                found["".join(f"{part}." for part in parts[:start])] += 1
    return found


def _shared(tensors: State) -> str:
    """The longest prefix of whole parts that all names share, such as 'module.'."""
    folders = ["/" + key.replace(".", "/").rpartition("/")[0] for key in tensors]
    common = os.path.commonpath(folders).strip("/").replace("/", ".")
    return f"{common}." if common else ""


def _converted(state: State, net: Any) -> State:
    """The tensors under the current names of timm's architecture, by timm's conversion rules."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        converted: State = convert(dict(state), net) if convert else state
    except Exception:  # converters raise various errors for names that they do not know
        return state
    return converted


def _is_constant(name: str) -> bool:
    """Whether a tensor is of the input's normalisation."""
    return name.partition(".")[0] in CONSTANTS or name.rpartition(".")[2] in STATISTICS


def _constants(net: Any) -> list[str]:
    return [name for name, _ in net.named_buffers() if _is_constant(name)]


def _misfits(own: State, given: State, dispensable: set[str]) -> dict[str, list[str]]:
    needed = [k for k in own if k not in dispensable and not k.endswith(COUNTER)]
    return {
        "missing": [k for k in needed if k not in given],
        "unexpected": [k for k in given if k not in own],
        "of another shape": [k for k in own if k in given and own[k].shape != given[k].shape],
    }


def _choose(fitting: list[Candidate], file: Path) -> Candidate:
    """The candidate to load. Raises ConfigError if several differ and no convention decides."""
    distinct: list[Candidate] = []
    for candidate in sorted(fitting, key=lambda c: c.name.count(".")):
        if not any(_are_equal(candidate.state, other.state) for other in distinct):
            distinct.append(candidate)
    # The robustness library saves a second copy of the model inside the attacker it trains with.
    kept = [c for c in distinct if "attacker" not in c.name.split(".")] or distinct
    lost = {AVERAGED.get(_first(candidate)) for candidate in kept}
    kept = [candidate for candidate in kept if _first(candidate) not in lost]
    if len(kept) > 1:
        raise ConfigError(
            f"{file}: several weights in it fit and differ: {_names(kept)}; "
            f"choose one, such as weights: {file}#{kept[0].name or '.'}"
        )
    return kept[0]


def _first(candidate: Candidate) -> str:
    return candidate.name.partition(".")[0]


def _are_equal(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _is_called(name: str, pick: str) -> bool:
    """Whether `pick` is a candidate's name or consecutive parts of it; '.' means the top level."""
    return pick == (name or ".") or f".{pick}." in f".{name}."


def _names(candidates: list[Candidate]) -> str:
    return ", ".join(f"'{candidate.name or '.'}'" for candidate in candidates) or "none"


def _nearest(found: list[Candidate], own: State) -> str:
    """Describes what the best candidate lacks."""
    best = min(found, key=lambda candidate: len(candidate.misfits["missing"]))
    matched = sum(name in best.state for name in own)
    parts = [f"{_some(keys)} {kind}" for kind, keys in best.misfits.items() if keys]
    wrong = best.misfits["of another shape"]
    if wrong:
        given, expected = list(best.state[wrong[0]].shape), list(own[wrong[0]].shape)
        parts[-1] += f" ({given} for {expected})"
    place = f" in '{best.name}'" if best.name else ""
    return f"{matched} of {len(own)} names match{place}; {'; '.join(parts)}"


def _some(keys: list[str]) -> str:
    more = f" (+{len(keys) - 4} more)" if len(keys) > 4 else ""
    return ", ".join(keys[:4]) + more
