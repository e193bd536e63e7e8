"""What a published layout looks like: symbolic shapes, sizes solved from them, all faults listed.

A layout maps a tensor name to its shape in words, one word a dimension: ``"3R R+A"`` is a matrix
of three times R rows and R plus A columns. Sizes are not configured; they are solved from the
shapes found. Every dimension votes, so one misshapen tensor is outvoted and named, and does not
make all the others look wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..canonical import Tensors, nonfinite_problem, show_shape
from ..config import OutputConfig
from ..errors import ModelError

State = Mapping[str, NDArray[Any]]
Layout = dict[str, str]

_TERM = re.compile(r"(\d*)([A-Z]\d*)?$")
_ROUNDS = 3  # pure dimensions first, then sums of known sizes, then once more with all votes


class Converted(NamedTuple):
    """What a dialect makes of a checkpoint: fields of `ModelConfig`, and canonical tensors."""

    fields: dict[str, Any]
    tensors: Tensors


class Dialect(NamedTuple):
    """One published layout. Found by the share of a file's tensors whose names fit `names`."""

    name: str
    names: re.Pattern[str]
    presets: tuple[str, ...]  # of the family; the first is the default
    sizes: Callable[[State], dict[str, int]]
    convert: Callable[[State], Converted]
    # of a layout in several versions: the presets of the one that a state is; None: `presets`
    presets_of: Callable[[State], tuple[str, ...]] | None = None
    fits: Callable[[State], bool] | None = None  # of layouts with the same names: is it this one
    output: OutputConfig | None = None  # where no preset fits; None: as the first preset


def _terms(dimension: str) -> dict[str, int]:
    """Split ``"1+M+4A"`` into {"": 1, "M": 1, "A": 4}; the constant has the empty name."""
    terms: dict[str, int] = {}
    for word in dimension.split("+"):
        match = _TERM.match(word)
        if not match or not word:
            raise ValueError(f"bad dimension {dimension!r}")
        factor, symbol = match.groups()
        terms[symbol or ""] = terms.get(symbol or "", 0) + int(factor or 1)
    return terms


def _votes(dimension: str, found: int, known: Mapping[str, int], *, pure: bool) -> dict[str, int]:
    """Say which size each symbol must have for `dimension` to be `found`."""
    terms = _terms(dimension)
    votes = {}
    for symbol, factor in terms.items():
        others = {name: times for name, times in terms.items() if name != symbol}
        if not symbol or (pure and others) or any(o and o not in known for o in others):
            continue
        rest = found - sum(times * known.get(name, 1) for name, times in others.items())
        if rest > 0 and rest % factor == 0:
            votes[symbol] = rest // factor
    return votes


def solve(layout: Mapping[str, str], state: State) -> dict[str, int]:
    """Return the size of every symbol that the shapes tell; the most frequent answer wins."""
    sizes: dict[str, int] = {}
    for number in range(_ROUNDS):
        ballots: dict[str, Counter[int]] = {}
        for name, words in layout.items():
            shape, dimensions = getattr(state.get(name), "shape", ()), words.split()
            if len(shape) != len(dimensions):
                continue
            for dimension, found in zip(dimensions, shape, strict=True):
                for symbol, size in _votes(dimension, found, sizes, pure=number == 0).items():
                    ballots.setdefault(symbol, Counter())[size] += 1
        sizes.update({symbol: ballot.most_common(1)[0][0] for symbol, ballot in ballots.items()})
    return sizes


def _expected(words: str, sizes: Mapping[str, int]) -> tuple[int | str, ...]:
    """Put sizes into a symbolic shape; a dimension with an unknown symbol stays in words."""
    shape: list[int | str] = []
    for dimension in words.split():
        terms = _terms(dimension)
        known = all(not symbol or symbol in sizes for symbol in terms)
        total = sum(times * sizes.get(symbol, 1) for symbol, times in terms.items())
        shape.append(total if known else dimension)
    return tuple(shape)


