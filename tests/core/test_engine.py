"""How a step calls the model: without waiting for the device, compiled or not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.errors import ConfigError
from core.machine import runtime
from core.training import compiling
from core.training.augment import draw_table
from core.training.step import Step, Threat
from slurm.profile import read_profile

WAITS = {
    "aten._local_scalar_dense.default": "a number of the device was read",
    "aten.nonzero.default": "a shape depended on the device",
    "aten.masked_select.default": "a shape depended on the device",
    "aten.lift_fresh.default": "a constant was sent to the device",
}


class Waits(TorchDispatchMode):
    """Collects the operations for which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.found += [WAITS[str(func)]] if str(func) in WAITS else []
        return func(*args, **kwargs or {})


def stepper(
    model: nn.Module | None = None, *, remarks: list[str] | None = None, **how: Any
) -> Step:
    fields = how.pop("fields", {})
    config = tiny.config(**fields)
    options: dict[str, Any] = {"device": tiny.CPU, "micro_batch": 4} | how
    said = remarks if remarks is not None else []
    return Step(config, model or tiny.net(), remark=said.append, **options)


def make(step: Step, epsilon: float = 8 / 255) -> Tensor:
    """Loss and right images of one step on ten images, in parts of four, four and two."""
    index, table = torch.arange(10), draw_table(0, 0, 10)
    step.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        threat = Threat(10, step.device, epsilon=epsilon)
        loss = step.make(tiny.noise(10), index, table, threat)
        return torch.stack([loss, threat.clean.sum()])


