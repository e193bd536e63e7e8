"""Negative log-likelihood of known samples under the engine's logits, in nats per sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig

_MOL_CLASSES = 65536  # bins of [-1, 1] that a logistic is integrated over, one per 16-bit value
_LOG_SCALE_FLOOR = float(np.log(1e-14))
_LOG_STD_FLOOR = -7.0  # of a gaussian head
_HALF_BIN = 1.0 / (_MOL_CLASSES - 1)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)  # to integrate a density over a bin
_LOG_NARROW = 20.0  # parameters of exp(20): deviations of a bin
_REACH = 8.0  # deviations from the mean within which a bin is integrated


def negative_log_likelihood(
    config: ModelConfig, logits: NDArray[Any], targets: NDArray[Any]
) -> NDArray[np.float64]:
    """Nats of each sample under the logits of its step.

    Parameters
    ----------
    logits : ndarray of floats, [n, logits_size]
    targets : ndarray, [n]
        As the engine takes them for `forced`: dual 256 coarse + fine, softmax label, else x.

    Returns
    -------
    ndarray, float64, [n]
        dual: coarse plus fine. mol, gaussian, beta: of the 16-bit bin around x (`mixture_nll`,
        `gaussian_nll`, `beta_nll`).
    """
    values = np.asarray(logits, dtype=np.float64)
    if config.head == "mol":
        return mixture_nll(values, np.asarray(targets, dtype=np.float64))
    if config.head in ("gaussian", "beta"):
        nll = gaussian_nll if config.head == "gaussian" else beta_nll
        return nll(values, np.asarray(targets, dtype=np.float64))
    labels = np.asarray(targets, dtype=np.int64)
    if config.core == "dual":
        return _cross_entropy(values[:, :256], labels >> 8) + _cross_entropy(
            values[:, 256:], labels & 255
        )
    return _cross_entropy(values, labels)


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.float64]:
    nll = -_log_softmax(logits)[np.arange(len(labels)), labels]
    return np.asarray(nll, dtype=np.float64)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def mixture_nll(logits: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Discretised mixture of logistics (Salimans et al., PixelCNN++, ICLR 2017, section 2.1).

    The probability of x is the mass of each logistic between x - 1/65535 and x + 1/65535. As in
    the loss these models are trained with, the mass beyond is added where |x| > 0.999 (speech is
    hardly ever there), and where the mass is too small to subtract, the density at x times the
    bin's width stands in for it.

    Parameters
    ----------
    logits : ndarray, float64, [n, 3 * mixtures]
        Mixture logits, means, log-scales.
    x : ndarray, float64, [n], in [-1, 1]

    Returns
    -------
    ndarray, float64, [n], nats
    """
    weights, means, log_scales = np.split(logits, 3, axis=1)
    log_scales = np.maximum(log_scales, _LOG_SCALE_FLOOR)
    inverse = np.exp(-log_scales)
    centred = x[:, None] - means
    half_bin = 1.0 / (_MOL_CLASSES - 1)
    upper, lower, middle = (
        inverse * (centred + half_bin),
        inverse * (centred - half_bin),
        inverse * centred,
    )
    mass = _sigmoid(upper) - _sigmoid(lower)
    density = middle - log_scales - 2.0 * _softplus(middle)
    inside = np.where(
        mass > 1e-5,
        np.log(np.maximum(mass, 1e-12)),
        density - np.log((_MOL_CLASSES - 1) / 2.0),
    )
    log_p = np.where(
        x[:, None] < -0.999,
        upper - _softplus(upper),
        np.where(x[:, None] > 0.999, -_softplus(lower), inside),
    )
    log_p = log_p + _log_softmax(weights)
    top = log_p.max(axis=1)
    return np.asarray(-(top + np.log(np.exp(log_p - top[:, None]).sum(axis=1))))


