"""Models whose frames may come piece by piece, and the hands that push and read them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cases
import numpy as np
import voices
from test_subscale_model import trained_weights
from voices import CONDITIONED, joined, mel

from wavernn_fast.config import ModelConfig
from wavernn_fast.live import LivePool, LiveStream
from wavernn_fast.vocoder import Vocoder

WAIT = 120.0  # seconds after which a test gives up on a stream; many, for a busy machine

_AUX = {"aux_size": 3, "aux_channels": 8, "aux_blocks": 1, "aux_kernel": 3}
SUBSCALE = cases.predicted_config(4, 5, 2, 2, hop_length=16, **_AUX)
MODELS = CONDITIONED | {"subscale": SUBSCALE}
SPEAKER = cases.residual_config(
    16, 32, bits=8, speaker_size=4, upsample_left=1, upsample_right=2, **_AUX
)
LINEAR = cases.residual_config(
    16, 16, bits=8, upsample="linear", upsample_left=1, upsample_right=1, upsample_pad=2
)


@cache
def voice(config: ModelConfig, threads: int = 1, device: str = "cpu") -> Vocoder:
    """Vocoder with random weights."""
    if device == "cpu" and config.subscale is None:
        return voices.voice(config, threads)
    tensors = cases.random_tensors(config) if config.subscale is None else trained_weights(config)
    return Vocoder(config, tensors, device=device, cpu_threads=threads)


def poison(frames: np.ndarray) -> np.ndarray:
    """Frames whose products overflow to both infinities, the sum of which is no number."""
    return np.full_like(frames, 3e38) * np.where(np.arange(frames.shape[1]) % 2, 1, -1)


def feed(stream: LiveStream, frames: np.ndarray, sizes: Sequence[int]) -> None:
    """Push frames in pieces of the sizes given, over and over, and finish."""
    first, i = 0, 0
    while first < frames.shape[1]:
        stream.push(frames[:, first : first + sizes[i % len(sizes)]])
        first += sizes[i % len(sizes)]
        i += 1
    stream.finish()


def read_all(stream: LiveStream, pause: float = 0.0) -> np.ndarray:
    """Everything that a stream gives."""
    parts = []
    while (chunk := stream.read(WAIT)) is not None:
        parts.append(chunk)
        time.sleep(pause)
    return joined(parts)


def side_by_side(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run functions, each in a thread, and give back what they returned."""
    results: list[Any] = [None] * len(jobs)

    def work(i: int) -> None:
        results[i] = jobs[i]()

    threads = [threading.Thread(target=work, args=[i]) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    return results


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Endless:
    """A stream that always has frames and, unless `reads` is false, a reader."""

    def __init__(
        self, pool: LivePool, config: ModelConfig, number: int, reads: bool = True
    ) -> None:
        self.stream = pool.open(seed=number)
        self.frames = mel(config, 200, number)
        self.reads, self.read = reads, 0

    def turn(self) -> None:
        """Push what is wanted and read what is there."""
        wanted = self.stream.wanted
        while wanted > 0:
            piece = self.frames[:, :wanted]
            self.stream.push(piece)
            wanted -= piece.shape[1]
        while self.reads and self.stream.ready:
            chunk = self.stream.read(WAIT)
            assert chunk is not None
            self.read += len(chunk)
