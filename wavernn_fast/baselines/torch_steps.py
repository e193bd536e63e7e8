"""Steps in torch, written so that torch.jit.script can compile them as they stand.

A step takes the state [n, B], the last outputs, a row of conditioning and the numbers of its draws,
and returns the new state, what is fed back, the samples and the logits. B streams, H hidden_size,
K fc_size, C n_classes; weights as `cells.loop_weights` names them.
"""

import torch
from torch import Tensor


def cell(recurrent: Tensor, inputs: Tensor, h: Tensor) -> Tensor:
    """One GRU: recurrent, inputs [3 n, B] (reset, update, candidate) and h [n, B] -> new h."""
    n = h.size(0)
    gates = torch.sigmoid(recurrent[: 2 * n] + inputs[: 2 * n])
    candidate = torch.tanh(torch.addcmul(inputs[2 * n :], gates[:n], recurrent[2 * n :]))
    return torch.lerp(candidate, h, gates[n:])


def output(weights: dict[str, Tensor], first: str, second: str, y: Tensor) -> Tensor:
    """Two output layers: y [H / 2, B] -> logits [256, B]."""
    hidden = torch.relu(torch.addmm(weights[first + "_b"], weights[first], y))
    return torch.addmm(weights[second + "_b"], weights[second], hidden)


def draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """Classes [1, B] from logits and Gumbel numbers, both [C, B]."""
    return torch.argmax(logits + numbers, dim=0, keepdim=True)


def dual_step(
    weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One sample of all streams.

    From h [H, B], the last coarse and fine x [2, B], row [3 H, 1] and numbers [512, B]: the new h
    and x, samples 256 c + f [B] and logits [512, B].
    """
    half = h.size(0) // 2
    recurrent = torch.addmm(weights["R_b"], weights["R"], h)
    inputs = torch.addmm(row, weights["I"], x)
    h_coarse = cell(recurrent[: 3 * half], inputs[: 3 * half], h[:half])
    coarse_logits = output(weights, "O1", "O2", h_coarse)
    coarse = draw(coarse_logits, numbers[:256])
    now = coarse / 127.5 - 1.0
    inputs = torch.addcmul(inputs[3 * half :], weights["I_now"], now)
    h_fine = cell(recurrent[3 * half :], inputs, h[half:])
    fine_logits = output(weights, "O3", "O4", h_fine)
    fine = draw(fine_logits, numbers[256:])
    return (
        torch.cat([h_coarse, h_fine]),
        torch.cat([now, fine / 127.5 - 1.0]),
        (coarse * 256 + fine)[0],
        torch.cat([coarse_logits, fine_logits]),
    )


def residual_logits(
    weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor
) -> tuple[Tensor, Tensor]:
    """State h [2 H, B], x [1, B] and row [7 H + 2 K, 1] -> the new h and logits [C, B]."""
    n = h.size(0) // 2
    heard = torch.addcmul(row[: 4 * n], weights["I"], x)
    recurrent = torch.addmm(weights["R1_b"], weights["R1"], h[:n])
    h1 = cell(recurrent, heard[n:], h[:n])
    v = heard[:n] + h1
    inputs = torch.addmm(row[4 * n : 7 * n], weights["W2"], v)
    recurrent = torch.addmm(weights["R2_b"], weights["R2"], h[n:])
    h2 = cell(recurrent, inputs, h[n:])
    width = weights["F1"].size(0)
    p = torch.relu(torch.addmm(row[7 * n : 7 * n + width], weights["F1"], v + h2))
    q = torch.relu(torch.addmm(row[7 * n + width :], weights["F2"], p))
    return torch.cat([h1, h2]), torch.addmm(weights["F3_b"], weights["F3"], q)


def label_step(
    weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One label of all streams: h [2 H, B], x [1, B], numbers [C, B]; see `dual_step`."""
    h, logits = residual_logits(weights, h, x, row)
    label = draw(logits, numbers)
    return h, label * (2.0 / (logits.size(0) - 1)) - 1.0, label[0], logits


def logistic_step(
    weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One value from mixtures of C / 3 logistics: numbers [C / 3 + 1, B]; see `dual_step`."""
    h, logits = residual_logits(weights, h, x, row)
    n = logits.size(0) // 3
    k = draw(logits[:n], numbers[:n])
    scale = logits.gather(0, k + 2 * n).clamp(min=-32.236).exp()  # loops.LOG_SCALE_FLOOR
    x = torch.addcmul(logits.gather(0, k + n), scale, numbers[n:]).clamp(-1.0, 1.0)
    return h, x, x[0], logits


def step(
    head: str, weights: dict[str, Tensor], h: Tensor, x: Tensor, row: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One sample of a model with this head."""
    if head == "dual_softmax":
        return dual_step(weights, h, x, row, numbers)
    if head == "softmax":
        return label_step(weights, h, x, row, numbers)
    return logistic_step(weights, h, x, row, numbers)


def loop(
    head: str,
    weights: dict[str, Tensor],
    h: Tensor,
    x: Tensor,
    rows: Tensor,
    numbers: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Steps of a chunk from h and x, rows [n, size, 1] and numbers [n, D, B].

    Returns the new h and x, the samples [n, B] (int32, values float32) and the logits [n or 0, L,
    B], L the size of one step's.
    """
    n, batch = numbers.size(0), numbers.size(2)
    kind = torch.float32 if head == "mol" else torch.int32
    samples = torch.empty(n, batch, dtype=kind)
    logits: list[Tensor] = []
    for t in range(n):
        h, x, drawn, step_logits = step(head, weights, h, x, rows[t], numbers[t])
        samples[t] = drawn
        if keep:
            logits.append(step_logits)
    return h, x, samples, torch.stack(logits) if keep else torch.empty(0)
