"""Pseudo-quadrature mirror filters: a waveform to B sub-bands of a B-th of its rate, and back.

A low-pass prototype, a sinc of `taps` + 1 values under a Kaiser window, is modulated by cosines to
one filter a band (Nguyen 1994, "Near-perfect-reconstruction pseudo-QMF banks"; Lin and Vaidyanathan
1998 for the window). Band k hears frequencies k / (2 B) to (k + 1) / (2 B) of the sample rate.
Filters, their use as correlations, the zeros beyond both ends and the factor B of the synthesis are
those of the program that models of four bands were trained with (docs/checkpoints.md). It takes the
cosines to be centred half a sample before the middle of the prototype, so a waveform comes back one
sample late and with 16 dB of signal over error for white noise; models have learned these bands, so
they are kept. Centred in the middle, the filters give 64 dB.

Sub-bands are kept interleaved: value n is band n % B of step n // B. All arithmetic is float64.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class Prototype(NamedTuple):
    """The low-pass that all bands are modulated from."""

    taps: int  # order of the filter, even: it has one value more
    cutoff: float  # share of the Nyquist frequency
    beta: float  # of the Kaiser window
    centre: float  # of the cosines, in taps from the first


# By number of bands. Four: as published. Two: published by nobody, the same length and window with
# the cut-off that reconstructs best.
PROTOTYPES: dict[int, Prototype] = {
    2: Prototype(taps=62, cutoff=0.267, beta=9.0, centre=31.0),
    4: Prototype(taps=62, cutoff=0.15, beta=9.0, centre=30.5),
}
_BLOCK_STEPS = 4096  # steps synthesised at once: they bound the temporary arrays


def delay(bands: int) -> int:
    """Samples by which the waveform lags behind the sub-bands that come, in whole steps; 0 for 1.

    A sample hears the steps up to half a filter after it: 32 samples for filters of 63.
    """
    if bands == 1:
        return 0
    back, weights = _phases(bands)
    return bands * (len(weights) - 1 - back)


def prototype_filter(prototype: Prototype) -> Values:
    """Values of the low-pass, float64 [taps + 1], symmetric."""
    half = prototype.taps // 2
    place = np.arange(-half, half + 1, dtype=np.float64)
    low_pass = prototype.cutoff * np.sinc(prototype.cutoff * place)
    return np.asarray(low_pass * np.kaiser(prototype.taps + 1, prototype.beta))


def filters(bands: int) -> tuple[Values, Values]:
    """Filters of analysis and synthesis, each float64 [bands, taps + 1].

    Band k: 2 p[j] cos((2 k + 1) pi / (2 B) (j - centre) + (-1)^k pi / 4), and with - for + in the
    synthesis.
    """
    prototype = PROTOTYPES[bands]
    low_pass = prototype_filter(prototype)
    k = np.arange(bands)[:, None]
    place = np.arange(prototype.taps + 1) - prototype.centre
    angle = (2 * k + 1) * (np.pi / (2 * bands)) * place
    phase = np.where(k % 2 == 0, 1.0, -1.0) * (np.pi / 4.0)
    return 2.0 * low_pass * np.cos(angle + phase), 2.0 * low_pass * np.cos(angle - phase)


def analyse(wave: Values, bands: int) -> Values:
    """Sub-bands of a whole waveform.

    Parameters
    ----------
    wave : float64 array [n_samples]
        Zero beyond both ends.
    bands : int
        A key of `PROTOTYPES`.

    Returns
    -------
    float64 array [bands * (n_samples // bands)]
        Interleaved. Samples beyond the last whole step are heard, but make no step of their own.
    """
    taps, steps = PROTOTYPES[bands].taps, wave.size // bands
    padded = np.pad(wave, taps // 2)
    out = np.zeros((steps, bands))
    for j, of_bands in enumerate(filters(bands)[0].T):
        out += padded[j : j + bands * steps : bands, None] * of_bands
    return out.reshape(-1)


@lru_cache(maxsize=4)
def _phases(bands: int) -> tuple[int, Values]:
    """Synthesis as a filter over steps: steps that it looks back, weights [window, bands, bands].

    Sample B q + p is the sum over the steps s of the window around q of weight[s, band, p] times
    the band's value: tap j = B (s - q) - p + taps / 2, times B.
    """
    half = PROTOTYPES[bands].taps // 2
    synthesis = filters(bands)[1]
    back, ahead = half // bands, (half + bands - 1) // bands
    weights = np.zeros((back + 1 + ahead, bands, bands))
    for row, distance in enumerate(range(-back, ahead + 1)):
        for p in range(bands):
            tap = bands * distance - p + half
            if 0 <= tap <= 2 * half:
                weights[row, :, p] = bands * synthesis[:, tap]
    weights.flags.writeable = False
    return back, weights


def _filtered(values: Values, weights: Values) -> Values:
    """Samples of all steps whose window `values` [steps, bands] hold, in one order of summation.

    A sum of products one after the other has the same bits wherever a step lies in the array,
    which a product of matrices has not.
    """
    window, bands, _ = weights.shape
    count = max(0, len(values) - window + 1)
    out, product = np.zeros((count, bands)), np.empty((count, bands))
    for row in range(window):
        for band in range(bands):
            np.multiply(values[row : row + count, band, None], weights[row, band], out=product)
            out += product
    return out


class Synthesis:
    """Sub-bands of one utterance to its waveform, chunk by chunk; any cut gives the same bits.

    Parameters
    ----------
    bands : int
        A key of `PROTOTYPES`.

    Examples
    --------
    ``np.concatenate([*map(synthesis.push, chunks), synthesis.finish()])`` equals
    ``synthesise(np.concatenate(chunks), bands)``.
    """

    def __init__(self, bands: int) -> None:
        self._bands = bands
        back, self._weights = _phases(bands)
        self._ahead = len(self._weights) - 1 - back
        self._heard = np.zeros((back, bands))  # steps that samples to come still hear

    def push(self, values: Values) -> Values:
        """Add interleaved values, float64 [n], n a multiple of the bands.

        Returns
        -------
        float64 array [m]
            The samples that are complete: all but the last `delay` of what has been pushed.
        """
        window = np.concatenate([self._heard, values.reshape(-1, self._bands)])
        reach = len(self._weights) - 1
        steps = max(0, len(window) - reach)
        parts = [
            _filtered(window[first : min(first + _BLOCK_STEPS, steps) + reach], self._weights)
            for first in range(0, steps, _BLOCK_STEPS)
        ]
        self._heard = window[steps:]
        return np.concatenate([np.zeros((0, self._bands)), *parts]).reshape(-1)

    def finish(self) -> Values:
        """Return the samples that are still to come; nothing lies beyond the last step."""
        return self.push(np.zeros(self._ahead * self._bands))


def synthesise(values: Values, bands: int) -> Values:
    """Waveform float64 [n] of all sub-bands of an utterance, interleaved [n]; zeros lie beyond."""
    synthesis = Synthesis(bands)
    return np.concatenate([synthesis.push(values), synthesis.finish()])
