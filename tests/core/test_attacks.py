"""APGD: its cost, its bounds, what it leaves behind, and its result against a second version."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import plain
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

from core.attack.apgd import attacking, gradient_of, loss_of, run_apgd
from core.attack.trajectory import windows


class Counting(nn.Module):
    """Counts the forwards, and the gradients with respect to inputs, of what it wraps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.forwards = self.gradients = self.weight_gradients = 0
        self.modes: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        self.modes |= {module.training for module in self.modules()}
        self.weight_gradients += sum(p.requires_grad for p in self.parameters())
        if x.requires_grad:
            x.register_hook(self._count)
        logits: Tensor = self.inner(x)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.gradients += 1


class Linear(nn.Module):
    """Two classes, logits (0, w . x): the worst image of the ball is a corner that is known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model.eval()(x).float(), y, reduction="none")


@pytest.mark.parametrize("steps", [1, 2, 7, 10])
def test_costs_n_plus_one_forwards_and_n_input_gradients(steps: int) -> None:
    model = Counting(tiny.net().train())
    x, y = tiny.noise(5).batch(torch.arange(5), tiny.CPU)
    run_apgd(model, x, y, epsilon=0.1, steps=steps)
    assert (model.forwards, model.gradients) == (steps + 1, steps)
    assert model.weight_gradients == 0, "parameters asked for gradients during the attack"
    assert model.modes == {False}, "attacked in training mode"


def test_windows_of_the_papers_step_counts() -> None:
    assert windows(7) == [1] * 7
    assert windows(10) == [0, 2, *[1] * 8]
    # 22, then 3 fewer each time down to 6, as far as 100 steps go.
    lengths = [22, 19, 16, 13, 10, 7, 6, 6]
    assert [length for length in windows(100) if length] == lengths
    assert [i + 1 for i, length in enumerate(windows(100)) if length] == [
        sum(lengths[:count]) for count in range(1, len(lengths) + 1)
    ]


@given(steps=st.integers(1, 300))
def test_windows_tile_the_steps(steps: int) -> None:
    ends = windows(steps)
    covered = 0
    for position, length in enumerate(ends, start=1):
        if length:
            covered += length
            assert covered == position, "a window does not begin where the last one ended"
    lengths = [length for length in ends if length]
    assert len(ends) == steps and lengths == sorted(lengths, reverse=True)
    assert steps - covered < lengths[-1] if lengths else True


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Images (some pixels exactly 0 or 1), labels, a strength per image, steps, a model's seed."""
    count = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = (torch.rand(count, 3, 8, 8, generator=generator) * 1.5 - 0.25).clamp(0, 1)
    y = torch.randint(10, (count,), generator=generator)
    strengths = st.one_of(st.sampled_from([0.0, 4 / 255, 1.0]), st.floats(0, 1, width=32))
    epsilon = torch.tensor(draw(st.lists(strengths, min_size=count, max_size=count)))
    return x, y, epsilon, draw(st.integers(1, 9)), draw(st.integers(0, 3))


@given(problem=problems())
def test_stays_in_the_ball_and_in_range_and_never_lowers_the_loss(
    problem: tuple[Tensor, Tensor, Tensor, int, int],
) -> None:
    x, y, epsilon, steps, seed = problem
    model, untouched = tiny.net(seed=seed), x.clone()
    best, _, clean = run_apgd(model, x, y, epsilon=epsilon, steps=steps)
    moved = (best.double() - x.double()).abs().flatten(1).amax(1)
    assert bool((moved <= epsilon.double() + 6e-8).all()), "left the ball by more than rounding"
    assert float(best.min()) >= 0 and float(best.max()) <= 1
    assert torch.equal(x, untouched), "the clean images were changed in place"
    still = epsilon == 0
    assert torch.equal(best[still], x[still]), "an image of strength 0 was touched"
    assert torch.allclose(clean, model.eval()(x), atol=1e-5)
    assert bool((losses(model, best, y) >= losses(model, x, y) - 1e-5).all())


def test_one_strength_is_the_same_as_one_per_image() -> None:
    x, y = tiny.noise(6).batch(torch.arange(6), tiny.CPU)
    one, *_ = run_apgd(tiny.net(), x, y, epsilon=0.03, steps=5)
    each, *_ = run_apgd(tiny.net(), x, y, epsilon=torch.full((6,), 0.03), steps=5)
    assert torch.equal(one, each)
    assert not torch.equal(one, x)


def test_images_do_not_influence_each_other(trained: tiny.Trained) -> None:
    x, y = trained.batch(0, 12)
    epsilon = torch.linspace(0, 4 / 255, 12)
    together, *_ = run_apgd(trained.net, x, y, epsilon=epsilon, steps=7)
    for i in range(0, 12, 3):
        alone, *_ = run_apgd(trained.net, x[i : i + 1], y[i : i + 1], epsilon=epsilon[i], steps=7)
        assert torch.allclose(
            losses(trained.net, alone, y[i : i + 1]),
            losses(trained.net, together[i : i + 1], y[i : i + 1]),
            rtol=1e-3,
            atol=1e-5,
        )


def half_frozen() -> nn.Sequential:
    """A network some of whose parts are frozen or in evaluation mode already."""
    model = tiny.net().train()
    model[1].eval()
    model[3].requires_grad_(False)
    return model


