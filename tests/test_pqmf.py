"""The filter bank: equal to a dense one, the same bits in any cut, and as good as it can be."""

from __future__ import annotations

import multiband_twin as twin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavernn_fast import pqmf

BANDS = tuple(pqmf.PROTOTYPES)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bands", BANDS)
def test_the_filters_are_those_of_the_formula(bands: int) -> None:
    for ours, theirs in zip(pqmf.filters(bands), twin.filters(bands), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-15)


@pytest.mark.parametrize("steps", [0, 1, 2, 15, 16, 300])
@pytest.mark.parametrize("bands", BANDS)
def test_synthesis_is_the_dense_one(bands: int, steps: int) -> None:
    values = RNG.normal(size=steps * bands)
    expected = twin.synthesis(values.reshape(-1, bands).T) if steps else np.zeros(0)
    np.testing.assert_allclose(pqmf.synthesise(values, bands), expected, atol=1e-13)


@pytest.mark.parametrize("samples", [4, 7, 64, 1003])
@pytest.mark.parametrize("bands", BANDS)
def test_analysis_is_the_dense_one(bands: int, samples: int) -> None:
    wave = RNG.normal(size=samples)
    found = pqmf.analyse(wave, bands)
    assert found.shape == (samples // bands * bands,)
    np.testing.assert_allclose(found, twin.analysis(wave, bands).T.reshape(-1), atol=1e-13)


@settings(deadline=None, max_examples=60)
@given(
    bands=st.sampled_from(BANDS),
    cuts=st.lists(st.integers(0, 90), max_size=12),
    many=st.booleans(),
)
def test_any_cut_gives_the_same_bits(bands: int, cuts: list[int], many: bool) -> None:
    if many:
        cuts = [*cuts, pqmf._BLOCK_STEPS + 3]
    values = np.random.default_rng(len(cuts)).normal(size=bands * sum(cuts))
    synthesis, parts, pushed = pqmf.Synthesis(bands), [], 0
    for cut in cuts:
        parts.append(synthesis.push(values[pushed : pushed + bands * cut]))
        pushed += bands * cut
        assert sum(map(len, parts)) == max(0, pushed - pqmf.delay(bands))
    parts.append(synthesis.finish())
    assert np.concatenate(parts).tobytes() == pqmf.synthesise(values, bands).tobytes()


def signal_to_error(wave: np.ndarray, copy: np.ndarray) -> float:
    inner = slice(100, -100)
    error = wave[inner] - copy[inner]
    return 10.0 * float(np.log10(np.mean(wave[inner] ** 2) / np.mean(error**2)))


def test_two_bands_reconstruct_and_four_do_as_published() -> None:
    """Figures of docs/checkpoints.md: white noise there and back again."""
    wave = np.random.default_rng(1).normal(size=24000)
    two = pqmf.synthesise(pqmf.analyse(wave, 2), 2)
    assert signal_to_error(wave, two) == pytest.approx(67.0, abs=1.0)
    four = pqmf.synthesise(pqmf.analyse(wave, 4), 4)
    assert signal_to_error(wave[:-1], four[1:]) == pytest.approx(16.2, abs=0.5)  # a sample late
    assert signal_to_error(wave, four) < 0.0


def test_centred_cosines_would_reconstruct_four_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pqmf.PROTOTYPES, 4, pqmf.Prototype(62, 0.142, 9.0, 31.0))
    pqmf._phases.cache_clear()
    try:
        wave = np.random.default_rng(1).normal(size=24000)
        copy = pqmf.synthesise(pqmf.analyse(wave, 4), 4)
    finally:
        pqmf._phases.cache_clear()
    assert signal_to_error(wave, copy) == pytest.approx(64.0, abs=1.0)