def _show(shape: Iterable[int | str]) -> str:
    return "[" + ", ".join(str(n) for n in shape) + "]"


def problems(
    layout: Mapping[str, str], optional: Iterable[str], state: State, sizes: Mapping[str, int]
) -> list[str]:
    """List missing, extra, misshapen, not floating-point and not finite tensors."""
    found = []
    for name, words in layout.items():
        expected = _expected(words, sizes)
        array = state.get(name)
        if array is None:
            found.append(f"missing tensor {name}, expected shape {_show(expected)}")
            continue
        if tuple(array.shape) != expected:
            found.append(f"{name} has shape {show_shape(array.shape)}, expected {_show(expected)}")
        if not np.issubdtype(array.dtype, np.floating):
            found.append(f"{name} has dtype {array.dtype}, expected a floating-point type")
            continue
        sentence = nonfinite_problem(name, array)
        if sentence:
            found.append(sentence)
        if name.endswith("running_var") and bool((array < 0).any()):
            found.append(f"{name} has negative values, a variance cannot be negative")
    allowed = {*layout, *optional}
    for name, array in state.items():
        if name not in allowed:
            found.append(f"unexpected tensor {name} of shape {show_shape(array.shape)}")
    return found


def checked_sizes(
    dialect: str,
    layout: Mapping[str, str],
    optional: Iterable[str],
    state: State,
    more: Callable[[dict[str, int]], list[str]] | None = None,
) -> dict[str, int]:
    """Solve the sizes and refuse a state that is not exactly the layout.

    Parameters
    ----------
    dialect : str
        Name for the message.
    layout, optional
        Tensors that must be there with their shapes, and tensors that may be there.
    state : mapping of str to array
    more : callable
        Given the sizes, returns further problems (such as an odd number that should be even).

    Raises
    ------
    ModelError
        Listing every problem.
    """
    sizes = solve(layout, state)
    found = problems(layout, optional, state, sizes)
    if more is not None:
        found += more(sizes)
    if found:
        raise ModelError(f"The checkpoint is not a complete {dialect} model:", found)
    return sizes


def batch_norm_counters(layout: Mapping[str, str]) -> list[str]:
    """Name the counters PyTorch keeps beside each batch-norm: of no use, absent before 0.4.1."""
    tail = "running_var"
    return [
        name[: -len(tail)] + "num_batches_tracked" for name in layout if name.endswith(f".{tail}")
    ]


def fold_batch_norm(
    weight: NDArray[Any],
    norm: Mapping[str, NDArray[Any]],
    bias: NDArray[Any] | None = None,
    eps: float = 1e-5,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold an evaluation-mode batch-norm into the convolution before it.

    Parameters
    ----------
    weight : array [out, in] or [out, in, kernel]
    norm : mapping
        ``weight``, ``bias``, ``running_mean``, ``running_var``, each [out].
    bias : array [out], optional
        Of the convolution.
    eps : float
        Added to the variance.

    Returns
    -------
    weight, bias : float32 arrays
        Computed in float64: w * g / sqrt(var + eps) and b + (bias - mean) * g / sqrt(var + eps).
    """
    wide = {name: np.asarray(norm[name], dtype=np.float64) for name in norm}
    gain = wide["weight"] / np.sqrt(wide["running_var"] + eps)
    centre = -wide["running_mean"] + (0.0 if bias is None else bias.astype(np.float64))
    tall = gain.reshape(-1, *([1] * (weight.ndim - 1)))
    with np.errstate(over="ignore"):  # an overflow is reported by the check of the result
        return (
            np.ascontiguousarray(weight.astype(np.float64) * tall, dtype=np.float32),
            np.ascontiguousarray(wide["bias"] + centre * gain, dtype=np.float32),
        )


def float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return a C-contiguous float32 copy."""
    return np.array(values, dtype=np.float32, order="C")
