"""Converts released checkpoints to safetensors without running any code that they contain.

`python -m core.model.conversion FILE TO` reads FILE in a separate process, with an unpickler that
knows tensors, numbers and containers; every other object is replaced by one that does nothing, and
its name is reported. The result is a plain state dict: prefixes that wrappers add are removed, and
normalisation constants and copies of the model inside an attacker are left out.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from core.config import ConfigError
from core.errors import beginning, first_line
from core.model.pretrained import CONSTANTS, tensors_in
from core.store.files import write_atomic

WRAPPERS = ("state_dict", "model", "module", "base_model", "_orig_mod")
"""Attributes in which training code wraps a network."""
DROPPED = {"attacker", *CONSTANTS}
"""Parts of names to leave out: the robustness library saves a second copy of the model inside its
attacker."""
KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset, complex)},
    **{
        ("torch._utils", name): getattr(torch._utils, name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    },
}


class _Inert(type):
    """Accepts everything that an unpickler does to an object, and does nothing."""

    def __call__(cls, *_: object, **__: object) -> Any:
        return cls

    def ignore(cls, *_: object) -> None: ...

    __setstate__ = __setitem__ = append = extend = add = ignore


class LeftOut(metaclass=_Inert):
    """Stands in for an object that is not a tensor, number or container."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return cls


class Reader(pickle.Unpickler):
    """An unpickler that imports nothing a file asks for. left_out: names of replaced objects."""

    left_out: set[str]

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        found = KNOWN.get((module, name))
        if (
            found is None
            and module == "torch"
            and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            found = getattr(torch, name)
        if found is None:
            self.left_out.add(f"{module}.{name}")
        return LeftOut if found is None else found


def read(file: Path) -> tuple[Any, set[str]]:
    """The content of a .pt or .pth file, on the CPU, and the names of objects left out. Raises
    ConfigError if it cannot be read."""
    named: set[str] = set()

    class Noting(Reader):
        left_out = named

    def load(source: Any, **how: Any) -> Any:
        return Noting(source, **how).load()

    pickles = SimpleNamespace(__name__="tensors", Unpickler=Noting, load=load)
    os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    raise ConfigError(
                        f"{file}: a TorchScript program, expected a file written by torch.save"
                    )
        content = torch.load(file, map_location="cpu", pickle_module=pickles, weights_only=False)
    except ConfigError:
        raise
    except Exception as error:  # torch raises many types for a damaged file
        what = f"{beginning(file)}; {first_line(error)}"
        raise ConfigError(f"{file}: not a readable checkpoint ({what})") from None
    return content, named


def state_of(content: Any) -> dict[str, Tensor]:
    """All tensors that may be weights, by their names without wrappers."""
    found: dict[str, Tensor] = {}
    for path, tensors in tensors_in(content, ()):
        for name, tensor in tensors.items():
            parts = [*path, *name.split(".")]
            if not DROPPED & {*parts}:
                found[".".join(parts)] = tensor
    while prefix := _wrapper(found):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    # timm's first releases named squeeze-and-excitation modules se_, later ones se_module.
    return {re.sub(r"(^|\.)se_(?!module\.)", r"\1se_module.", n): t for n, t in found.items()}


def _wrapper(names: Iterable[str]) -> str | None:
    """The common first part of all names if it is one of WRAPPERS, as 'module.'; else None."""
    heads = {name.partition(".")[0] for name in names}
    head = heads.pop() if len(heads) == 1 else ""
    return f"{head}." if head in WRAPPERS else None


def convert(file: Path, to: Path) -> dict[str, Any]:
    """Write the weights of `file` to `to`; returns the counts of 'tensors' and 'numbers', and what
    was 'left_out'. Raises ConfigError."""
    from safetensors.torch import save

    content, left_out = read(file)
    state = {n: t.detach().clone().contiguous() for n, t in state_of(content).items()}
    if not state:
        others = f"; it holds {_some(left_out)}" if left_out else ""
        raise ConfigError(f"{file}: expected a state dict, found no named tensors{others}")
    data = save(state)
    write_atomic(to, lambda out: out.write(data))
    numbers = sum(tensor.numel() for tensor in state.values())
    return {"tensors": len(state), "numbers": numbers, "left_out": _some(left_out)}


def _some(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


if __name__ == "__main__":
    try:
        print(json.dumps(convert(Path(sys.argv[1]), Path(sys.argv[2]))))
    except (ConfigError, OSError) as error:
        sys.exit(first_line(error))
