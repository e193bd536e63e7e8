"""Models of the embedded core and how the emulator runs them, for tests of that kernel."""

from __future__ import annotations

import cases
import reference
import tolerances
from engine_work import Work, make

from wavernn_fast import _C
from wavernn_fast.conditioning_network import make_conditioner

LABELS = cases.embedded_config(64, 48, 8, hop_length=6)
MORE = cases.embedded_config(48, 32, 10, hop_length=6)  # 1024 labels: several rounds of words
MODELS = {"labels": LABELS, "more": MORE}
LAUNCH = {"blocks": 4, "warps": 4}  # quick
SCHEDULES = ["fair", "random:1", "random:2", *(f"starve:{block}" for block in range(4)), "slow:1"]


def emulated(work: Work, **options) -> _C.Engine:
    return make(work.config, work.tensors, device="emu", **(LAUNCH | options))


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
        self.hold = None
        if mel is not None:
            frames = -(-n_steps // config.hop_length)
            self.hold = make_conditioner(config, self.tensors).window(mel, 0, frames)[1]

    def run(self, engine: _C.Engine, **options):
        streams, rows = [engine.open(0)], ([None], [self.hold])
        return engine.run(streams, [self.n], *rows, return_logits=True, **options)[0]

    def check(self, engine: _C.Engine) -> None:
        """Draw freely, every label the reference's; then follow it, every logit near its."""
        labels, _ = self.run(engine, uniforms=[self.uniforms])
        expected = self.expected["samples"]
        assert (labels == expected).all()
        logits = self.run(engine, forced=[expected])[1]
        error = tolerances.logit_error(logits, self.expected["logits"])
        assert error <= tolerances.KERNEL_EXACT[0]

    def engine(self, **options) -> _C.Engine:
        return make(self.config, self.tensors, device="emu", **options)
