"""Models of the residual and the embedded core and what the numpy reference draws from them."""

from __future__ import annotations

import cases
import numpy as np
import reference
import tolerances
from engine_work import make

from wavernn_fast import _C
from wavernn_fast.conditioning_network import make_conditioner


class Truth:
    """A model whose draws the numpy reference made, under uniforms that both sides get."""

    def __init__(self, config, n_steps: int, seed: int, alter=dict) -> None:
        self.config, self.n = config, n_steps
        self.tensors = alter(cases.random_tensors(config, seed=seed))
        mel = cases.mel_for(config, n_steps, seed=seed)
        self.uniforms = cases.random_uniforms(config, n_steps, seed=seed)
        self.expected = reference.run(
            config, self.tensors, mel, n_steps=n_steps, uniforms=self.uniforms
        )
        self.rows = [None, None]
        if mel is not None:
            frames = -(-n_steps // config.hop_length)
            self.rows = list(make_conditioner(config, self.tensors).window(mel, 0, frames))

    def run(self, engine: _C.Engine, n: int | None = None, **options):
        rows = [[r] for r in self.rows]
        return engine.run([engine.open(0)], [n or self.n], *rows, return_logits=True, **options)[0]

    def check(self, engine: _C.Engine, n: int | None = None) -> None:
        """Draw (the first n) freely, every outcome the reference's; then follow it, every logit
        near its."""
        n = n or self.n
        samples, _ = self.run(engine, n, uniforms=[self.uniforms[:n]])
        expected = self.expected["samples"][:n]
        if self.config.draws_values:
            assert np.abs(samples - expected).max() <= tolerances.KERNEL_VALUE
        else:
            assert np.array_equal(samples, expected)
        logits = self.run(engine, n, forced=[expected])[1]
        error = tolerances.logit_error(logits, self.expected["logits"][:n])
        assert error <= tolerances.KERNEL_EXACT[0]

    def engine(self, **options) -> _C.Engine:
        return make(self.config, self.tensors, device="emu", **options)


def rounded(tensors: dict) -> dict:
    """What fp16 stores in two bytes, rounded: no columns of conditioning, no table of labels."""
    found = dict(tensors)
    if "embedding.weight" in tensors:
        kept: dict = dict.fromkeys(("gru.w_recurrent", "fc1.weight", "fc2.weight"))
    else:
        hidden, fc = len(tensors["input.bias"]), len(tensors["fc1.bias"])
        kept = dict.fromkeys(("gru1.w_recurrent", "gru2.w_recurrent", "fc3.weight"))
        kept |= {"gru2.w_input": hidden, "fc1.weight": hidden, "fc2.weight": fc}
    for name, columns in kept.items():
        matrix = found[name] = tensors[name].copy()
        part = matrix[:, :columns]
        part[...] = part.astype(np.float16)
    return found
