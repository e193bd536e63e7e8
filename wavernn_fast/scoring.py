"""Negative log-likelihood of known samples under the engine's logits, in nats per sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig

_MOL_CLASSES = 65536  # bins of [-1, 1] that a logistic is integrated over, one per 16-bit value
_LOG_SCALE_FLOOR = float(np.log(1e-14))


def negative_log_likelihood(
    config: ModelConfig, logits: NDArray[Any], targets: NDArray[Any]
) -> NDArray[np.float64]:
    """Nats of each sample under the logits of its step.

    Parameters
    ----------
    logits : ndarray of floats, [n, logits_size]
    targets : ndarray, [n]
        As the engine takes them for `forced`: dual 256 coarse + fine, softmax label, mol x.

    Returns
    -------
    ndarray, float64, [n]
        dual: coarse plus fine. mol: of the 16-bit bin around x (`mixture_nll`).
    """
    values = np.asarray(logits, dtype=np.float64)
    if config.head == "mol":
        return mixture_nll(values, np.asarray(targets, dtype=np.float64))
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


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softplus(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.logaddexp(0.0, x)
