"""Models of the residual core and how the emulator runs them, for tests of that kernel."""

from __future__ import annotations

import cases
import pytest
from engine_work import Work, make

from wavernn_fast import _C

AUX = {"aux_size": 3, "aux_channels": 10, "aux_blocks": 2, "aux_kernel": 5}
FRAMES = {"hop_length": 6, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
LABELS = cases.residual_config(64, 48, bits=8, **FRAMES, **AUX)
VALUES = cases.residual_config(48, 32, mixtures=5, **FRAMES, **AUX)  # fc3 has an odd number of rows
HEADS = {"labels": LABELS, "values": VALUES}
LAUNCH = {"labels": {"blocks": 4, "warps": 4}, "values": {"blocks": 4, "warps": 2}}  # quick
# Exchanges a sample; so few warps have no room for all 256 rows of fc3.
WAYS = [("labels", 2), ("labels", 4), ("values", 1), ("values", 3), ("values", 4)]
EVERY_WAY = pytest.mark.parametrize(("head", "exchanges"), WAYS)
SCHEDULES = ["fair", "random:1", "random:2", *(f"starve:{block}" for block in range(4)), "slow:1"]


def emulated(work: Work, exchanges: int, **options) -> _C.Engine:
    head = "values" if work.config.head == "mol" else "labels"
    options = LAUNCH[head] | {"exchanges": exchanges} | options
    return make(work.config, work.tensors, device="emu", **options)
