"""The meaning of the words: every core in float64 numpy, one sample at a time, nothing hoisted.

Every backend is compared with this file. It works from the canonical tensors and a mel by the
original equations, so it shares neither an algebraic rearrangement nor an order of summation with
the code it checks. Sources are named at each equation:

[K18]   Kalchbrenner et al., Efficient Neural Audio Synthesis, ICML 2018, section 2 and figure 1
[Cho14] the GRU as torch.nn.GRU documents it: reset applied after the recurrent product
[F]     the two-GRU residual vocoder: docs/formats.md, residual core
[HS97]  the LSTM as torch.nn.LSTM documents it: Hochreiter and Schmidhuber 1997 with forget gates
[L18]   Lorenzo-Trueba et al., Towards achieving robust universal neural vocoding, 2018, section 2,
        as bshall/UniversalVocoding builds it: docs/formats.md, embedded core
[D]     residual blocks of dilated convolutions: docs/formats.md, embedded core
[S17]   Salimans et al., PixelCNN++, ICLR 2017, section 2.1: mixture of logistics
[AS]    Abramowitz and Stegun, Handbook of Mathematical Functions, chapter 26
[Sal11] Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011: Philox4x32-10

Shapes: H hidden_size, K fc_size, M n_mels, A aux_size, C n_classes, L logits_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_fast.config import ModelConfig

Array = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]
Choose = Callable[[Array, int], int]  # (logits, number of the draw) -> class

LOG_SCALE_FLOOR = -32.236  # ln(1e-14), the lowest logistic log-scale
LOGISTIC_CLIP = 1e-5  # v of the logistic draw stays in [1e-5, 1 - 1e-5]
LOG_STD_FLOOR = -7.0  # the lowest log-deviation of a gaussian


# --- chance ---------------------------------------------------------------------------------------


def philox4x32(key: NDArray[Any], counter: NDArray[Any]) -> NDArray[np.uint32]:
    """Philox4x32-10 [Sal11, section 3.3]: key [2], counter [n, 4] (32-bit words) -> [n, 4]."""
    mask, low = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = (np.asarray(counter)[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = (int(k) for k in np.asarray(key))
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> low) ^ c1 ^ np.uint64(k0),
            p1 & mask,
            (p0 >> low) ^ c3 ^ np.uint64(k1),
            p0 & mask,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def philox_words(
    seed: int, first_step: int, n_steps: int, item: int = 0, fold: int = 0
) -> NDArray[np.uint32]:
    """Four random words a step, [n_steps, 4]: key = seed (lo, hi), counter = step, item, fold."""
    step = np.arange(first_step, first_step + n_steps, dtype=np.uint64)
    counter = np.stack(
        [
            step & np.uint64(0xFFFFFFFF),
            step >> np.uint64(32),
            np.full(n_steps, item, np.uint64),
            np.full(n_steps, fold, np.uint64),
        ],
        axis=1,
    )
    return philox4x32(np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]), counter)


def categorical_weights(logits: Array, temperature: float = 1.0) -> NDArray[Any]:
    """Integer weights of the classes: round(exp((l - max l) / T) * 2**b); their sum is < 2**32."""
    bits = min(23, 31 - math.ceil(math.log2(len(logits))))
    scaled = np.exp((logits - logits.max()) / temperature) * 2.0**bits
    weights: NDArray[Any] = np.rint(scaled).astype(np.uint64)
    return weights


def categorical(logits: Array, word: int, temperature: float = 1.0) -> tuple[int, float]:
    """First class whose cumulative weight exceeds floor(word * total / 2**32), and its margin.

    The margin is the distance, as a share of the total, from word / 2**32 to the nearest inner
    boundary between two classes: what an error of the probabilities must reach to change the draw.
    """
    cumulative = np.cumsum(categorical_weights(logits, temperature))
    total = int(cumulative[-1])
    threshold = (int(word) * total) >> 32
    chosen = int(np.searchsorted(cumulative, np.uint64(threshold), side="right"))
    inner = cumulative[:-1] / total
    inner = inner[(inner > 0.0) & (inner < 1.0)]
    margin = float(np.abs(inner - word / 2.0**32).min()) if len(inner) else math.inf
    return chosen, margin


def greedy_class(logits: Array) -> tuple[int, float]:
    """Lowest index of the largest logit; the margin is the gap to the second largest."""
    top = np.sort(logits)[::-1]
    return int(np.argmax(logits)), float(top[0] - top[1]) if len(top) > 1 else math.inf


def logistic(mean: float, log_scale: float, word: int, temperature: float = 1.0) -> float:
    """One draw of a logistic, by inversion, clipped to [-1, 1] [S17]."""
    v = min(max((word + 0.5) / 2.0**32, LOGISTIC_CLIP), 1.0 - LOGISTIC_CLIP)
    scale = math.exp(max(log_scale, LOG_SCALE_FLOOR)) * temperature
    return min(max(mean + scale * (math.log(v) - math.log(1.0 - v)), -1.0), 1.0)


def gaussian(mean: float, log_std: float, word: int, temperature: float = 1.0) -> float:
    """One draw of a normal by inversion, clipped to [-1, 1]; bisection of the error function."""
    v = (word + 0.5) / 2.0**32
    low, high = -8.0, 8.0  # P(z < -8) = 6e-16
    for _ in range(60):
        z = 0.5 * (low + high)
        low, high = (z, high) if 0.5 * math.erfc(-z / math.sqrt(2.0)) < v else (low, z)
    return min(max(mean + math.exp(max(log_std, LOG_STD_FLOOR)) * temperature * z, -1.0), 1.0)


def beta_cdf(t: float, a: float, b: float) -> float:
    """P(y < 1 / (1 + exp(-t))) of a beta variable y: the regularised incomplete beta function.

    Its continued fraction [AS, 26.5.8], evaluated by Lentz's method, on the side where it
    converges.
    """
    y, z = (1.0 / (1.0 + math.exp(-t)), 1.0 / (1.0 + math.exp(t)))
    if y > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_cdf(-t, b, a)
    log_front = a * math.log(y) + b * math.log(z) if y > 0.0 else -math.inf
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    c, d = 1.0, 1.0 / (1.0 - (a + b) * y / (a + 1.0))
    total = d
    for m in range(1, 5000):
        for term in (
            m * (b - m) * y / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * y / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1.0 / (1.0 + term * d), 1.0 + term / c
            total *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return math.exp(log_front) * total / a


def beta_quantile(v: float, a: float, b: float) -> float:
    """Return x = 2 y - 1 for the y below which a beta variable lies with probability v."""
    low, high = -700.0, 700.0  # of ln(y / (1 - y))
    while high - low > 1e-13 * max(1.0, abs(low)):
        t = 0.5 * (low + high)
        low, high = (t, high) if beta_cdf(t, a, b) < v else (low, t)
    return math.tanh(0.25 * (low + high))


def beta(log_a: float, log_b: float, word: int, temperature: float = 1.0) -> float:
    """One draw of 2 y - 1, y from a beta distribution, by inversion."""
    share = temperature**-2.0
    v = (word + 0.5) / 2.0**32
    return beta_quantile(v, math.exp(log_a) * share, math.exp(log_b) * share)


# --- conditioning ---------------------------------------------------------------------------------


def upsampled_mel(config: ModelConfig, kernel: Array | None, mel: Array) -> Array:
    """mel [M, n] -> [n_out * hop, M]: up[n*hop + p] = sum_j kernel[p, j] mel[n - left + j]."""
    if config.upsample == "linear":
        beyond = ((0, 0), (config.upsample_pad, config.upsample_pad))
        padded = np.pad(mel, beyond, constant_values=config.pad_value)
        cut = config.upsample_pad * config.hop_length
        return aligned_linear(padded, config.hop_length)[:, cut:-cut].T
    taps = config.upsample_left + 1 + config.upsample_right
    beyond = ((0, 0), (config.upsample_left, config.upsample_right))
    padded = np.pad(mel, beyond, constant_values=config.pad_value)
    first = config.lookback_frames if config.pad == "none" else 0
    frames = range(first, first + config.n_output_frames(mel.shape[1]))
    if not frames:
        return np.zeros((0, config.n_mels))
    return np.concatenate([kernel @ padded[:, n : n + taps].T for n in frames])


def aligned_linear(x: Array, scale: int) -> Array:
    """x [channels, n] -> [channels, n * scale], linearly, the ends of both falling together."""
    n = x.shape[1]
    places = np.linspace(0.0, n - 1.0, n * scale)
    return np.array([np.interp(places, np.arange(n), channel) for channel in x])


def aux_network(config: ModelConfig, tensors: Tensors, mel: Array) -> Array:
    """mel [M, n] -> [n_out, S * A]: the residual network of [F], batch-norm already folded.

    conv_in over aux_kernel frames, ReLU; blocks of x + conv2(relu(conv1 x)); conv_out.
    """
    radius = config.aux_radius
    padded = np.pad(mel, ((0, 0), (radius, radius)), constant_values=config.pad_value)
    first = config.lookback_frames if config.pad == "none" else 0
    rows = []
    for n in range(first, first + config.n_output_frames(mel.shape[1])):
        window = padded[:, n : n + config.aux_kernel]
        x = np.tensordot(tensors["aux.conv_in.weight"], window, axes=([1, 2], [0, 1]))
        x = np.maximum(x + tensors["aux.conv_in.bias"], 0.0)
        for i in range(config.aux_blocks):
            inner = tensors[f"aux.blocks.{i}.conv1.weight"] @ x
            inner = np.maximum(inner + tensors[f"aux.blocks.{i}.conv1.bias"], 0.0)
            inner = tensors[f"aux.blocks.{i}.conv2.weight"] @ inner
            x = x + inner + tensors[f"aux.blocks.{i}.conv2.bias"]
        rows.append(tensors["aux.conv_out.weight"] @ x + tensors["aux.conv_out.bias"])
    slices = 1 if config.core == "dual" else 4
    return np.array(rows).reshape(-1, slices * config.aux_size)


def network(
    config: ModelConfig, tensors: Tensors, mel: Array, speaker: NDArray[Any] | None = None
) -> Array:
    """mel [M, n] -> [n_out, D]: what conditions a core with one GRU in each frame [L18].

    None: the mel itself. "gru": layers of two GRUs, one in either direction, of which the next
    layer hears both. "conv": tanh(sum_j W[:, :, j] x[n - radius + j] + b), layer upon layer.
    """
    if config.network is None:
        return mel.T
    if config.network.kind == "residual_conv":
        return residual_conv(config, tensors, mel)
    who = np.zeros(0) if speaker is None else np.asarray(speaker, np.float64)
    x = [np.concatenate([frame, who]) for frame in mel.T]
    if config.network.dilated:
        return dilated(config, tensors, x)
    if config.network.kind == "conv" and config.pad == "zeros":
        nothing = [np.zeros(config.n_mels)] * config.network.radius
        x = [*nothing, *x, *nothing]
    for layer in range(config.network.layers):
        name = f"network.{layer}"
        if config.network.kind == "conv":
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            x = [
                np.tanh(sum(weight[:, :, j] @ x[n + j] for j in range(weight.shape[2])) + bias)
                for n in range(len(x) - weight.shape[2] + 1)
            ]
        else:
            ahead = direction(tensors, f"{name}.forward", x)
            back = direction(tensors, f"{name}.backward", x[::-1])[::-1]
            x = [np.concatenate(pair) for pair in zip(ahead, back, strict=True)]
    return np.array(x).reshape(-1, config.network.out_size)


def residual_conv(config: ModelConfig, tensors: Tensors, mel: Array) -> Array:
    """mel [M, n] -> [n, D]: tanh D1 tanh D0 (x + mel), x = tanh convolutions, each zero-padded."""
    x, n_frames = list(mel.T), mel.shape[1]
    for layer in range(config.network.layers):
        weight, bias = tensors[f"network.{layer}.weight"], tensors[f"network.{layer}.bias"]
        side = weight.shape[2] // 2
        heard = [
            sum(
                weight[:, :, side + j] @ x[n + j]
                for j in range(-side, side + 1)
                if 0 <= n + j < n_frames
            )
            for n in range(n_frames)
        ]
        x = [np.tanh(value + bias) for value in heard]
    rows = []
    for n in range(n_frames):
        y = x[n] + mel[:, n]
        for layer in range(2):
            y = tensors[f"network.dense{layer}.weight"] @ y + tensors[f"network.dense{layer}.bias"]
            y = np.tanh(y)
        rows.append(y)
    for layer in range(config.network.lstm_layers):
        rows = lstm(tensors, f"network.lstm{layer}", rows)
    return np.array(rows).reshape(-1, config.network.size)


def dilated(config: ModelConfig, tensors: Tensors, x: list[Array]) -> Array:
    """Frames x -> [n, S]: a dense layer, then blocks whose taps lie 2**i frames apart [D]."""
    x = [dense(tensors, "network.pre", frame) for frame in x]
    for i in range(config.network.layers):
        name, inner = f"network.{i}", x
        if config.network.kind == "bottleneck_conv":
            gain, shift = tensors[f"{name}.gain"], tensors[f"{name}.shift"]
            inner = [np.maximum(gain * frame + shift, 0) for frame in x]
            inner = [dense(tensors, f"{name}.conv1", frame) for frame in inner]
        conv = f"{name}.conv" if config.network.kind == "dilated_conv" else f"{name}.conv2"
        weight, bias = tensors[f"{conv}.weight"], tensors[f"{conv}.bias"]
        seen = [
            sum(
                weight[:, :, 1 + j] @ np.maximum(inner[n + j * 2**i], 0)
                for j in (-1, 0, 1)
                if 0 <= n + j * 2**i < len(x)
            )
            + bias
            for n in range(len(x))
        ]
        if config.network.kind == "bottleneck_conv":
            seen = [dense(tensors, f"{name}.conv3", np.maximum(y, 0)) for y in seen]
        x = [frame + y for frame, y in zip(x, seen, strict=True)]
    return np.array(x).reshape(-1, config.network.size)


def lstm(tensors: Tensors, name: str, x: list[Array]) -> list[Array]:
    """Outputs of one LSTM over the frames x, from zeros [HS97]; gates input, forget, cell, output.

    c = f c + i tanh g, h = o tanh c, with sigmoids of i, f and o.
    """
    h = c = np.zeros(tensors[f"{name}.w_recurrent"].shape[1])
    outputs = []
    for frame in x:
        sums = tensors[f"{name}.w_input"] @ frame + tensors[f"{name}.w_recurrent"] @ h
        i, f, g, o = np.split(sums + tensors[f"{name}.bias"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return outputs


def direction(tensors: Tensors, name: str, x: list[Array]) -> list[Array]:
    """States of one GRU over the frames x, from zeros [Cho14]."""
    h, states = np.zeros(tensors[f"{name}.w_recurrent"].shape[1]), []
    for frame in x:
        recurrent = tensors[f"{name}.w_recurrent"] @ h + tensors[f"{name}.b_recurrent"]
        h = gru(recurrent, tensors[f"{name}.w_input"] @ frame + tensors[f"{name}.b_input"], h)
        states.append(h)
    return states


# --- the cores ------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) in the form that cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def gru(recurrent: Array, inputs: Array, h: Array) -> Array:
    """New state [H] from R h + b_recurrent [3H] and I x + b_input [3H] [K18; Cho14].

    reset r = s(R_r h + I_r x), update u = s(R_u h + I_u x),
    candidate e = tanh(r (R_e h + b_recurrent_e) + I_e x + b_input_e), h' = u h + (1 - u) e.
    """
    r_reset, r_update, r_candidate = np.split(recurrent, 3)
    i_reset, i_update, i_candidate = np.split(inputs, 3)
    reset = sigmoid(r_reset + i_reset)
    update = sigmoid(r_update + i_update)
    candidate = np.tanh(reset * r_candidate + i_candidate)
    return update * h + (1.0 - update) * candidate


def dense(tensors: Tensors, name: str, x: Array) -> Array:
    """weight x + bias of the layer `name`."""
    return tensors[f"{name}.weight"] @ x + tensors[f"{name}.bias"]


def dual_scaled(half: float) -> float:
    """A coarse or fine value 0..255 as the network sees it, in [-1, 1] [K18, section 2.1]."""
    return half / 127.5 - 1.0


def dual_step(
    tensors: Tensors, h: Array, previous: tuple[float, float], condition: Array, choose: Choose
) -> tuple[Array, int, int, Array]:
    """One sample of the dual-softmax core [K18, equation 2 and figure 1].

    Parameters
    ----------
    tensors : canonical tensors, float64
    h : [H], state; first half coarse, second half fine
    previous : (c, f) of the last sample, scaled to [-1, 1]
    condition : [M + A], upsampled mel then a1; empty when unconditioned
    choose : outcome of draw 0 (coarse) and draw 1 (fine) from 256 logits

    Returns
    -------
    (new h, coarse, fine, logits [512])
    """
    half = len(h) // 2
    recurrent = tensors["gru.w_recurrent"] @ h + tensors["gru.b_recurrent"]

    def cell(coarse_now: float) -> Array:
        x = np.array([previous[0], previous[1], coarse_now])
        inputs = tensors["gru.w_sample"] @ x + tensors["gru.b_input"]
        if len(condition):
            inputs = inputs + tensors["gru.w_conditioning"] @ condition
        return gru(recurrent, inputs, h)

    y_coarse = cell(0.0)[:half]  # the mask I*: the coarse half never sees c_t
    hidden = np.maximum(dense(tensors, "coarse_fc1", y_coarse), 0.0)
    logits_coarse = dense(tensors, "coarse_fc2", hidden)
    coarse = choose(logits_coarse, 0)

    y_fine = cell(dual_scaled(coarse))[half:]
    hidden = np.maximum(dense(tensors, "fine_fc1", y_fine), 0.0)
    logits_fine = dense(tensors, "fine_fc2", hidden)
    fine = choose(logits_fine, 1)
    return (
        np.concatenate([y_coarse, y_fine]),
        coarse,
        fine,
        np.concatenate([logits_coarse, logits_fine]),
    )


def residual_step(
    tensors: Tensors, h: tuple[Array, Array], x: Array, mel_t: Array, aux: Array, speaker: Array
) -> tuple[tuple[Array, Array], Array]:
    """One step of the residual core [F]: mel_t [M], aux [4A] -> (new (h1, h2), logits [B C]).

    x [B] holds the sample before, of each of B bands; a band has C logits, those of band 0 first.

    u = I [x; mel; a1; speaker]; h1 = GRU1(u); v = u + h1; h2 = GRU2([v; a2]); w = v + h2;
    p = relu(fc1 [w; a3]); q = relu(fc2 [p; a4]); logits = fc3 q.
    """
    a1, a2, a3, a4 = np.split(aux, 4)
    u = dense(tensors, "input", np.concatenate([x, mel_t, a1, speaker]))
    h1 = gru(
        tensors["gru1.w_recurrent"] @ h[0] + tensors["gru1.b_recurrent"],
        tensors["gru1.w_input"] @ u + tensors["gru1.b_input"],
        h[0],
    )
    v = u + h1
    h2 = gru(
        tensors["gru2.w_recurrent"] @ h[1] + tensors["gru2.b_recurrent"],
        tensors["gru2.w_input"] @ np.concatenate([v, a2]) + tensors["gru2.b_input"],
        h[1],
    )
    w = v + h2
    p = np.maximum(dense(tensors, "fc1", np.concatenate([w, a3])), 0.0)
    q = np.maximum(dense(tensors, "fc2", np.concatenate([p, a4])), 0.0)
    return (h1, h2), dense(tensors, "fc3", q)


def embedded_step(tensors: Tensors, h: Array, label: int, condition: Array) -> tuple[Array, Array]:
    """One step of the embedded core [L18]: label before, condition [D] -> (new h, logits [C]).

    h' = GRU([e(label); condition], h); logits = fc2 relu(fc1 h').
    """
    inputs = tensors["gru.w_label"] @ tensors["embedding.weight"][label] + tensors["gru.b_input"]
    if len(condition):
        inputs = inputs + tensors["gru.w_conditioning"] @ condition
    h = gru(tensors["gru.w_recurrent"] @ h + tensors["gru.b_recurrent"], inputs, h)
    return h, dense(tensors, "fc2", np.maximum(dense(tensors, "fc1", h), 0.0))


# --- whole runs -----------------------------------------------------------------------------------


def run(
    config: ModelConfig,
    tensors: Tensors,
    mel: NDArray[Any] | None = None,
    *,
    n_steps: int | None = None,
    first_sample: int = 0,
    speaker: NDArray[Any] | None = None,
    seed: int = 0,
    item: int = 0,
    fold: int = 0,
    uniforms: NDArray[np.float64] | None = None,
    forced: NDArray[Any] | None = None,
    temperature: float = 1.0,
    greedy: bool = False,
) -> dict[str, NDArray[Any]]:
    """Draw `n_steps` samples, or follow `forced` ones, from a state of zeros.

    Parameters
    ----------
    mel : [M, n_frames], or None for an unconditioned model
    n_steps : samples; default all that the mel covers, before the length rule
    first_sample : where in the utterance the run starts (a fold begins inside it)
    speaker : [speaker_size], of a model that hears one
    seed, item, fold : of the generator; steps are counted from 0 at the start of the run
    uniforms : [n_steps, draws] in [0, 1), instead of the generator
    forced : [n_steps], outcomes taken in place of the drawn ones: 256 c + f, label, or x
    temperature, greedy : see `categorical`, `logistic`, `greedy_class`

    Returns
    -------
    dict
        samples [n] int32 (values: float64), logits [n, L] float64 and margin [n, draws] float64:
        how near each draw was to falling otherwise (see `categorical`; for greedy draws the gap of
        the two best logits; inf where nothing was chosen: forced steps, draws of a value).
    """
    weights = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    mel_up, aux = _conditions(config, weights, mel, speaker)
    if n_steps is None:
        n_steps = config.bands * len(mel_up) - first_sample
    covered = config.bands * len(mel_up)
    if config.n_mels and first_sample + n_steps > covered:
        raise ValueError(f"The mel covers {covered} samples, {first_sample + n_steps} wanted.")
    words = _words(config, n_steps, (seed, item, fold), uniforms)
    draws = _Draws(config, words, forced, temperature, greedy)
    cores = {"dual": _Dual, "residual": _Residual, "embedded": _Embedded}
    core: _Dual | _Residual | _Embedded = cores[config.core](config, weights)
    if config.speaker_size and config.core == "residual":
        core.speaker = np.asarray(speaker, np.float64)
    logits = np.zeros((n_steps, config.logits_size))
    samples = np.zeros(n_steps, np.float64 if config.draws_values else np.int32)
    bands = config.bands  # samples of a step
    for t in range(0, n_steps, bands):
        at = first_sample + t
        mel_t = mel_up[at // bands] if config.n_mels else np.zeros(0)
        row = at if config.upsample == "linear" else at // config.hop_length
        aux_t = aux[row] if config.aux_size else np.zeros(0)
        draws.t = t
        drawn, found = core.advance(mel_t, aux_t, draws)
        samples[t : t + bands], logits[t : t + bands] = drawn, np.reshape(found, (bands, -1))
    return {"samples": samples, "logits": logits, "margin": draws.margin}


class _Draws:
    """Decides the outcome of every draw of step `t`: forced, greedy or by the random words."""

    def __init__(
        self,
        config: ModelConfig,
        words: NDArray[Any],
        forced: NDArray[Any] | None,
        temperature: float,
        greedy: bool,
    ) -> None:
        self.words, self.forced, self.temperature, self.greedy = words, forced, temperature, greedy
        self.head = config.head
        self.margin = np.full((len(words), config.draws_per_step), np.inf)
        self.t = 0

    def choose(self, logits: Array, draw: int) -> int:
        t = self.t
        if self.greedy:
            chosen, self.margin[t, draw] = greedy_class(logits)
        else:
            word = int(self.words[t, draw])
            chosen, self.margin[t, draw] = categorical(logits, word, self.temperature)
        return chosen

    def dual(self, logits: Array, draw: int) -> int:
        """Coarse (draw 0) or fine (draw 1)."""
        if self.forced is None:
            return self.choose(logits, draw)
        return divmod(int(self.forced[self.t]), 256)[draw]

    def label(self, logits: Array) -> int:
        return self.choose(logits, 0) if self.forced is None else int(self.forced[self.t])

    def labels(self, logits: Array, bands: int) -> list[int]:
        """One label a band of this step."""
        found, first = [], self.t
        for band, of_band in enumerate(np.split(logits, bands)):
            self.t = first + band
            found.append(self.label(of_band))
        return found

    def value(self, logits: Array) -> float:
        """One x of a head that draws values: a mixture, a gaussian or a beta."""
        if self.forced is not None:
            return float(self.forced[self.t])
        if self.head == "mol":
            return self.mixture(logits)
        if self.greedy:
            mean = logits[0] if self.head == "gaussian" else math.tanh((logits[0] - logits[1]) / 2)
            return min(max(float(mean), -1.0), 1.0)
        draw = gaussian if self.head == "gaussian" else beta
        return draw(logits[0], logits[1], int(self.words[self.t, 0]), self.temperature)

    def mixture(self, logits: Array) -> float:
        """One x of a mixture of logistics [S17]: C/3 mixture logits, means, log-scales."""
        mixture_logits, means, log_scales = np.split(logits, 3)
        k = self.choose(mixture_logits, 0)
        if self.greedy:
            return float(np.clip(means[k], -1.0, 1.0))
        return logistic(means[k], log_scales[k], int(self.words[self.t, 1]), self.temperature)


class _Dual:
    """State and feedback of the dual core between steps."""

    def __init__(self, config: ModelConfig, weights: Tensors) -> None:
        self.weights = weights
        self.h = np.zeros(config.hidden_size)
        self.previous = (config.first_input, config.first_input)

    def advance(self, mel_t: Array, aux_t: Array, draws: _Draws) -> tuple[float, Array]:
        condition = np.concatenate([mel_t, aux_t])
        self.h, coarse, fine, logits = dual_step(
            self.weights, self.h, self.previous, condition, draws.dual
        )
        self.previous = (dual_scaled(coarse), dual_scaled(fine))
        return 256 * coarse + fine, logits


class _Residual:
    """State and feedback of the residual core between steps."""

    def __init__(self, config: ModelConfig, weights: Tensors) -> None:
        self.config, self.weights = config, weights
        self.h = (np.zeros(config.hidden_size), np.zeros(config.hidden_size))
        self.x = np.full(config.bands, config.first_input)
        self.speaker = np.zeros(0)

    def advance(self, mel_t: Array, aux_t: Array, draws: _Draws) -> tuple[Any, Array]:
        self.h, logits = residual_step(self.weights, self.h, self.x, mel_t, aux_t, self.speaker)
        if self.config.draws_values:
            self.x = np.array([draws.value(logits)])
            return self.x, logits
        labels = draws.labels(logits, self.config.bands)
        self.x = 2.0 * np.array(labels) / (self.config.n_classes - 1) - 1.0
        if self.config.feedback == "mu_law":  # G.711 in its continuous form, undone
            mu = self.config.n_classes - 1
            self.x = np.sign(self.x) * ((1 + mu) ** np.abs(self.x) - 1) / mu
        return labels, logits


class _Embedded:
    """State and feedback of the embedded core between steps."""

    def __init__(self, config: ModelConfig, weights: Tensors) -> None:
        self.weights = weights
        self.h = np.zeros(config.hidden_size)
        self.label = config.first_label

    def advance(self, mel_t: Array, aux_t: Array, draws: _Draws) -> tuple[float, Array]:
        self.h, logits = embedded_step(self.weights, self.h, self.label, mel_t)
        self.label = draws.label(logits)
        return self.label, logits


def _conditions(
    config: ModelConfig,
    weights: Mapping[str, Array],
    mel: NDArray[Any] | None,
    speaker: NDArray[Any] | None = None,
) -> tuple[Array, Array]:
    """(upsampled mel [samples, M], aux rows [frames, S A]); empty where the model has none.

    Of a core with a network what that gives, held for a frame, in place of the mel. Linear
    upsampling gives aux rows of samples.
    """
    if not config.n_mels:
        return np.zeros((0, 0)), np.zeros((0, 0))
    if mel is None:
        raise ValueError("This model is conditioned: a mel is needed.")
    values = np.asarray(mel, np.float64)
    if config.core == "embedded" or config.network is not None:
        held = network(config, weights, values, speaker)
        return np.repeat(held, config.hop_length, axis=0), np.zeros((0, 0))
    mel_up = upsampled_mel(config, weights.get("upsample.kernel"), values)
    aux = aux_network(config, weights, values) if config.aux_size else np.zeros((0, 0))
    if config.upsample == "linear" and config.aux_size:
        aux = aligned_linear(aux.T, config.hop_length).T
    return mel_up, aux


def _words(
    config: ModelConfig,
    n_steps: int,
    key: tuple[int, int, int],
    uniforms: NDArray[np.float64] | None,
) -> NDArray[Any]:
    """Random words [n_steps, >= draws] of key (seed, item, fold), or floor(u * 2**32)."""
    if uniforms is None:
        words = philox_words(key[0], 0, n_steps // config.bands, *key[1:])
        return words if config.bands == 1 else words[:, : config.bands].reshape(n_steps, 1)
    if uniforms.shape != (n_steps, config.draws_per_step):
        raise ValueError(f"uniforms are {uniforms.shape}, not {(n_steps, config.draws_per_step)}.")
    return np.floor(np.asarray(uniforms, np.float64) * 2.0**32).astype(np.uint64)