KINDS: dict[str, dict[str, Any]] = {
    "linf": {},
    "no attack": {"schedule": "standard"},
    "l2": {"norm": "l2", "epsilon_g": "1"},
    "l1": {"norm": "l1", "epsilon_g": "5"},
    "trades": {"objective": {"kind": "trades", "beta": 2.0}},
    "bf16": {"precision": "bf16"},
    "all else": {
        "optim": {"lr": 1e-3, "clip": 1.0, "ema": 0.9},
        "augment": {"shift": 2, "rotate": 5.0},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_never_waits_for_the_device(kind: str) -> None:
    step = stepper(fields=KINDS[kind])
    make(step)  # what is sent to the device once is sent now
    with Waits() as waits:
        make(step, 0.0 if kind == "no attack" else 8 / 255)
    assert waits.found == []


@pytest.mark.parametrize("slip", ["item", "bool", "tensor", "nonzero", "tolist"])
def test_a_slip_would_be_noticed(slip: str) -> None:
    class Slip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny.net()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x)
            if slip == "item":
                float(logits.detach().sum())
            elif slip == "bool" and logits.sum() > 0:
                return logits
            elif slip == "tensor":
                return logits + torch.tensor(1.0)
            elif slip == "nonzero":
                (logits > 0).nonzero()
            elif slip == "tolist":
                logits.argmax().tolist()
            return logits

    with Waits() as waits:
        make(stepper(Slip()))
    assert waits.found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_never_waits_for_a_gpu() -> None:
    device = torch.device("cuda")
    step = stepper(tiny.net().to(device), device=device)
    make(step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        make(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Compiling. A working inductor is tried where there is a compiler; what does not depend on it is
# tried with torch's own `eager` backend, which traces and then runs the same operations.


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Compilation without code generation; the modes that were asked for."""
    asked: list[str] = []

    def trace(model: nn.Module, mode: str) -> nn.Module:
        asked.append(mode)
        made: nn.Module = torch.compile(model, dynamic=False, backend="eager")
        return made

    monkeypatch.setattr(compiling, "_compile", trace)
    yield asked
    torch._dynamo.reset()


# torch itself warns about parts of itself when its compiler is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("kind", ["default", "cuda_graphs"])
def test_a_compiled_step_is_the_same_step(kind: compiling.Compile, traced: list[str]) -> None:
    remarks: list[str] = []
    plain, other = stepper(), stepper(compile=kind, remarks=remarks)
    before = other.model.state_dict().keys()
    assert traced == ["default" if kind == "default" else "reduce-overhead"]
    for epsilon in (0.0, 8 / 255, 8 / 255):
        assert torch.equal(make(plain, epsilon), make(other, epsilon))
    state = other.model.state_dict()
    assert before == state.keys() == plain.model.state_dict().keys()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert remarks == [] and other.network is not other.model


class Reused(nn.Module):
    """Writes its results into the same memory each time, as a CUDA graph does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.memory: dict[object, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = Through.apply(self.inner(Through.apply(x, self.memory)), self.memory)
        return logits


class Through(torch.autograd.Function):
    """The identity, whose result and gradient lie in memory that the next call writes again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, memory: dict[object, Tensor]) -> Tensor:
        ctx.memory = memory
        return kept(memory, "out", x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return kept(ctx.memory, "gradient", gradients[0]), None


def kept(memory: dict[object, Tensor], name: str, value: Tensor) -> Tensor:
    place = memory.setdefault((name, value.shape), torch.empty_like(value))
    return place.copy_(value)


@pytest.mark.parametrize("copied", [False, True])
def test_results_outlive_the_memory_of_a_graph(
    copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without the copies they would not."""
    monkeypatch.setattr(compiling, "_compile", lambda model, mode: Reused(model))
    if not copied:
        monkeypatch.setattr(compiling, "_Copied", lambda model: model)
    plain, graphs = stepper(), stepper(compile="cuda_graphs")
    pairs = [(make(plain), make(graphs)) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in pairs) is copied


@pytest.mark.parametrize("fails", ["at once", "forward", "backward"])
def test_goes_on_without_a_compiler_that_fails(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if fails == "forward" and self.calls == 3:
                raise torch._dynamo.exc.TorchDynamoException("no kernel\nfor this")
            logits: Tensor = self.inner(x)
            if fails == "backward" and self.calls == 2:
                logits.register_hook(self._fail)
            return logits

        def _fail(self, gradient: Tensor) -> None:
            raise torch._dynamo.exc.TorchDynamoException("no kernel\nfor this")

    def compile(model: nn.Module, mode: str) -> nn.Module:
        if fails == "at once":
            raise RuntimeError("no kernel\nfor this")
        return Failing(model)

    monkeypatch.setattr(compiling, "_compile", compile)
    remarks: list[str] = []
    plain, other = stepper(), stepper(compile="default", remarks=remarks)
    for _ in range(2):
        assert torch.equal(make(plain), make(other))
    assert remarks == ["compiling failed, going on without: no kernel"]
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_a_model_that_fails_is_not_the_compilers_fault(traced: list[str]) -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        make(stepper(Bad(), compile="default"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("kind", ["default", "cuda_graphs"])  # graphs only where there is a GPU
def test_inductor_makes_the_same_step_but_for_rounding(
    kind: compiling.Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    remarks: list[str] = []
    on = runtime.device()
    options: dict[str, Any] = {"micro_batch": 5, "device": on, "remarks": remarks}
    plain, other = (
        stepper(tiny.net(norm="group").to(on), compile=how, **options) for how in ("none", kind)
    )
    for epsilon in (0.0, 8 / 255, 8 / 255):
        torch.testing.assert_close(make(plain, epsilon), make(other, epsilon), rtol=1e-3, atol=1e-4)
    assert remarks == [] and other.network is not other.model
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor is tried with a missing compiler")
def test_no_compiler_on_the_node_is_one_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, str(tmp_path / "missing")))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    remarks: list[str] = []
    step = stepper(compile="default", remarks=remarks)
    assert torch.equal(make(step), make(stepper()))
    assert len(remarks) == 1 and "C++ compiler" in remarks[0], remarks
    torch._dynamo.reset()


def test_a_profile_decides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("executor: local\ncompile: cuda_graphs\n")
    assert read_profile(path).compile == "cuda_graphs"
    assert read_profile("local").compile == "none"
    path.write_text("executor: local\ncompile: true\n")
    with pytest.raises(ConfigError, match="compile: expected one of none, default"):
        read_profile(path)
