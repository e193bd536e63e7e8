"""What a mel can be worth: linear predictors that know the frame, its mel, or the past alone."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings

PROGRAM = str(Path(__file__).resolve().parents[1] / "benchmarks" / "mel_worth.py")
RATE, FRAME = 22050, 240
NOISE = 50.0  # of the least significant steps of a sample


def best(folder: Path) -> Any:
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [PROGRAM, str(folder), "--held-out", "1"])
        runpy.run_path(PROGRAM, run_name="__main__")
    found = json.loads(printed.getvalue())
    assert len(found["rows"]) == 3 * (1 + 2 * 3)
    return found["best"]


def resonant(seconds: float, seed: int, every: int) -> np.ndarray:
    """Noise through a resonance that jumps to another frequency every so many samples.

    A model draws it pre-emphasised, so what is written here is de-emphasised.
    """
    random = np.random.default_rng(seed)
    y = np.zeros(int(seconds * RATE))
    angle = 1.0
    for n in range(len(y)):
        if every and n % every == 0:
            angle = random.uniform(0.3, 2.6)
        y[n] = NOISE * random.normal() + 1.9 * np.cos(angle) * y[n - 1] - 0.9025 * y[n - 2]
    wave = y.copy()
    for n in range(1, len(wave)):
        wave[n] += 0.85 * wave[n - 1]
    return wave / 32768.0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What the predictors cost on a signal that stays the same, and on one that changes."""
    made = {}
    for every in (0, 4 * FRAME):
        folder = tmp_path_factory.mktemp(f"every{every}")
        for number in range(2):
            recordings.save(folder / f"{number}.wav", resonant(3.0, number, every), RATE)
        made[every] = best(folder)
    return made


def test_each_predictor_comes_near_what_the_noise_itself_costs(found):
    """Of a signal that stays the same: nats of gaussian noise of its innovation."""
    innovation = 0.5 * np.log(2.0 * np.pi * np.e * NOISE**2)
    for way, nats in found[0].items():
        assert innovation - 0.1 < nats < innovation + 0.25, way  # a frame is known beforehand


def test_knowing_the_spectrum_is_worth_more_where_it_changes(found):
    still, changing = (found[every]["past"] - found[every]["mel"] for every in (0, 4 * FRAME))
    assert changing > still + 0.05  # measured: 0.098
    for nats in found.values():
        assert nats["frame"] < nats["past"]
