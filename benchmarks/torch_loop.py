"""The dual-softmax loop in torch, written so that torch.jit.script can compile it as it stands."""

import torch
from torch import Tensor


def cell(recurrent: Tensor, inputs: Tensor, h: Tensor) -> Tensor:
    """One half of the GRU: recurrent, inputs [B, 3 H / 2] (r, u, e) and h [B, H / 2] -> new h."""
    half = h.size(1)
    gates = torch.sigmoid(recurrent[:, : 2 * half] + inputs[:, : 2 * half])
    reset, update = gates[:, :half], gates[:, half:]
    candidate = torch.tanh(torch.addcmul(inputs[:, 2 * half :], reset, recurrent[:, 2 * half :]))
    return torch.lerp(candidate, h, update)


def dense(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """x [B, in] -> [B, out]."""
    return torch.addmm(weights[name + "_b"], x, weights[name])


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """First class [B, 1] whose cumulative probability exceeds the uniform [B, 1]."""
    cumulative = torch.cumsum(torch.softmax(logits, dim=1), dim=1)
    return (cumulative <= uniform).sum(dim=1, keepdim=True).clamp(max=logits.size(1) - 1)


def step(
    weights: dict[str, Tensor], h: Tensor, coarse: Tensor, fine: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One sample of all streams.

    From the state h [B, H], the last inputs c and f [B, 1] and uniforms [2, B, 1]: the new h, c and
    f, the sample 256 c + f [B] int32, and the coarse and fine logits [B, 256].
    """
    half = h.size(1) // 2
    recurrent = dense(h, weights, "R")
    inputs = dense(torch.cat([coarse, fine], dim=1), weights, "I_coarse")
    h_coarse = cell(recurrent[:, : 3 * half], inputs, h[:, :half])
    coarse_logits = dense(torch.relu(dense(h_coarse, weights, "O1")), weights, "O2")
    coarse_class = draw(coarse_logits, uniforms[0])
    coarse_now = coarse_class / 127.5 - 1.0
    inputs = dense(torch.cat([coarse, fine, coarse_now], dim=1), weights, "I_fine")
    h_fine = cell(recurrent[:, 3 * half :], inputs, h[:, half:])
    fine_logits = dense(torch.relu(dense(h_fine, weights, "O3")), weights, "O4")
    fine_class = draw(fine_logits, uniforms[1])
    sample = (coarse_class * 256 + fine_class)[:, 0].to(torch.int32)
    state = torch.cat([h_coarse, h_fine], dim=1)
    return state, coarse_now, fine_class / 127.5 - 1.0, sample, coarse_logits, fine_logits


def loop(
    weights: dict[str, Tensor], uniforms: Tensor, first_input: float, keep_logits: bool
) -> tuple[Tensor, Tensor]:
    """Sample from uniforms [n, 2, B, 1] -> (samples [B, n] int32, logits [B, n or 0, 512])."""
    n_steps, batch = uniforms.size(0), uniforms.size(2)
    h = torch.zeros(batch, 2 * weights["O1"].size(0))
    coarse = torch.full((batch, 1), first_input)
    fine = torch.full((batch, 1), first_input)
    samples = torch.zeros(batch, n_steps, dtype=torch.int32)
    logits = torch.zeros(batch, n_steps if keep_logits else 0, 512)
    for t in range(n_steps):
        h, coarse, fine, sample, coarse_logits, fine_logits = step(
            weights, h, coarse, fine, uniforms[t]
        )
        samples[:, t] = sample
        if keep_logits:
            logits[:, t] = torch.cat([coarse_logits, fine_logits], dim=1)
    return samples, logits
