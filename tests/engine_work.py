"""A model with its conditioning and what the double twin makes of it, for tests of any engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import cases
import numpy as np

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig

ISAS = _C.available_isas()
DTYPES = ("fp32", "fp16", "bf16", "int8", "int8-fast")
# The emulator has both ways of the kernel to hand on the output layers, with two or four exchanges
# a sample; few blocks and warps, since every thread is a fiber and all run on one processor.
DTYPES_OF = {"cpu": DTYPES, "emu-2": ("fp32", "fp16"), "emu-4": ("fp32", "fp16")}
OPTIONS_OF: dict[str, dict[str, Any]] = {
    "cpu": {},
    "emu-2": {"device": "emu", "exchanges": 2, "blocks": 3, "warps": 4},
    "emu-4": {"device": "emu", "exchanges": 4, "blocks": 3, "warps": 4},
}


def make(config: ModelConfig, tensors: dict, **options) -> _C.Engine:
    return _C.Engine(dataclasses.asdict(config), tensors, **options)


class Work:
    """A model, its random conditioning rows, and what the double twin makes of them."""

    def __init__(
        self,
        config: ModelConfig,
        n_steps: int,
        seed: int = 1,
        device: str = "cpu",
        tensors: dict | None = None,
    ) -> None:
        self.config, self.n, self.device = config, n_steps, device
        self.tensors = tensors or cases.random_tensors(config, seed=seed)
        twin = make(config, self.tensors, device="reference")
        rng = np.random.default_rng(seed)
        frames = n_steps // config.hop_length + 2
        extra = config.upsample_left + config.upsample_right
        rows = {"interp": (frames + extra, twin.interp_size), "hold": (frames, twin.hold_size)}
        self.rows = {
            name: 0.3 * rng.normal(size=shape).astype(np.float32) if shape[1] else None
            for name, shape in rows.items()
        }
        self.samples, self.logits = self.run(twin, return_logits=True)

    def engine(self, **options) -> _C.Engine:
        return make(self.config, self.tensors, **(OPTIONS_OF[self.device] | options))

    def ways(self) -> Iterator[dict[str, Any]]:
        """Options that must make no difference to any bit."""
        if self.device == "cpu":
            for isa in ISAS:
                for threads in (1, 2, 3):
                    yield {"isa": isa, "threads": threads}
            return
        for isa in ("fair", "random:1/generic", "starve:1"):
            yield {"isa": isa}
        for blocks, warps in ((2, 8), (5, 4)):
            yield {"isa": "random:2", "blocks": blocks, "warps": warps}

    def run(self, engine: _C.Engine, seed: int = 5, **options):
        stream = engine.open(seed)
        options = {k: [v] if k in ("forced", "uniforms") else v for k, v in options.items()}
        interp, hold = [self.rows["interp"]], [self.rows["hold"]]
        return engine.run([stream], [self.n], interp, hold, **options)[0]

    def pieces(self, engine: _C.Engine, cuts: list[int], seed: int = 5) -> np.ndarray:
        """The same samples in several calls, conditioning rows cut accordingly."""
        stream, out, hop = engine.open(seed), [], self.config.hop_length
        for begin, end in zip([0, *cuts], [*cuts, self.n], strict=True):
            row = begin // hop
            interp, hold = (None if r is None else r[row:] for r in self.rows.values())
            out.append(engine.run([stream], [end - begin], [interp], [hold])[0][0])
        return np.concatenate(out)
