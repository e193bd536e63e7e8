"""What a subscale model is besides its cell: rows, and the network between them."""

from __future__ import annotations

from dataclasses import dataclass

PREDICTION_SIZE = 2  # values of the mel's prediction: itself, and how large its error will be
MAX_PREDICTED_FROM = 256  # samples; the work of a frame grows with their cube


@dataclass(frozen=True, kw_only=True)
class SubscaleConfig:
    """How an utterance is made as a batch of interleaved rows (docs/subscale.md).

    Row s holds the samples n = factor * i + s, i being their column. A network of residual blocks
    over columns, dilated 1, 2, 4, ..., looks at the rows before: its first layer at columns
    i - reach to i + reach, all of it together `horizon` columns to either side.
    """

    factor: int  # rows, B of Kalchbrenner et al. 2018; 1: one row that has none before it
    horizon: int  # columns that a row sees ahead of its own in the rows before it, their F
    channels: int  # width of the network
    blocks: int  # of the network; together they reach 2**blocks - 1 columns
    # columns on each side from which the mel predicts a sample (`mel_prediction`); 0: it does not
    prediction_reach: int = 0

    @property
    def reach(self) -> int:
        """Columns on each side that the first layer reads."""
        return self.horizon + 1 - (1 << self.blocks)

    @property
    def heard_size(self) -> int:
        """Values that the cell hears of the rows before: of the network, then of the prediction."""
        return self.channels + (PREDICTION_SIZE if self.prediction_reach else 0)

    @property
    def dilations(self) -> tuple[int, ...]:
        """Distance, in columns, between the three taps of each block."""
        return tuple(1 << i for i in range(self.blocks))

    def problems(self, hop_length: int, conditioned: bool, convention: bool) -> list[str]:
        """What is impossible about it, a sentence each, with a mel and a known convention of it."""
        reach, heard = self.prediction_reach, self.factor * (2 * self.prediction_reach + 1)
        need = (
            (1 <= self.factor <= 64, f"subscale factor is {self.factor}, must be 1 to 64"),
            (0 <= self.horizon <= 4096, f"horizon is {self.horizon}, must be 0 to 4096"),
            (self.channels > 0, f"subscale channels is {self.channels}, must be positive"),
            (0 <= self.blocks <= 12, f"subscale blocks is {self.blocks}, must be 0 to 12"),
            (
                not 0 <= self.blocks <= 12 or 2**self.blocks - 1 <= max(0, self.horizon),
                f"{self.blocks} subscale blocks reach 2**{self.blocks} - 1 columns, more than "
                f"the horizon of {self.horizon} allows",
            ),
            (
                not conditioned or self.factor < 1 or hop_length % self.factor == 0,
                f"hop_length {hop_length} is not a multiple of the subscale factor {self.factor}",
            ),
            (
                reach == 0 or 0 < reach <= self.horizon,
                f"prediction_reach is {reach}, must be 0 to the horizon of {self.horizon}",
            ),
            (
                heard <= MAX_PREDICTED_FROM,
                f"prediction_reach is {reach}: {heard} samples of {self.factor} rows are too many "
                f"to predict one from, expected at most {MAX_PREDICTED_FROM}",
            ),
            (
                reach == 0 or convention,
                f"prediction_reach is {reach}, but a mel of no known convention predicts nothing",
            ),
        )
        return [sentence for ok, sentence in need if not ok]
