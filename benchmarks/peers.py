"""APGD by other libraries, timed in the same process as ours.

They are installed once, into a separate folder in the user's cache. This environment's packages
come first, so peers use its torch; torchattacks is installed without its outdated dependencies.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import sysconfig
import venv
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

PEERS = {
    "torchattacks": ("torchattacks", ["--no-deps", "torchattacks==3.5.1"]),
    "ART": ("art", ["adversarial-robustness-toolbox==1.20.1"]),
    "foolbox": ("foolbox", ["foolbox==3.3.4"]),
    "pyautoattack": ("pyautoattack", ["pyautoattack==0.2.0"]),
    "adv-lib": ("adv_lib", ["--no-deps", "adv-lib==0.2.8"]),
}
"""Name -> module, arguments of pip."""

Attack = Callable[[], Tensor]


def folder() -> Path:
    """The folder in which the peers are installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "epsweep" / f"peers-{sysconfig.get_python_version()}"


def install() -> list[str]:
    """Make the peers importable; returns a line for each that could not be installed."""
    place = folder()
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    theirs = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    # With this, pip finds the packages of this environment and does not install them again.
    (theirs / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    sys.path.append(str(theirs))
    problems = []
    for name, (module, asked) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *asked]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            importlib.invalidate_caches()
            if done.returncode:
                reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
                problems.append(f"{name} is not compared, it could not be installed: {reason}")
    # adv-lib imports visdom, which it needs only for plots.
    sys.modules.setdefault("visdom", ModuleType("visdom")).__dict__.setdefault("Visdom", object)
    return problems


def attack(
    name: str, model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int
) -> Attack | None:
    """A function that runs a peer's attack on images x [B, C, H, W] and returns adversarial images;
    None if the peer is not installed."""
    logging.getLogger("art").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return MAKERS[name](model, x, y, epsilon, steps)
        except ImportError:
            return None


def _torchattacks(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int) -> Attack:
    import torchattacks

    attack = torchattacks.APGD(model, eps=epsilon, steps=steps, n_restarts=1)
    return lambda: attack(x, y)


def _pyautoattack(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int) -> Attack:
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(
        model, n_iter=steps, eps=epsilon, n_restarts=1, seed=0, device="cpu", loss="ce"
    )
    return lambda: attack.perturb(x, y)


def _art(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int) -> Attack:
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=model(x[:1]).shape[1],
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = AutoProjectedGradientDescent(
        classifier,
        eps=epsilon,
        eps_step=2 * epsilon,
        max_iter=steps,
        nb_random_init=1,
        batch_size=len(x),
        loss_type="cross_entropy",
        verbose=False,
    )
    images, labels = x.numpy(), y.numpy()
    return lambda: torch.from_numpy(attack.generate(images, labels))


def _foolbox(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int) -> Attack:
    import foolbox

    wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=steps, random_start=True)

    def run() -> Tensor:
        found: Tensor = attack(wrapped, x, y, epsilons=epsilon)[1]
        return found

    return run


MAKERS = {
    "torchattacks": _torchattacks,
    "pyautoattack": _pyautoattack,
    "ART": _art,
    "foolbox PGD": _foolbox,
}
