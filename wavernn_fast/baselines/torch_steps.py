"""Steps in torch, written so that torch.jit.script can compile them as they stand.

One step takes the state, a row of conditioning and the numbers of its draws, and returns the new
state, the samples and the logits. Shapes: B streams, H hidden_size, K fc_size, C n_classes.
"""

import torch
from torch import Tensor

from .loops import LOG_SCALE_FLOOR

_FLOOR: float = LOG_SCALE_FLOOR


def cell(recurrent: Tensor, inputs: Tensor, h: Tensor) -> Tensor:
    """One GRU: recurrent, inputs [B, 3 n] (reset, update, candidate) and h [B, n] -> new h."""
    size = h.size(1)
    gates = torch.sigmoid(recurrent[:, : 2 * size] + inputs[:, : 2 * size])
    reset, update = gates[:, :size], gates[:, size:]
    candidate = torch.tanh(torch.addcmul(inputs[:, 2 * size :], reset, recurrent[:, 2 * size :]))
    return torch.lerp(candidate, h, update)


def dense(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """x [B, in] -> [B, out]."""
    return torch.addmm(weights[name + "_b"], x, weights[name])


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """First class [B, 1] whose cumulative probability exceeds the uniform [B, 1]."""
    cumulative = torch.cumsum(torch.softmax(logits, dim=1), dim=1)
    return (cumulative <= uniform).sum(dim=1, keepdim=True).clamp(max=logits.size(1) - 1)


def dual_step(
    weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One sample of all streams.

    From the state h [B, H], the last coarse and fine x [B, 2], row [3 H] and numbers [B, 2]: the
    new h and x, samples 256 c + f [B] int32 and logits [B, 512].
    """
    half = h.size(1) // 2
    recurrent = dense(h, weights, "R")
    inputs = torch.addmm(row[: 3 * half], x, weights["I_coarse"])
    h_coarse = cell(recurrent[:, : 3 * half], inputs, h[:, :half])
    coarse_logits = dense(torch.relu(dense(h_coarse, weights, "O1")), weights, "O2")
    coarse = draw(coarse_logits, numbers[:, :1])
    now = coarse / 127.5 - 1.0
    inputs = torch.addmm(row[3 * half :], torch.cat([x, now], dim=1), weights["I_fine"])
    h_fine = cell(recurrent[:, 3 * half :], inputs, h[:, half:])
    fine_logits = dense(torch.relu(dense(h_fine, weights, "O3")), weights, "O4")
    fine = draw(fine_logits, numbers[:, 1:])
    sample = (coarse * 256 + fine)[:, 0].to(torch.int32)
    return (
        torch.cat([h_coarse, h_fine], dim=1),
        torch.cat([now, fine / 127.5 - 1.0], dim=1),
        sample,
        torch.cat([coarse_logits, fine_logits], dim=1),
    )


def residual_logits(
    weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor
) -> tuple[Tensor, Tensor]:
    """h [B, 2 H], x [B, 1], row [7 H + 2 K] -> the new h and logits [B, C]."""
    units = h.size(1) // 2
    heard = torch.addmm(row[: 4 * units], x, weights["I"])
    h1 = cell(dense(h[:, :units], weights, "R1"), heard[:, units:], h[:, :units])
    v = heard[:, :units] + h1
    inputs = torch.addmm(row[4 * units : 7 * units], v, weights["W2"])
    h2 = cell(dense(h[:, units:], weights, "R2"), inputs, h[:, units:])
    width = weights["F2"].size(1)
    p = torch.relu(torch.addmm(row[7 * units : 7 * units + width], v + h2, weights["F1"]))
    q = torch.relu(torch.addmm(row[7 * units + width :], p, weights["F2"]))
    return torch.cat([h1, h2], dim=1), dense(q, weights, "F3")


def label_step(
    weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One label of all streams: h [B, 2 H], x [B, 1], numbers [B, 1]; see `dual_step`."""
    h, logits = residual_logits(weights, h, x, row)
    label = draw(logits, numbers)
    return h, label * (2.0 / (logits.size(1) - 1)) - 1.0, label[:, 0].to(torch.int32), logits


def logistic_step(
    weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One value of all streams from a mixture of logistics: numbers [B, 2]; see `dual_step`."""
    h, logits = residual_logits(weights, h, x, row)
    n = logits.size(1) // 3
    k = draw(logits[:, :n], numbers[:, :1])
    scale = logits.gather(1, k + 2 * n).clamp(min=_FLOOR).exp()
    x = torch.addcmul(logits.gather(1, k + n), scale, numbers[:, 1:]).clamp(-1.0, 1.0)
    return h, x, x[:, 0], logits
