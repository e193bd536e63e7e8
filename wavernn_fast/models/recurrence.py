"""The masked GRU over a whole segment, with its backward pass written out.

Under teacher forcing every input of the dual-softmax cell is known, so the cell is a standard GRU
whose input matrix is masked (the coarse half does not see c_t). On a GPU PyTorch's fused GRU runs
it. On a CPU that GRU spends its time on bookkeeping of single operations; `recurrence` does the
same arithmetic with a handful of large operations a step, conditioning added frame by frame, and
matrix products in bfloat16 where the processor multiplies those faster.

Gates (Kalchbrenner et al. 2018, equation 2, with both biases, as in torch.nn.GRU)::

    r = sigmoid(R_r h + b_r + I_r)       u = sigmoid(R_u h + b_u + I_u)
    e = tanh(r * (R_e h + b_e) + I_e)    h' = u * h + (1 - u) * e

I is the conditioning (input bias included, constant over a frame) plus the products with
c(t-1), f(t-1) and, in the fine half, c(t).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """What a recurrence reads, time first so that a step is one contiguous slice."""

    x: Tensor  # [T, B, 3] c(t-1), f(t-1), c(t) in [-1, 1]
    frames: Tensor  # [F, B, 3H] conditioning pre-activations, input bias included; F * hop >= T
    hop_length: int
    h: Tensor  # [B, H] state before the first step


def recurrence(
    segment: Segment, w_sample: Tensor, w_recurrent: Tensor, b_recurrent: Tensor, low: bool
) -> tuple[Tensor, Tensor]:
    """Run the GRU over a segment.

    Parameters
    ----------
    segment : Segment
    w_sample : [3H, 3], masked
    w_recurrent : [3H, H]
    b_recurrent : [3H]
    low : multiply matrices in bfloat16; the state and the gates stay float32

    Returns
    -------
    y : [T, B, H] state after every step; bfloat16 if `low`
    h : [B, H] the last state, detached
    """
    run: Any = _Recurrence.apply
    y, h = run(*segment, w_sample, w_recurrent, b_recurrent, low)
    return y, h.detach()


class _Recurrence(torch.autograd.Function):
    """See `recurrence`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        frames: Tensor,
        hop_length: int,
        h: Tensor,
        w_sample: Tensor,
        w_recurrent: Tensor,
        b_recurrent: Tensor,
        low: bool,
    ) -> tuple[Tensor, Tensor]:
        steps, batch, size = len(x), h.shape[0], h.shape[1]
        kind = torch.bfloat16 if low else h.dtype
        states = h.new_empty(steps + 1, batch, size)  # h before step t; the last one at the end
        states[0] = h
        inputs = h.new_empty(steps, batch, size, dtype=kind)  # the same, as the product read it
        gates = h.new_empty(steps, batch, 3 * size)  # r, u, e after their nonlinearities
        inner = h.new_empty(steps, batch, size)  # R_e h + b_e
        w_in, weight = w_sample.t().contiguous(), w_recurrent.t().to(kind)
        offset = frames.clone()  # r and u may have their recurrent bias outside, e may not
        offset[..., : 2 * size] += b_recurrent[: 2 * size]
        b_inner = b_recurrent[2 * size :]
        product = h.new_empty(batch, 3 * size, dtype=kind)
        wide = h.new_empty(batch, 3 * size)  # the same in float32: mixed operations are slow
        for t in range(steps):
            now = gates[t]
            torch.addmm(offset[t // hop_length], x[t], w_in, out=now)
            inputs[t].copy_(states[t])
            torch.mm(inputs[t], weight, out=product)
            wide.copy_(product)
            now[:, : 2 * size].add_(wide[:, : 2 * size]).sigmoid_()
            torch.add(wide[:, 2 * size :], b_inner, out=inner[t])
            candidate = now[:, 2 * size :]
            candidate.addcmul_(now[:, :size], inner[t]).tanh_()
            torch.lerp(candidate, states[t], now[:, size : 2 * size], out=states[t + 1])
        ctx.save_for_backward(x, states, inputs, gates, inner, w_recurrent)
        ctx.hop_length, ctx.n_frames = hop_length, len(frames)
        return states[1:].to(kind), states[steps].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, states, inputs, gates, inner, w_recurrent = ctx.saved_tensors
        d_y = gradients[0]
        steps, batch, size = inner.shape
        kind = inputs.dtype
        weight = w_recurrent.to(kind)
        d_input = gates.new_empty(steps, batch, 3 * size, dtype=kind)  # of I: r, u, e
        d_inner = gates.new_empty(steps, batch, size, dtype=kind)  # of R_e h + b_e
        d_h = gates.new_zeros(batch, size)
        wide = gates.new_empty(batch, 3 * size)
        d_r, d_u, d_e = wide.split(size, dim=1)
        keep, product = torch.empty_like(d_h), torch.empty_like(d_h, dtype=kind)
        through = torch.empty_like(wide, dtype=kind)  # of R h + b: r, u, e
        for t in range(steps - 1, -1, -1):
            r, u, e = gates[t].split(size, dim=1)
            d_h += d_y[t]
            torch.mul(d_h, u, out=keep)  # d_h u: what flows on to the step before
            d_h.sub_(keep)  # d_h (1 - u)
            torch.sub(states[t], e, out=d_u).mul_(u).mul_(d_h)  # d_h (h - e) u (1 - u)
            torch.mul(e, e, out=d_e).mul_(d_h).neg_().add_(d_h)  # d_h (1 - u) (1 - e^2)
            torch.mul(d_e, inner[t], out=d_r).mul_(r)
            d_r.addcmul_(d_r, r, value=-1.0)  # d_e (R_e h + b_e) r (1 - r)
            d_input[t].copy_(wide)
            d_e.mul_(r)
            through.copy_(wide)
            d_inner[t].copy_(through[:, 2 * size :])
            torch.mm(through, weight, out=product)
            torch.add(keep, product, out=d_h)
        return _parameter_gradients(ctx, x, inputs, d_input, d_inner, d_h)


def _parameter_gradients(
    ctx: Any, x: Tensor, inputs: Tensor, d_input: Tensor, d_inner: Tensor, d_h: Tensor
) -> tuple[Any, ...]:
    """Sums over all steps, each one large product."""
    steps, batch, size = d_inner.shape
    flat, states = d_input.view(steps * batch, 3 * size), inputs.view(steps * batch, size)
    inner = d_inner.view(steps * batch, size)
    d_recurrent = torch.cat([flat[:, : 2 * size].t() @ states, inner.t() @ states])
    d_sample = flat.t() @ x.reshape(steps * batch, -1).to(flat.dtype)
    d_frames = d_h.new_zeros(ctx.n_frames, batch, 3 * size)
    for frame in range(-(-steps // ctx.hop_length)):
        piece = d_input[frame * ctx.hop_length : (frame + 1) * ctx.hop_length]
        d_frames[frame] = piece.sum(0, dtype=d_h.dtype)
    d_bias = d_frames.sum((0, 1))
    d_bias[2 * size :] = inner.sum(0, dtype=d_h.dtype)
    kind = d_h.dtype
    return None, d_frames, None, d_h, d_sample.to(kind), d_recurrent.to(kind), d_bias, None
