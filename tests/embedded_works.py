"""Models of the embedded core and how the emulator runs them, for tests of that kernel."""

from __future__ import annotations

import cases
from engine_work import Work, make

from wavernn_fast import _C

LABELS = cases.embedded_config(64, 48, 8, hop_length=6)
MORE = cases.embedded_config(48, 32, 10, hop_length=6)  # 1024 labels: several rounds of words
MODELS = {"labels": LABELS, "more": MORE}
LAUNCH = {"blocks": 4, "warps": 4}  # quick
SCHEDULES = ["fair", "random:1", "random:2", *(f"starve:{block}" for block in range(4)), "slow:1"]


def emulated(work: Work, **options) -> _C.Engine:
    return make(work.config, work.tensors, device="emu", **(LAUNCH | options))