def flags(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


class BrokenError(Exception):
    pass


class Broken(Counting):
    """Raises at its n-th forward."""

    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__(inner)
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        if self.forwards == self.at:
            raise BrokenError
        return super().forward(x)


@pytest.mark.parametrize("fails_at", [None, 0, 1, 3])
def test_leaves_the_model_as_it_was(fails_at: int | None) -> None:
    inner = half_frozen()
    model = inner if fails_at is None else Broken(inner, fails_at)
    before = flags(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    x, y = tiny.noise(5).batch(torch.arange(5), tiny.CPU)
    if fails_at is None:
        run_apgd(model, x, y, epsilon=0.1, steps=3)
    else:
        with pytest.raises(BrokenError):
            run_apgd(model, x, y, epsilon=0.1, steps=3)
    assert flags(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(stream, torch.get_rng_state()), "random numbers were drawn"
    assert not x.requires_grad and x.grad is None


def test_keeps_gradients_that_were_there(trained: tiny.Trained) -> None:
    """Under accumulation the attack runs between two backwards."""
    x, y = trained.batch(0, 4)
    F.cross_entropy(trained.net(x), y).backward()
    before = [parameter.grad.clone() for parameter in trained.net.parameters()]
    run_apgd(trained.net, x, y, epsilon=0.02, steps=2)
    after = [parameter.grad for parameter in trained.net.parameters()]
    trained.net.zero_grad(set_to_none=True)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class Wrapper(nn.Module):
    """As DistributedDataParallel is: the model lies in .module, and a forward has side effects."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("attacked through the wrapper")


def test_attacks_the_unwrapped_model() -> None:
    x, y = tiny.noise(4).batch(torch.arange(4), tiny.CPU)
    wrapper = Wrapper(half_frozen())
    before = flags(wrapper)
    wrapped, *_ = run_apgd(wrapper, x, y, epsilon=0.05, steps=3)
    direct, *_ = run_apgd(half_frozen(), x, y, epsilon=0.05, steps=3)
    assert torch.equal(wrapped, direct)
    assert flags(wrapper) == before
    with attacking(wrapper) as target:
        assert target is wrapper.module


@pytest.mark.parametrize("of", [loss_of, gradient_of])
def test_the_loss_is_float32_whatever_the_logits(of: Callable[..., tuple[Tensor, ...]]) -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1)[:, :5] * 20).bfloat16()

    x, y = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    loss = of(Half(), x, y)[0]
    exact = F.cross_entropy(Half()(x).double(), y, reduction="none")
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), exact, rtol=1e-6)


def test_works_under_bf16_autocast(trained: tiny.Trained) -> None:
    x, y = trained.batch(0, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        best, _, clean = run_apgd(trained.net, x, y, epsilon=2 / 255, steps=7)
    full, *_ = run_apgd(trained.net, x, y, epsilon=2 / 255, steps=7)
    assert clean.dtype == torch.bfloat16, "autocast had no effect: this test shows nothing"
    assert best.dtype == torch.float32
    found, reference = losses(trained.net, best, y).mean(), losses(trained.net, full, y).mean()
    assert abs(float(found / reference) - 1) < 0.1


@given(
    seed=st.integers(0, 2**31),
    epsilon=st.floats(0.001, 1),
    label=st.sampled_from([0, 1]),
    steps=st.integers(1, 8),
)
def test_finds_the_worst_corner_of_a_linear_model(
    seed: int, epsilon: float, label: int, steps: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, 4, generator=generator) / 10
    weight[0, 0] = 0  # pixels without influence stay where they are
    x = torch.rand(3, 3, 4, 4, generator=generator)
    y = torch.full((3,), label)
    best, *_ = run_apgd(Linear(weight), x, y, epsilon=epsilon, steps=steps)
    uphill = weight.sign() * (1 if label == 0 else -1)
    corner = (x + epsilon * uphill).clamp(0, 1)
    assert torch.allclose(best, corner, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 10, 25])
def test_equals_the_plain_version(trained: tiny.Trained, steps: int) -> None:
    """In float64, where rounding hardly ever flips the sign of a gradient."""
    x, y = trained.batch(0, 48)
    model = tiny.Scaled(trained.net.inner).double()
    try:
        epsilon = torch.linspace(0.2, 6, 48).double() / 255
        best, *_ = run_apgd(model, x.double(), y, epsilon=epsilon, steps=steps)
        second = plain.attack(model, x.double(), y, epsilon.tolist(), steps)
        assert torch.allclose(losses(model, best, y), second.loss, rtol=1e-4, atol=1e-6)
        wrong = model(best).argmax(1) != y
        assert torch.equal(wrong, model(second.best).argmax(1) != y)
        assert 0 < int(wrong.sum()) < 48, "all or none are fooled: the comparison shows nothing"
    finally:
        model.float()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 60), epsilon=st.floats(0.01, 0.5))
def test_equals_the_plain_version_on_hilly_landscapes(
    seed: int, steps: int, epsilon: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = tiny.Wavy(seed)
    x = torch.rand(6, 3, 4, 4, generator=generator).double()
    y = torch.randint(4, (6,), generator=generator)
    best, *_ = run_apgd(model, x, y, epsilon=epsilon, steps=steps)
    second = plain.attack(model, x, y, [epsilon] * 6, steps)
    assert torch.allclose(best, second.best, atol=1e-6)
    assert torch.allclose(losses(model, best, y), second.loss, rtol=1e-4, atol=1e-6)
