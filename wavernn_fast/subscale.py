"""The Subscale scheme: one utterance as B interleaved rows, drawn side by side with a lag.

Kalchbrenner et al. 2018, "Efficient Neural Audio Synthesis", section 4.1. With B = `factor` and
F = `horizon`, row s holds the samples n = B * i + s, one a column i::

    B = 4     column   0   1   2   3
      row 0            0   4   8  12
      row 1            1   5   9  13
      row 2            2   6  10  14
      row 3            3   7  11  15

Sample (s, i) may depend on its own row before column i, and on all rows z < s up to column i + F.
So row s draws column i once row s - 1 has drawn column i + F: it runs F + 1 columns behind.

Rows, columns, samples and steps count from 0. The paper's figure numbers samples from 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Scalar = TypeVar("Scalar", bound=np.generic)

_EXTREME = 69.0  # logarithm of a temperature, either way: powers of what is finite stay so


def fold(samples: NDArray[Scalar], factor: int) -> NDArray[Scalar]:
    """Deal an utterance into interleaved rows: rows[s, i] = samples[factor * i + s].

    Parameters
    ----------
    samples : array [n_samples]
        Any type and unit; there may be none.
    factor : int
        Number of rows B, 1 or more.

    Returns
    -------
    array [factor, ceil(n_samples / factor)]
        A copy of the same type, rows one after the other in memory. What the last column lacks is
        zero.

    Raises
    ------
    InputError
        If samples is not a vector or factor is below 1.
    """
    _check(factor=factor)
    if samples.ndim != 1:
        raise InputError(
            f"Samples of shape {list(samples.shape)} cannot be folded; give one vector [n_samples]."
        )
    columns = -(-len(samples) // factor)
    padded = np.zeros(columns * factor, samples.dtype)  # [columns * factor]
    padded[: len(samples)] = samples
    return np.ascontiguousarray(padded.reshape(columns, factor).T)


def unfold(rows: NDArray[Scalar], n_samples: int) -> NDArray[Scalar]:
    """Join rows to an utterance: the inverse of `fold`.

    Parameters
    ----------
    rows : array [factor, columns]
        Any type and unit; one row or more.
    n_samples : int
        Samples of the utterance, at most factor * columns; the padding behind them is dropped.

    Returns
    -------
    array [n_samples]
        A copy of the same type.

    Raises
    ------
    InputError
        If rows is not a matrix with a row, or holds fewer samples.
    """
    _check(n_samples=n_samples)
    if rows.ndim != 2 or not len(rows) or n_samples > rows.size:
        raise InputError(
            f"Rows of shape {list(rows.shape)} cannot be joined to {n_samples} samples; give"
            " [factor, columns] with as many at least."
        )
    return rows.T.flatten()[:n_samples]


def row_length(n_samples: int, factor: int, row: int) -> int:
    """Columns in which a row has a sample, of an utterance of `n_samples` samples.

    Raises
    ------
    InputError
        If a size is impossible or there is no such row.
    """
    _check(n_samples=n_samples, factor=factor)
    if not 0 <= row < factor:
        raise InputError(f"There is no row {row}; rows are numbered from 0 to {factor - 1}.")
    return -((row - n_samples) // factor)  # ceil((n_samples - row) / factor)


@dataclass(frozen=True)
class Schedule:
    """Which samples are drawn in which step, all rows in lockstep.

    In every step each row draws one column, `lag` columns behind the row above; a row that has not
    begun or has ended draws none. The lag is horizon + 1 where every sample has its own look at
    the rows above. A conditioning network that runs once for a slice of S columns must see all
    that the slice's last sample may see before the slice begins; the lag is then horizon + S. Where
    it runs while the slice before is drawn, it is horizon + 2 S.

    The schedule of a shorter utterance is the beginning of that of a longer one: the first n
    samples are there after as many steps as an utterance of n samples has.

    Parameters
    ----------
    n_samples : int
        Samples of the utterance, T; 0 or more.
    factor : int
        Number of rows, B; 1 or more.
    horizon : int
        Columns that a sample sees ahead in earlier rows, F; 0 or more.
    slice_columns : int
        Columns of a slice, S; 1 or more. Slices begin at multiples of S.
    slices_ahead : int
        Slices drawn between the network's look at the rows above and the slice that it is for; 0
        or more.

    Raises
    ------
    InputError
        If a number is too small.
    """

    n_samples: int
    factor: int
    horizon: int
    slice_columns: int = 1
    slices_ahead: int = 0

    def __post_init__(self) -> None:
        _check(self.n_samples, self.factor, self.horizon, self.slice_columns, self.slices_ahead)

    @property
    def n_columns(self) -> int:
        """Columns, the last of which may be incomplete."""
        return -(-self.n_samples // self.factor)

    @property
    def lag(self) -> int:
        """Columns that a row runs behind the row above; 0 where there is one row only."""
        if self.factor == 1:
            return 0
        return self.horizon + (1 + self.slices_ahead) * self.slice_columns

    @property
    def n_steps(self) -> int:
        """Steps until everything is drawn: floor(T / B) + (B - 1) * lag, if T is B or more.

        The last row is the last to end, as it has at most one column less and a lag. Steps in
        which nothing is drawn are counted; there are some where a row ends before the next begins.
        """
        if self.n_samples == 0:
            return 0
        last = min(self.n_samples, self.factor) - 1  # last row that has a sample
        return row_length(self.n_samples, self.factor, last) + last * self.lag

    @property
    def first_column_steps(self) -> int:
        """Steps until the first column is complete, which is when audio begins to flow.

        From then on each step completes a column of `factor` samples.
        """
        return min(self.n_steps, (self.factor - 1) * self.lag + 1)

    @property
    def samples_per_step(self) -> float:
        """Samples that a step draws on average; 0 for an empty utterance."""
        return self.n_samples / self.n_steps if self.n_samples else 0.0

    def column(self, row: int, step: int) -> int:
        """Column that a row draws in a step; negative before it begins, too large after its end."""
        return step - row * self.lag

    def step_of(self, n: int) -> int:
        """Step in which sample n is drawn.

        Raises
        ------
        InputError
            If there is no such sample.
        """
        _check_sample(n, self.n_samples)
        return n // self.factor + n % self.factor * self.lag

    def steps(self) -> NDArray[np.int64]:
        """`step_of` every sample: int64 [n_samples]."""
        numbers = np.arange(self.n_samples, dtype=np.int64)
        return numbers // self.factor + numbers % self.factor * self.lag

    def samples_at(self, step: int) -> list[int]:
        """Numbers of the samples that a step draws, in the order of rows; may be empty."""
        columns = [self.column(row, step) for row in range(self.factor)]
        numbers = [self.factor * column + row for row, column in enumerate(columns)]
        return [n for n in numbers if 0 <= n < self.n_samples]

    def order(self) -> Iterator[list[int]]:
        """`samples_at` of every step, first to last."""
        return (self.samples_at(step) for step in range(self.n_steps))

    def complete(self, step: int) -> int:
        """Samples from the beginning that are all there once `step` steps are done.

        Any number of steps will do; below 0 counts as 0.
        """
        drawn = (max(0, self.column(row, step)) for row in range(self.factor))  # columns of a row
        missing = (self.factor * column + row for row, column in enumerate(drawn))
        return min(self.n_samples, *missing)


def dependencies(n: int, factor: int, horizon: int, n_samples: int) -> NDArray[np.int64]:
    """Find all samples that sample n may depend on: the rule of section 4.1, word by word.

    Sample (s, i) sees its own row before column i, and rows z < s up to column i + horizon.

    Parameters
    ----------
    n : int
        Number of the sample, from 0.
    factor, horizon, n_samples : int
        As in `Schedule`.

    Returns
    -------
    int64 array [number of samples seen]
        Their numbers, sorted.

    Raises
    ------
    InputError
        If a number is too small or there is no such sample.
    """
    _check(n_samples, factor, horizon)
    _check_sample(n, n_samples)
    numbers = np.arange(n_samples, dtype=np.int64)  # [n_samples], and so the next two
    rows, columns = numbers % factor, numbers // factor
    row, column = n % factor, n // factor
    own = (rows == row) & (columns < column)
    earlier = (rows < row) & (columns <= column + horizon)
    seen: NDArray[np.int64] = numbers[own | earlier]
    return seen


# --- helpers ---


def row_temperature(temperature: float, row: int, factor: int) -> float:
    """Temperature that a row is drawn at, for one of the utterance.

    The first row at that of the utterance, the last at its cube, those between at powers between;
    1 is 1 for all. Rows are filled in between those above: what a late one has of chance is noise
    that no spectrum shapes, most of all at high frequencies, so what is to be safer than the model
    is to be most so there (docs/subscale.md has what it brings).

    Parameters
    ----------
    temperature : above 0
    row : 0 to `factor` - 1
    factor : rows of the utterance
    """
    if not row:
        return temperature
    power = 1.0 + 2.0 * row / (factor - 1)
    return math.exp(min(max(power * math.log(temperature), -_EXTREME), _EXTREME))


def _check(
    n_samples: int = 0,
    factor: int = 1,
    horizon: int = 0,
    slice_columns: int = 1,
    slices_ahead: int = 0,
) -> None:
    for name, value, least in (
        ("number of samples", n_samples, 0),
        ("subscale factor (rows)", factor, 1),
        ("horizon (columns seen ahead)", horizon, 0),
        ("width of a slice (columns)", slice_columns, 1),
        ("number of slices ahead", slices_ahead, 0),
    ):
        if value < least:
            raise InputError(f"The {name} is {value}; it must be {least} or more.")


def _check_sample(n: int, n_samples: int) -> None:
    if not 0 <= n < n_samples:
        raise InputError(f"There is no sample {n}; the utterance has {n_samples}, counted from 0.")
