"""The training recurrence: forward and backward pass against a plain autograd loop and torch.gru.

Float64 results are compared absolutely; sizes are such that every number is of the order of 1.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
import torch
from torch import Tensor
from train_runs import one_thread  # noqa: F401

from wavernn_fast.models.recurrence import Segment, recurrence
from wavernn_fast.models.wavernn import Batch, WaveRNN

BF16_STATE = 2e-2  # absolute, of states in [-1, 1]; measured up to 1.0e-2
BF16_GRADIENT = 4e-2  # of the largest value of each gradient; measured up to 1.8e-2

# (steps, frames, hop): whole frames, a last frame cut short, one frame, frames never reached
SHAPES = [(12, 3, 4), (13, 4, 4), (3, 1, 7), (5, 4, 3), (1, 1, 1), (9, 9, 1)]


class Case:
    """Leaves of a random recurrence: B 3, H 4."""

    def __init__(
        self, shape: tuple[int, int, int], dtype: torch.dtype = torch.float64, size: int = 4
    ) -> None:
        steps, frames, self.hop = shape
        make = torch.Generator().manual_seed(steps)

        def normal(*sizes: int, scale: float = 1.0) -> Tensor:
            values = scale * torch.randn(*sizes, generator=make, dtype=torch.float64)
            return values.to(dtype).requires_grad_()

        self.x = normal(steps, 3, 3).detach()
        self.frames, self.h = normal(frames, 3, 3 * size), normal(3, size)
        self.w_sample = normal(3 * size, 3)
        self.w_recurrent = normal(3 * size, size, scale=1.5 * size**-0.5)
        self.b_recurrent = normal(3 * size)
        self.into = torch.randn(steps, 3, size, generator=make, dtype=torch.float64).to(dtype)

    @property
    def leaves(self) -> dict[str, Tensor]:
        names = ("frames", "h", "w_sample", "w_recurrent", "b_recurrent")
        return {name: getattr(self, name) for name in names}

    def run(self, low: bool = False) -> tuple[Tensor, Tensor]:
        segment = Segment(self.x, self.frames, self.hop, self.h)
        return recurrence(segment, self.w_sample, self.w_recurrent, self.b_recurrent, low)

    def loop(self) -> tuple[Tensor, Tensor]:
        """The equations of the module's docstring, one operation after another."""
        h, states = self.h, []
        for t, x in enumerate(self.x):
            i_r, i_u, i_e = (self.frames[t // self.hop] + x @ self.w_sample.T).chunk(3, 1)
            r_r, r_u, r_e = (h @ self.w_recurrent.T + self.b_recurrent).chunk(3, 1)
            r, u = torch.sigmoid(r_r + i_r), torch.sigmoid(r_u + i_u)
            h = u * h + (1 - u) * torch.tanh(r * r_e + i_e)
            states.append(h)
        return torch.stack(states), h

    def gradients(self, y: Tensor) -> dict[str, Tensor]:
        """Of sum(into * y) with respect to every leaf."""
        found = torch.autograd.grad((self.into * y).sum(), list(self.leaves.values()))
        return dict(zip(self.leaves, found, strict=True))


def worst(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.detach().double() - expected.detach().double()).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_every_gradient_equal_a_plain_loop(shape):
    case = Case(shape)
    (y, last), (y_loop, last_loop) = case.run(), case.loop()
    assert worst(y, y_loop) < 1e-10
    assert worst(last, last_loop) < 1e-10
    found, expected = case.gradients(y), case.gradients(y_loop)
    for name, gradient in expected.items():
        assert float(gradient.abs().max()) > 1e-3, name  # a comparison of zeros would say nothing
        assert worst(found[name], gradient) < 1e-10, name


@pytest.mark.parametrize("steps_seen", [1, 6])
def test_gradients_flow_from_single_steps_too(steps_seen):
    case = Case((13, 4, 4))
    case.into[steps_seen:] = 0.0
    found, expected = case.gradients(case.run()[0]), case.gradients(case.loop()[0])
    assert all(worst(found[name], expected[name]) < 1e-10 for name in expected)
    later = -(-steps_seen // case.hop)
    assert not found["frames"][later:].any()


def test_gradcheck_on_a_tiny_size():
    case = Case((5, 3, 2), size=2)

    def states(*leaves: Tensor) -> Tensor:
        frames, h, w_sample, w_recurrent, b_recurrent = leaves
        return recurrence(Segment(case.x, frames, 2, h), w_sample, w_recurrent, b_recurrent, False)[
            0
        ]

    assert torch.autograd.gradcheck(states, tuple(case.leaves.values()))


def test_two_halves_with_the_state_carried_equal_the_whole():
    case = Case((12, 3, 4))
    whole, last = case.run()
    weights = (case.w_sample, case.w_recurrent, case.b_recurrent, False)
    first, h = recurrence(Segment(case.x[:8], case.frames[:2], 4, case.h), *weights)
    second, end = recurrence(Segment(case.x[8:], case.frames[2:], 4, h), *weights)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(end, last)
    assert not h.requires_grad  # a segment does not learn through the one before


def test_inputs_are_left_as_they_were():
    case = Case((13, 4, 4))
    before = {name: leaf.detach().clone() for name, leaf in case.leaves.items()}
    case.gradients(case.run()[0])
    assert all(torch.equal(before[name], leaf) for name, leaf in case.leaves.items())


def test_bfloat16_stays_within_its_tolerance():
    case = Case((48, 3, 16), torch.float32, size=32)
    (y, last), (y_loop, _) = case.run(low=True), case.loop()
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert worst(y, y_loop) < BF16_STATE
    found, expected = case.gradients(y), case.gradients(y_loop)
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        assert worst(found[name], gradient) < BF16_GRADIENT * float(gradient.abs().max()), name


# --- torch.gru, which runs on a GPU -----------------------------------------------------------

FUSED = [
    cases.dual_config(64, 32, first_input=-1.0),
    cases.dual_config(32, 16, n_mels=7, hop_length=5),
    cases.dual_config(
        96, 23, n_mels=4, hop_length=3, aux_size=3, aux_channels=10, aux_blocks=2, aux_kernel=5
    ),
]


@pytest.mark.parametrize("config", FUSED, ids=cases.case_id)
def test_the_fused_gru_gives_the_same_states_and_gradients(config):
    torch.manual_seed(0)
    model = WaveRNN(config)
    tensors = cases.random_tensors(config)
    if config.n_mels:
        tensors["upsample.kernel"] = np.ones((config.hop_length, 1), np.float32)
    model.load_canonical(tensors)
    frames, steps = 4, 4 * config.hop_length
    mel = torch.randn(2, config.n_mels, frames + 2 * model.context)
    batch = Batch(torch.randint(65536, (2, steps)), torch.tensor([-1, 40000]), mel)
    h = torch.rand(2, config.hidden_size) - 0.5
    x, into = model._inputs(batch), torch.randn(steps, 2, config.hidden_size)
    results = []
    for run in (model._stepwise, model._fused):
        model.zero_grad()
        y, last = run(x, batch, h)
        (into * y).sum().backward()
        used = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((y.detach(), last, used))
    (y, last, found), (y_fused, last_fused, expected) = results
    assert worst(y, y_fused) < 1e-5
    assert worst(last, last_fused) < 1e-5
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert worst(found[name], gradient) < 1e-5 * max(1.0, float(gradient.abs().max())), name
