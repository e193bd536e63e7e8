"""The WaveNet loop in torch, written so that `torch.jit.script` can compile it as it stands."""

import torch
from torch import Tensor


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """First class [B] whose cumulative probability exceeds the uniform [B, 1]."""
    cumulative = torch.cumsum(torch.softmax(logits, dim=1), dim=1)
    return (cumulative <= uniform).sum(dim=1).clamp(max=logits.size(1) - 1)


def dense(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """A product with bias: x [B, in] -> [B, out]."""
    return torch.addmm(w[name + "_b"], x, w[name])


def step(
    w: dict[str, Tensor],
    new: list[Tensor],
    residual: list[Tensor],
    residual_b: list[Tensor],
    old: Tensor,
    x: Tensor,
) -> tuple[Tensor, Tensor]:
    """Logits [B, C] and the inputs of all blocks [L, B, R] from the old taps' inputs, and x."""
    sums = torch.baddbmm(w["old_b"], old, w["old"]).unbind()
    inputs: list[Tensor] = []
    gated: list[Tensor] = []
    for i in range(len(new)):
        inputs.append(x)
        filtered, gate = torch.addmm(sums[i], x, new[i]).tanh().chunk(2, dim=1)
        z = torch.addcmul(filtered, filtered, gate)
        gated.append(z)
        if i < len(residual):
            x = x + torch.addmm(residual_b[i], z, residual[i])
    skip = torch.relu(dense(torch.cat(gated, dim=1), w, "skip"))
    hidden = torch.relu(dense(skip, w, "output1"))
    return dense(hidden, w, "output2"), torch.stack(inputs)


def loop(
    w: dict[str, Tensor],
    new: list[Tensor],
    residual: list[Tensor],
    residual_b: list[Tensor],
    first: Tensor,
    length: Tensor,
    uniforms: Tensor,
    first_label: int,
    keep_logits: bool,
) -> tuple[Tensor, Tensor]:
    """Sample from uniforms [n, B, 1] -> (samples [B, n] int32, logits [B, n or 0, C]).

    `first` and `length` [L]: the rings of the blocks in the common store of their inputs.
    """
    n_steps, batch = uniforms.size(0), uniforms.size(1)
    classes, width = w["embedding"].size(0), w["embedding"].size(1)
    past = torch.zeros(int(length.sum()), batch, width)
    label = torch.full((batch,), first_label)
    samples = torch.zeros(batch, n_steps, dtype=torch.int32)
    logits = torch.zeros(batch, n_steps if keep_logits else 0, classes)
    for t in range(n_steps):
        places = first + t % length
        x = torch.index_select(w["embedding"], 0, label)
        found, inputs = step(w, new, residual, residual_b, torch.index_select(past, 0, places), x)
        past.index_copy_(0, places, inputs)
        label = draw(found, uniforms[t])
        samples[:, t] = label
        if keep_logits:
            logits[:, t] = found
    return samples, logits
