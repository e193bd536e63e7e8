"""What a mel can be worth to a model that has heard the past, told by linear predictors.

All predict held-out recordings, pre-emphasised as the models of preset native-22k draw them, from
the samples before; they differ in where their coefficients and their variance come from:

- "frame": both from the frame of 240 samples that is predicted, the coefficients with what lies
  around it in a window. So they know samples before they predict them, the more the more
  coefficients there are and the shorter the window.
- "mel": coefficients from the 80 mel bins of the frame, spread over the spectrum again; the
  variance is the frame's own.
- "past": both from samples before: coefficients anew every 60 samples, from a window that ends
  there, the variance as a running mean.

What lies between is what knowing the present spectrum saves a linear predictor, and a guess at what
it may save a network, no bound.

    python benchmarks/mel_worth.py RECORDINGS
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_fast.config import ModelConfig
from wavernn_fast.features import mel_filterbank
from wavernn_fast.train import run as train_run
from wavernn_fast.train.settings import TrainSettings

FRAME, ANEW = 240, 60  # samples
MEMORY = 48.0  # samples that the running variance remembers
ROUNDING = 1.0 / 12.0  # variance of rounding to whole numbers
Array = NDArray[np.float64]


def coefficients(segments: Array, order: int) -> Array:
    """Linear prediction of windowed segments [n, length] by autocorrelation: [n, order]."""
    return of_spectrum(np.abs(np.fft.rfft(segments, 2 * segments.shape[1])) ** 2, order)


def of_spectrum(power: Array, order: int) -> Array:
    """Linear prediction of signals with these power spectra [n, bins]: [n, order]."""
    correlation = np.fft.irfft(power)[:, : order + 1]
    correlation[:, 0] = correlation[:, 0] * (1.0 + 1e-5) + 1.0  # a little noise, for silence too
    apart = np.abs(np.arange(order)[:, None] - np.arange(order))
    found: Array = np.linalg.solve(correlation[:, apart], correlation[:, 1:, None])[:, :, 0]
    return found


def pieces(u: Array, starts: NDArray[np.int64], length: int) -> Array:
    """Samples [start, start + length) of each start: [n, length]."""
    return u[starts[:, None] + np.arange(length)]


def errors(u: Array, starts: NDArray[np.int64], length: int, weights: Array) -> Array:
    """What the predictor of each start leaves of its next `length` samples: [n, length]."""
    order = weights.shape[1]
    heard = pieces(u, starts - order, length + order)
    windows = np.lib.stride_tricks.sliding_window_view(heard, order, axis=1)[:, :length]
    found: Array = heard[:, order:] - np.einsum("ntk,nk->nt", windows, weights[:, ::-1])
    return found


def knowing_the_frame(u: Array, order: int, window: int) -> Array:
    """Nats of each frame whose own samples give coefficients and variance."""
    starts = np.arange(2 * window, len(u) - 2 * window, FRAME)
    around = pieces(u, starts + (FRAME - window) // 2, window) * np.hanning(window)
    return knowing_variance(errors(u, starts, FRAME, coefficients(around, order)))


def knowing_variance(error: Array) -> Array:
    """Nats of gaussian errors [n, FRAME] whose variance in each frame is known: [n]."""
    found: Array = 0.5 * np.log(2.0 * np.pi * np.e * (np.mean(error**2, axis=1) + ROUNDING))
    return found


def knowing_the_mel(u: Array, order: int, size: int, config: ModelConfig) -> Array:
    """Nats of each frame whose mel, of `size` samples, gives the coefficients."""
    mel, emphasis = config.mel, config.output.deemphasis
    assert mel is not None
    starts = np.arange(2 * size, len(u) - 2 * size, FRAME)
    around = pieces(u, starts + (FRAME - size) // 2, size) * np.hanning(size)
    # A mel is of the wave as it was before this filter.
    filtered = np.abs(1.0 - emphasis * np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size))
    filters = mel_filterbank(mel)
    bins = (np.abs(np.fft.rfft(around)) / filtered) @ filters.T / filters.sum(axis=1)  # means
    center = filters @ np.arange(size // 2 + 1) / filters.sum(axis=1)
    at = np.arange(size // 2 + 1)
    log = np.log(np.maximum(bins, 1e-3))
    magnitude = np.exp(np.stack([np.interp(at, center, frame) for frame in log]))
    weights = of_spectrum((magnitude * filtered) ** 2, order)
    return knowing_variance(errors(u, starts, FRAME, weights))


def knowing_the_past(u: Array, order: int, window: int) -> Array:
    """Nats of each sample where earlier ones give coefficients and variance."""
    starts = np.arange(2 * window, len(u) - 2 * window, ANEW)
    fall = window // 8  # the window rises slowly, and falls fast towards the present
    shape = np.hanning(2 * (window - fall))[: window - fall]
    shape = np.concatenate([shape, np.hanning(2 * fall)[fall:]])
    weights = coefficients(pieces(u, starts - window, window) * shape, order)
    before = 4 * int(MEMORY)  # samples over which the variance begins
    error = errors(u, starts - before, before + ANEW, weights) ** 2
    variance = error[:, :before].mean(axis=1)
    nats = np.empty((len(starts), ANEW))
    for i in range(before + ANEW):
        if i >= before:
            known = variance + ROUNDING
            nats[:, i - before] = 0.5 * (np.log(2.0 * np.pi * known) + error[:, i] / known)
        variance += (error[:, i] - variance) / MEMORY
    return nats.reshape(-1)


def worth(recordings: list[Array], config: ModelConfig) -> dict[str, Any]:
    """Nats a sample of all predictors at several orders and windows, and the best of each kind."""
    assert config.mel is not None
    windows = (480, 720, 960)
    ways = {
        "frame": (knowing_the_frame, windows),
        "mel": (partial(knowing_the_mel, config=config), (config.mel.n_fft,)),
        "past": (knowing_the_past, windows),
    }
    rows = [
        {
            "knows": way,
            "order": order,
            "window": window,
            "nats": float(np.concatenate([tell(u, order, window) for u in recordings]).mean()),
        }
        for way, (tell, lengths) in ways.items()
        for order in (16, 32, 48)
        for window in lengths
    ]
    best = {way: min(r["nats"] for r in rows if r["knows"] == way) for way in ways}
    return {"rows": rows, "best": best}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--held-out", type=int, default=12)
    args = parser.parse_args()
    where = train_run.Data(train=args.data, held_out=args.held_out)
    config = train_run.ModelSizes().config()
    loaded = train_run.load(where, config, TrainSettings(steps=1))
    found = worth([r.samples.astype(np.float64) - 32768.0 for r in loaded.valid], config)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
