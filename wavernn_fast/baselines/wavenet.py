"""WaveNet, the model that WaveRNN replaced: its shape, random weights, and its meaning.

van den Oord et al. 2016, WaveNet: residual blocks of dilated causal convolutions of two taps::

    x_t = embedding of the sample before                       [R]
    a   = W_old x_{t-d} + W_new x_t + b                        [2 G], a product for each block
    z   = tanh(a[:G]) * sigmoid(a[G:])                         [G]
    x_t = x_t + V z + c     skip += U z + u                    the second product for each block
    P   = softmax(O2 relu(O1 relu(skip)))                      of 256 mu-law classes

Thirty blocks are 60 products that must follow each other, against the five of WaveRNN. The engine
does not run it: it is here as the other row of the tables of Kalchbrenner et al. 2018, which name
it "WaveNet 512 (60)" and say no more about its widths. `random_wavenet("wavenet:512")` reads this
as 512 residual and 512 skip channels and 512 rows of the dilated convolution, 256 of each kind.
That is the smaller of the likely readings, so the kinder one to WaveNet: 24 million weights, eight
times those of WaveRNN-896. It hears no mel, as WaveRNN-896 in the same tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from .base import Tensors

_SPEC = re.compile(r"wavenet:(\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class WaveNetConfig:
    """The shape of a WaveNet without conditioning.

    Raises
    ------
    ModelError
        If a size is not positive.
    """

    residual_size: int  # R, channels that pass from block to block
    gate_size: int  # G, channels between the two products of a block
    skip_size: int  # S, channels that all blocks add to
    cycles: int = 3  # each runs through all the dilations
    dilations: int = 10  # of a cycle: 1, 2, 4, ..., 512
    n_classes: int = 256  # mu-law classes
    sample_rate: int = 24000  # Hz
    core: ClassVar[str] = "wavenet"
    hop_length: ClassVar[int] = 1
    n_mels: ClassVar[int] = 0
    draws_values: ClassVar[bool] = False  # classes

    def __post_init__(self) -> None:
        names = ("residual_size", "gate_size", "skip_size", "cycles", "dilations", "n_classes")
        wrong = [
            f"{name} is {getattr(self, name)}, must be positive"
            for name in (*names, "sample_rate")
            if getattr(self, name) < 1
        ]
        if wrong:
            raise ModelError("The WaveNet configuration is impossible:", wrong)

    @property
    def n_blocks(self) -> int:
        """Residual blocks."""
        return self.cycles * self.dilations

    @property
    def sequential(self) -> int:
        """N: products that must follow each other in a sample, those of the output included."""
        return 2 * self.n_blocks + 2

    @property
    def first_label(self) -> int:
        """The class before the first: silence."""
        return self.n_classes // 2

    @property
    def logits_size(self) -> int:
        """Values of the output layer."""
        return self.n_classes

    def dilation(self, block: int) -> int:
        """Samples between the two taps of a block."""
        return 1 << (block % self.dilations)


def expected_shapes(config: WaveNetConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor; matrices are [outputs, inputs]."""
    r, g, s, n = config.residual_size, config.gate_size, config.skip_size, config.n_classes
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (n, r)}
    for i in range(config.n_blocks):
        shapes |= {
            f"blocks.{i}.old.weight": (2 * g, r),
            f"blocks.{i}.new.weight": (2 * g, r),
            f"blocks.{i}.bias": (2 * g,),
            f"blocks.{i}.skip.weight": (s, g),
            f"blocks.{i}.skip.bias": (s,),
        }
        if i < config.n_blocks - 1:  # nobody hears the channels after the last block
            shapes |= {
                f"blocks.{i}.residual.weight": (r, g),
                f"blocks.{i}.residual.bias": (r,),
            }
    return shapes | {
        "output1.weight": (s, s),
        "output1.bias": (s,),
        "output2.weight": (n, s),
        "output2.bias": (n,),
    }


def random_tensors(config: WaveNetConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights uniform in +-1/sqrt(inputs), the embedding in +-1; float32."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        inputs = 1 if name == "embedding.weight" else shape[-1]
        tensors[name] = random.uniform(-1.0, 1.0, shape).astype(np.float32)
        tensors[name] /= np.float32(np.sqrt(inputs))
    return tensors


def random_wavenet(spec: str, seed: int = 0) -> tuple[WaveNetConfig, dict[str, Any]]:
    """Make a WaveNet of random weights.

    Parameters
    ----------
    spec : str
        "wavenet:512": 30 blocks, 512 residual and skip channels, 256 gated ones, 24 kHz. Other even
        sizes likewise.
    seed : int
        The same seed gives the same weights.

    Raises
    ------
    InputError
        If the spec is not of this form.
    """
    match = _SPEC.fullmatch(spec)
    size = int(match[1]) if match else 0
    if size < 2 or size % 2:
        raise InputError(
            f"There is no synthetic WaveNet {spec!r}; write wavenet:512, or another even size."
        )
    config = WaveNetConfig(residual_size=size, gate_size=size // 2, skip_size=size)
    return config, random_tensors(config, seed)


def teacher_forced_logits(
    config: WaveNetConfig, tensors: Tensors, samples: NDArray[Any]
) -> NDArray[np.float64]:
    """Logits of every step when classes are fed back, by whole convolutions in float64.

    Parameters
    ----------
    samples : [n] integers below n_classes; logits t come before sample t is known

    Returns
    -------
    float64 [n, n_classes]
    """
    w = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    labels = np.concatenate([[config.first_label], np.asarray(samples, np.int64)[:-1]])
    x = w["embedding.weight"][labels]  # [n, R]
    skip = np.zeros((len(x), config.skip_size))
    for i in range(config.n_blocks):
        name, distance = f"blocks.{i}", config.dilation(i)
        old = np.zeros_like(x)
        old[distance:] = x[:-distance]
        a = old @ w[f"{name}.old.weight"].T + x @ w[f"{name}.new.weight"].T + w[f"{name}.bias"]
        tanh, gate = np.split(a, 2, axis=1)
        z = np.tanh(tanh) / (1.0 + np.exp(-gate))
        skip += z @ w[f"{name}.skip.weight"].T + w[f"{name}.skip.bias"]
        if i < config.n_blocks - 1:
            x = x + z @ w[f"{name}.residual.weight"].T + w[f"{name}.residual.bias"]
    hidden = np.maximum(skip, 0.0) @ w["output1.weight"].T + w["output1.bias"]
    logits: NDArray[np.float64] = (
        np.maximum(hidden, 0.0) @ w["output2.weight"].T + w["output2.bias"]
    )
    return logits
