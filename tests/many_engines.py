"""Engines for many streams on the emulator, with as many teams and streams a team as a test wants.

The planner gives a small model many teams of few streams; the emulator's option `room:N` leaves as
many of them as have room on N blocks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import apart
import cases
import numpy as np
import pruned_models

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import EngineError, InputError

TEAMS = re.compile(r"(\d+) teams? of (\d+) blocks? of (\d+) warps, (\d+) streams a team")


def many(config: ModelConfig, tensors: dict, **options: Any) -> _C.Engine:
    options = {"device": "emu", "dtype": "fp16", "streams": 8} | options
    return _C.Engine(dataclasses.asdict(config), tensors, **options)


def layout(
    config: ModelConfig, teams: int = 1, tiles: int = 1, isa: str = "fair", **options: Any
) -> dict[str, Any]:
    """Options of `many` for so many teams of so many tiles of streams: 8 streams, or 4 if split."""
    blocks = 0 if "cluster" in options else config.hidden_size // 32  # the most
    options = {"gpu": "H200", "split": False, "blocks": blocks, "warps": 2, "cluster": 0} | options
    planned = {k: options[k] for k in ("gpu", "split", "blocks", "warps", "cluster")}
    one = _C.many_plan(dataclasses.asdict(config), streams=1, **planned)
    streams = one["teams"] * tiles * (4 if options["split"] else 8)
    plan = _C.many_plan(dataclasses.asdict(config), streams=streams, **planned)
    assert plan["shape"]["stream_tiles"] == tiles, plan["text"]
    schedule, *faults = isa.split("/")
    room = f"room:{teams * plan['shape']['blocks']}"
    return options | {"streams": streams, "isa": "/".join([schedule, room, *faults])}


def slots_of(engine: _C.Engine) -> tuple[int, int]:
    """(teams, streams a team)"""
    found = TEAMS.search(engine.describe())
    assert found is not None
    return int(found[1]), int(found[4])


def twin(config: ModelConfig, tensors: dict) -> _C.Engine:
    """The float64 reference with the same rounded matrices."""
    rounded = pruned_models.rounded(tensors)
    return _C.Engine(dataclasses.asdict(config), rounded, device="reference")


def same(found: list[tuple], expected: list[tuple]) -> bool:
    """Samples and logits of every stream."""
    return all(
        np.array_equal(a[0], b[0]) and a[1].tobytes() == b[1].tobytes()
        for a, b in zip(found, expected, strict=True)
    )


class TwoRuns:
    """Streams in two runs, so that what the first left of them is seen in the second; `make` gives
    an engine for a schedule and what is planted in it."""

    def __init__(self, streams: Any, make: Callable[[str], _C.Engine]) -> None:
        self.streams, self.make = streams, make
        self.sound = self.run("fair")

    def run(self, isa: str) -> list[tuple]:
        engine, lengths = self.make(isa), self.streams.lengths
        opened = [engine.open(i) for i in range(len(lengths))]
        rows = [[r[k] for r in self.streams.rows] for k in (0, 1)]
        found = []
        for part in (0, 1):
            steps = [(n + part) // 2 for n in lengths]
            found += engine.run(opened, steps, *rows, return_logits=True)
        return found

    def differs(self, isa: str) -> bool:
        try:
            return not same(self.run(isa), self.sound)
        except (EngineError, InputError):  # a stall, or threads that wait at other barriers
            return True

    def differs_apart(self, isa: str) -> bool:
        return apart.is_true_or_ends(lambda: self.differs(isa))


def random_rows(
    config: ModelConfig, engine: _C.Engine, count: int, n_steps: int, seed: int = 1
) -> tuple[list[Any], list[Any]]:
    """Conditioning of so many streams, each its own; Nones for a model without."""
    random = np.random.default_rng(seed)
    frames = n_steps // config.hop_length + 2
    taps = config.upsample_left + config.upsample_right
    found: list[list[Any]] = []
    for rows, width in ((frames + taps, engine.interp_size), (frames, engine.hold_size)):
        found.append(
            [
                0.3 * random.normal(size=(rows, width)).astype(np.float32) if width else None
                for _ in range(count)
            ]
        )
    return found[0], found[1]


def failing() -> tuple[ModelConfig, dict, np.ndarray, np.ndarray]:
    """A model, rows of conditioning under which all is well, and others under which logits are
    infinite from step 20 on."""
    config = cases.dual_config(64, 32, hop_length=4, n_mels=5)
    tensors = cases.random_tensors(config)
    healthy = random_rows(config, twin(config, tensors), 1, 60)[0][0]
    update, candidate = config.hidden_size, 2 * config.hidden_size
    healthy[:, update], healthy[:, candidate] = -60.0, -60.0  # the unit follows its candidate
    rows = healthy.copy()
    rows[5:7, candidate] = 60.0
    # y is beyond fp16 where that unit is 1, and 0 where it is -1.
    tensors["coarse_fc1.weight"][0] = [6e4] + [0.0] * 31
    tensors["coarse_fc1.bias"][0] = 5.9e4
    return config, tensors, healthy, rows