def gaussian_nll(outputs: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mass of a normal in the 16-bit bin around x; the outermost bins have the tails.

    Parameters
    ----------
    outputs : ndarray, float64, [n, 2]
        Mean, log-deviation (floor -7, as in the samplers of these models).
    x : ndarray, float64, [n], in [-1, 1]

    Returns
    -------
    ndarray, float64, [n], nats
    """
    mean, log_std = outputs[:, 0], np.maximum(outputs[:, 1], _LOG_STD_FLOOR)
    deviation = np.exp(log_std)

    def log_density(y: NDArray[np.float64]) -> NDArray[np.float64]:
        z = (y - mean[:, None]) / deviation[:, None]
        return -0.5 * z * z - (log_std + 0.5 * math.log(2.0 * math.pi))[:, None]

    low, high = x - _HALF_BIN, x + _HALF_BIN
    log_p = _log_integral(log_density, low, high)
    log_p = np.where(high >= 1.0, _log_normal_tail((low - mean) / deviation), log_p)
    return -np.where(low <= -1.0, _log_normal_tail((mean - high) / deviation), log_p)


def beta_nll(outputs: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mass of 2 y - 1, y from a beta distribution, in the 16-bit bin around x.

    A distribution much narrower than a bin is scored as one about as wide, at the same place.

    Parameters
    ----------
    outputs : ndarray, float64, [n, 2]
        Logarithms of alpha and beta.
    x : ndarray, float64, [n], in [-1, 1]

    Returns
    -------
    ndarray, float64, [n], nats
    """
    narrow = np.maximum(0.0, outputs.max(axis=1, keepdims=True) - _LOG_NARROW)
    a, b = np.exp(np.maximum(outputs - narrow, -20.0)).T  # the sampler's limit
    front = [
        math.lgamma(p + q) - math.lgamma(p) - math.lgamma(q)
        for p, q in zip(a.tolist(), b.tolist(), strict=True)
    ]

    # Over t = ln(y / (1 - y)), where the density has no poles: y^a (1 - y)^b / B(a, b).
    def log_density(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(-a[:, None] * _softplus(-t) - b[:, None] * _softplus(t))

    low, high = (np.clip(x + side, -1.0, 1.0) for side in (-_HALF_BIN, _HALF_BIN))
    inner = np.clip(x, -1.0 + 2.0 * _HALF_BIN, 1.0 - 2.0 * _HALF_BIN)  # the outermost: below
    low_t, high_t = _logit(inner - _HALF_BIN), _logit(inner + _HALF_BIN)
    log_p = _log_integral(log_density, *_around_top(low_t, high_t, a, b))
    log_p = np.where(low <= -1.0, _log_beta_tail(0.5 * (1.0 + high), a, b), log_p)
    return -(front + np.where(high >= 1.0, _log_beta_tail(0.5 * (1.0 - low), b, a), log_p))


def _around_top(
    low: NDArray[np.float64], high: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of an interval many deviations of ln(y / (1 - y)) wide the part that has the mass."""
    top, reach = np.log(a) - np.log(b), _REACH * np.sqrt(1.0 / a + 1.0 / b)
    near, far = np.maximum(low, top - reach), np.minimum(high, top + reach)
    wide = (high - low > reach) & (near < far)
    return np.where(wide, near, low), np.where(wide, far, high)


def _log_beta_tail(
    y: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logarithm of the integral of y^(a-1) (1-y)^(b-1) over [0, y], y small: over s = y^a."""

    def log_density(s: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((b[:, None] - 1.0) * np.log1p(-y[:, None] * s ** (1.0 / a[:, None])))

    y = np.minimum(y, 0.5)  # larger ones are not asked for
    inside = _log_integral(log_density, np.zeros_like(y), np.ones_like(y))
    return np.asarray(a * np.log(y) - np.log(a) + inside)


def _logit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(y / (1 - y)) of y = (1 + x) / 2."""
    return np.asarray(np.log1p(x) - np.log1p(-x))


def _log_integral(
    log_density: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Logarithm of the integral over [low, high] of each row, float64 [n]."""
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    values = log_density(middle[:, None] + half[:, None] * _NODES) + np.log(_WEIGHTS)
    top = values.max(axis=1)
    return np.asarray(np.log(half) + top + np.log(np.exp(values - top[:, None]).sum(axis=1)))


def _log_normal_tail(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of P(normal > z), float64 [n]; where it underflows, its expansion for large z."""

    def one(value: float) -> float:
        tail = 0.5 * math.erfc(value / math.sqrt(2.0))
        if tail > 0.0:
            return math.log(tail)
        return -0.5 * value * value - math.log(value * math.sqrt(2.0 * math.pi))

    return np.array([one(value) for value in z.tolist()])


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softplus(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.logaddexp(0.0, x)
