"""The WaveNet loop in torch, written so that `torch.jit.script` can compile it as it stands."""

import torch
from torch import Tensor


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """First class [B] whose cumulative probability, of logits [C, B], exceeds the uniform [B]."""
    cumulative = torch.cumsum(torch.softmax(logits, dim=0), dim=0)
    return (cumulative <= uniform).sum(dim=0).clamp(max=logits.size(0) - 1)


def dense(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """A product with bias: x [in, B] -> [out, B]."""
    return torch.addmm(w[name + "_b"], w[name], x)


def step(
    w: dict[str, Tensor],
    new: list[Tensor],
    residual: list[Tensor],
    residual_b: list[Tensor],
    old: Tensor,
    x: Tensor,
) -> tuple[Tensor, Tensor]:
    """Logits [C, B] and the inputs of all blocks [L, R, B] from the old taps' inputs, and x."""
    sums = torch.baddbmm(w["old_b"], w["old"], old).unbind()
    inputs: list[Tensor] = []
    gated: list[Tensor] = []
    for i in range(len(new)):
        inputs.append(x)
        filtered, gate = torch.addmm(sums[i], new[i], x).tanh().chunk(2, dim=0)
        z = torch.addcmul(filtered, filtered, gate)
        gated.append(z)
        if i < len(residual):
            x = x + torch.addmm(residual_b[i], residual[i], z)
    skip = torch.relu(dense(torch.cat(gated, dim=0), w, "skip"))
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
    """Sample from uniforms [n, B] -> (samples [B, n] int32, logits [B, n or 0, C]).

    `first` and `length` [L]: the rings of the blocks in the common store of their inputs.
    """
    n_steps, batch = uniforms.size(0), uniforms.size(1)
    classes, width = w["embedding"].size(0), w["embedding"].size(1)
    past = torch.zeros(int(length.sum()), width, batch)
    label = torch.full((batch,), first_label)
    samples = torch.zeros(batch, n_steps, dtype=torch.int32)
    logits = torch.zeros(batch, n_steps if keep_logits else 0, classes)
    for t in range(n_steps):
        places = first + t % length
        x = torch.index_select(w["embedding"], 0, label).t().contiguous()
        found, inputs = step(w, new, residual, residual_b, torch.index_select(past, 0, places), x)
        past.index_copy_(0, places, inputs)
        label = draw(found, uniforms[t])
        samples[:, t] = label
        if keep_logits:
            logits[:, t] = found.t()
    return samples, logits
