"""How a step calls the model: compiled or not, without waiting for the device, in which precision;
and how many images at once, from one run to the next."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from core import compiling, fitting, models, run, runtime
from core.augment import draw_table
from core.claims import Claim
from core.config import EvalConfig
from core.fitting import Card, Fits
from core.rundir import Store, read_json
from core.step import Step
from slurm import profile

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
        return torch.stack(step.make(tiny.noise(10), index, table, epsilon))


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
    assert profile.load(path).compile == "cuda_graphs"
    assert profile.load("local").compile == "none"
    path.write_text("executor: local\ncompile: true\n")
    with pytest.raises(profile.ProfileError, match="compile: expected one of none, default"):
        profile.load(path)


# Precision.


def test_a_bf16_run_is_judged_in_fp32(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[torch.dtype]] = {"train": set(), "evaluate": set()}
    real, phase = models.build, ["train"]

    def build(*args: Any) -> nn.Module:
        model = real(*args)
        model.register_forward_hook(lambda _, __, logits: seen[phase[0]].add(logits.dtype))
        return model

    def judging() -> Any:
        phase[0] = "evaluate"
        return runtime.judging()

    monkeypatch.setattr(models, "build", build)
    monkeypatch.setattr("core.measure.judging", judging)
    evals = [EvalConfig.parse({"steps": 2, "epsilons": "0..2/255", "images": 5})]
    execute(store, evals=evals, fields={"precision": "bf16", "epochs": 1})
    assert seen == {"train": {torch.bfloat16}, "evaluate": {torch.float32}}


def test_judging_is_fp32_whatever_is_around_it() -> None:
    model, before = nn.Linear(4, 2), torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.rand(3, 4)).dtype == torch.bfloat16
        with runtime.judging():
            assert model(torch.rand(3, 4)).dtype == torch.float32
            assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 is before


# What fits is found once.


def execute(
    store: Store,
    *,
    evals: list[EvalConfig] | None = None,
    fields: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    config = tiny.config(**fields or {})
    claim = Claim.acquire(store.run(config.id))
    assert claim
    chosen = run.Options(**{"tracking": "none", "images": 20} | options)
    try:
        run.execute(config, evals or [], store, claim, chosen)
    finally:
        claim.release("done")


class Small(nn.Module):
    """Runs out of memory where more than `room` images are trained at once."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = inner, room
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x) if self.training else 0)
        logits: Tensor = self.inner(x)
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return logits


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[Small]:
    """A GPU with room for four images; the models that were trained on it, in order."""
    made: list[Small] = []
    real = models.build

    def build(*args: Any) -> nn.Module:
        made.append(Small(real(*args), room=4))
        return made[-1]

    monkeypatch.setattr(models, "build", build)
    monkeypatch.setattr(fitting, "card", lambda device: Card("Small GPU", 4.0))
    return made


def test_a_micro_batch_that_fits_is_found_once(store: Store, small: list[Small]) -> None:
    execute(store)
    execute(store, fields={"seed": 1, "batch": 20})
    execute(store, fields={"image_size": 32})
    execute(store, fields={"seed": 2}, micro_batch=2)
    execute(store, fields={"seed": 3, "batch": 3})
    assert [model.largest for model in small] == [10, 4, 10, 2, 3]
    files = sorted((store.root / "index" / "fits").iterdir())
    contents = [read_json(file) for file in files]
    assert {(c["image_size"], c["micro_batch"]) for c in contents if c} == {(16, 4), (32, 4)}
    assert all(c and c["gpu"] == {"name": "Small GPU", "memory_gib": 4.0} for c in contents)


def test_effective_batch_and_result_do_not_depend_on_what_is_known(
    store: Store, tmp_path: Path, small: list[Small]
) -> None:
    """From the second step on the first run trains in the parts of the second."""
    fields = {"backbone": "test_resnet", "image_size": 32}
    execute(store, fields=fields)
    again = Store(tmp_path / "again")
    shutil.copytree(store.root / "index", again.root / "index")
    execute(again, fields=fields)
    one, two = (model.state_dict() for model in small)
    assert [model.largest for model in small] == [10, 4]
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_smallest_one_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "card", lambda device: Card("Small GPU", 4.0))
    fits = Fits(tiny.config(), store, tiny.CPU)
    assert fits.recall() is None
    for size, expected in ((32, 32), (64, 32), (8, 8)):
        fits.remember(size)
        assert fits.recall() == expected
    other = (
        Fits(tiny.config(precision="bf16"), store, tiny.CPU),
        Fits(tiny.config(protocol="lora", lora={"targets": ["qkv"]}), store, tiny.CPU),
        Fits(tiny.config(), store, tiny.CPU, processes=2),
        Fits(tiny.config(), store, tiny.CPU, compile="default"),
    )
    assert [one.recall() for one in other] == [None] * len(other)
    same = Fits(tiny.config(seed=4, batch=64, epsilon_g="4/255", epochs=9), store, tiny.CPU)
    assert same.recall() == 8


def test_nothing_is_kept_on_a_cpu(store: Store) -> None:
    Fits(tiny.config(), store, tiny.CPU).remember(4)
    assert not (store.root / "index").exists()


def test_a_shared_gpu_says_nothing_about_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * gib)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    for free, expected in ((58, Card("H100", 80.0)), (30, None)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d, f=free: (f * gib, 80 * gib))
        assert fitting.card(torch.device("cuda")) == expected


# The benchmarks themselves.


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["benchmarks/engine.py", "--quick", "--no-peers", "--only", "attack", "robustness"],
        ["benchmarks/gpu.py", "--quick", "--minutes", "1"],
    ],
)
def test_a_benchmark_runs_from_end_to_end(command: list[str], tmp_path: Path) -> None:
    """What it measures on a busy machine proves nothing; that it gets there does."""
    root, page = Path(__file__).parents[1], tmp_path / "page.md"
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *command, "--out", str(page)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1) and not done.stderr.strip(), done.stderr
    text = page.read_text("utf-8")
    assert "## Gates" in text and "commit:" in text and "load average" in text
    assert ("MISS" in text) is (done.returncode == 1)


def test_the_gpu_script_says_what_is_missing(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho timm wandb\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(root / "benchmarks" / "gpu.sh")],
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "lacks: timm wandb (pip install them, or give a folder: --wheels FOLDER)"
    )
