"""What tests/cpp/main.cpp runs, through the extension: the same weights, conditioning and streams.

Weights are counted by (tensor, element), as in tests/cpp/random_model.h, so that both have the same
numbers; a change of one is a change of the other.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Iterator

import cases
import numpy as np
import reference
from numpy.typing import NDArray

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig

STEPS, STREAMS = 96, 3
FRAMES = {"hop_length": 10, "n_mels": 20, "sample_rate": 8000}
SIDES = {"upsample_left": 1, "upsample_right": 1}
PLAIN = cases.dual_config(96, 40, first_input=-1.0)
CONDITIONED = cases.dual_config(96, 40, first_input=-1.0, **FRAMES, **SIDES)
RESIDUAL = cases.residual_config(
    64,
    64,
    bits=9,
    aux_size=8,
    aux_channels=4,
    aux_kernel=3,
    **FRAMES,
    upsample_left=2,
    upsample_right=2,
)
EMBEDDED = ModelConfig(
    core="embedded",
    head="softmax",
    hidden_size=96,
    fc_size=48,
    n_classes=64,
    embedding_size=12,
    first_label=32,
    **FRAMES,
)
FLOATS, INTS = ("fp32", "fp16", "bf16"), ("int8", "int8-fast")
# Every model: config, whether its weights are pruned, and (dtype, sparse) in the order of the file.
DENSE = [(dtype, "off") for dtype in (*FLOATS, *INTS)]
PRUNED = [(dtype, blocks) for blocks in ("16x1", "4x4", "1x1") for dtype in FLOATS]
PRUNED += [(dtype, blocks) for blocks in ("16x1", "4x4", "8x4") for dtype in INTS]
MODELS = [(config, False, DENSE) for config in (PLAIN, CONDITIONED, RESIDUAL, EMBEDDED)]
MODELS += [(config, True, PRUNED) for config in (CONDITIONED, RESIDUAL, EMBEDDED)]


def random_tensor(number: int, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    """Uniform in [-scale, scale), float32 of `shape`."""
    words = reference.philox_words(7, 0, int(np.prod(shape)), number)[:, 0]
    unit = (words >> np.uint32(8)).astype(np.float32) / np.float32(8388608.0) - np.float32(1.0)
    return (np.float32(scale) * unit).reshape(shape)


def drop_blocks(number: int, tensor: NDArray[np.float32]) -> None:
    """Drop blocks of 4x4 at random: of some rows of blocks nearly all, of one none, of one all."""
    rows, across = -(-tensor.shape[0] // 4), -(-tensor.shape[1] // 4)
    words = reference.philox_words(8, 0, rows * across, number)[:, 0].reshape(rows, across)
    share = 128 + np.arange(rows) * 37 % 120
    share[1], share[2] = 256, 0
    gone = (words >> np.uint32(24)) < share[:, None]
    gone = gone.repeat(4, axis=0).repeat(4, axis=1)[: tensor.shape[0], : tensor.shape[1]]
    tensor[gone] = 0.0


class Maker:
    """Tensors by name, each with its number."""

    def __init__(self, pruned: bool) -> None:
        self.pruned, self.made = pruned, cases.Tensors()

    def add(self, name: str, shape: tuple[int, ...], scale: float, prune: bool = False) -> None:
        number, dropped = len(self.made), prune and self.pruned
        factor = np.float32(2.0 if dropped else 1.0)
        self.made[name] = random_tensor(number, shape, factor * np.float32(scale))
        if dropped:
            drop_blocks(number, self.made[name])

    def layer(self, name: str, rows: int, columns: int, gain: float) -> None:
        scale = np.float32(gain) * np.sqrt(np.float32(3.0) / np.float32(columns))
        self.add(f"{name}.weight", (rows, columns), scale, prune=True)
        self.add(f"{name}.bias", (rows,), 0.1)


def over_root(gain: float, size: int) -> np.float32:
    return np.float32(gain) / np.sqrt(np.float32(size))


def make_weights(c: ModelConfig, pruned: bool) -> cases.Tensors:
    """Tensors of a model by canonical name."""
    make, h, f, a = Maker(pruned), c.hidden_size, c.fc_size, c.aux_size
    if c.n_mels and c.core != "embedded":
        make.add("upsample.kernel", (c.hop_length, c.upsample_left + 1 + c.upsample_right), 1.0)
    if c.core == "residual":
        make.layer("input", h, 1 + c.n_mels + a, 1.0)
        make.add("gru1.w_input", (3 * h, h), over_root(1.5, h))
        make.add("gru2.w_input", (3 * h, h + a), over_root(1.5, h))
        for gru in ("gru1", "gru2"):
            make.add(f"{gru}.w_recurrent", (3 * h, h), over_root(1.5, h), prune=True)
            make.add(f"{gru}.b_input", (3 * h,), 0.3)
            make.add(f"{gru}.b_recurrent", (3 * h,), 0.3)
        make.layer("fc1", f, h + a, 1.5)
        make.layer("fc2", f, f + a, 1.5)
        make.layer("fc3", c.n_classes, f, 2.0)
        return make.made
    if c.core == "embedded":
        make.add("embedding.weight", (c.n_classes, c.embedding_size), 1.0)
        make.add("gru.w_label", (3 * h, c.embedding_size), 1.0)
    make.add("gru.w_recurrent", (3 * h, h), over_root(2.0, h), prune=True)
    make.add("gru.b_recurrent", (3 * h,), 0.3)
    make.add("gru.b_input", (3 * h,), 0.3)
    if c.core == "embedded":
        make.layer("fc1", f, h, 2.0)
        make.layer("fc2", c.n_classes, f, 2.0)
        return make.made
    make.add("gru.w_sample", (3 * h, 3), 1.0)
    for half in ("coarse", "fine"):
        make.layer(f"{half}_fc1", f, h // 2, 3.0)
        make.layer(f"{half}_fc2", 256, f, 2.0)
    return make.made


def run(engine: _C.Engine, c: ModelConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    """(labels int32 [STEPS], logits float32 [STEPS, ...]) of every stream, drawn freely; zero where
    a stream has ended."""
    frames = STEPS // c.hop_length + 2
    taps = c.upsample_left + 1 + c.upsample_right
    interp = random_tensor(1000, (frames + taps, engine.interp_size), 0.5)
    hold = random_tensor(1001, (frames, engine.hold_size), 0.5)
    rows = [x if x.size else None for x in (interp, hold)]
    counts = [STEPS - 7 * stream for stream in range(STREAMS)]
    streams = [engine.open(seed) for seed in range(STREAMS)]
    found = engine.run(
        streams, counts, [rows[0]] * STREAMS, [rows[1]] * STREAMS, return_logits=True
    )
    whole = []
    for labels, logits in found:
        padding = STEPS - len(labels)
        sizes = [(0, padding)] + [(0, 0)] * (logits.ndim - 1)
        whole.append((np.pad(labels, (0, padding)), np.pad(logits, sizes)))
    return whole


def checksums(found: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """CRC-32 of all labels and of all logits, as the program prints them."""
    labels = logits = 0
    for drawn, values in found:
        labels = zlib.crc32(np.ascontiguousarray(drawn, np.int32).tobytes(), labels)
        logits = zlib.crc32(np.ascontiguousarray(values, np.float32).tobytes(), logits)
    return f"{labels:08x} {logits:08x}"


@functools.cache
def weights_of(model: int) -> cases.Tensors:
    config, pruned, _ = MODELS[model]
    return make_weights(config, pruned)


def lines(isa: str) -> Iterator[str]:
    """What the program prints, by one instruction set.

    One thread and two take turns, from format to format and from one instruction set to the next.
    """
    first = _C.available_isas().index(isa)
    for model, (config, _, formats) in enumerate(MODELS):
        for turn, (dtype, sparse) in enumerate(formats, first):
            options = {"dtype": dtype, "sparse": sparse, "isa": isa, "threads": 1 + turn % 2}
            fields = dataclasses.asdict(config)
            engine = _C.Engine(fields, weights_of(model), device="cpu", **options)
            name = f"{config.core} hidden {config.hidden_size} mels {config.n_mels} {dtype}"
            blocks = "" if sparse == "off" else f" {sparse}"
            yield f"{name}{blocks} {checksums(run(engine, config))}"
