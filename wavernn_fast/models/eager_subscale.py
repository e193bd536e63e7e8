"""Subscale models in plain PyTorch: the slow reference beside the engine's batches of rows.

Row s holds the samples n = B i + s (`SubscaleConfig`). Drawn freely, each row runs `horizon` + 1
columns behind the one before it, so whatever its network hears has been drawn one step earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..mel_prediction import GAIN, Prediction
from ..subscale_config import SubscaleConfig
from .eager import EagerDual, _categorical

if TYPE_CHECKING:
    from torch import Tensor

_PREDICTED_AT_ONCE = 64  # frames: some MB

Places = Sequence[tuple[int, int]]  # (row, column) of samples drawn in one step


class EagerSubscale(EagerDual):
    """Dual-softmax core over rows, and the network that hears the rows before a row."""

    @property
    def subscale(self) -> SubscaleConfig:
        """Sizes of rows and network."""
        assert self.config.subscale is not None
        return self.config.subscale

    # -- drawing -----------------------------------------------------------------------------------

    def _draw(self, part: int, logits: Tensor, places: Places) -> Tensor:
        """Draw coarse (part 0) or fine (1) halves of a step; a test may draw by another rule.

        Parameters
        ----------
        part : 0 or 1
        logits : [batch, places, 256]
        places : (row, column) of each

        Returns
        -------
        int64 [batch, places] in 0 .. 255
        """
        return _categorical(logits.flatten(0, 1)).view(logits.shape[:2])

    def _collect(
        self, n_steps: int, mel: Tensor, aux: Tensor, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        import torch

        batch, rows, ahead = len(mel), self.subscale.factor, self.subscale.horizon
        columns = -(-n_steps // rows)
        samples = torch.zeros(batch, rows, columns, dtype=torch.int64)
        logits = torch.zeros(batch, rows, columns, 512 if keep else 0, dtype=self.dtype)
        around = torch.zeros(batch, rows, columns + 2 * ahead, dtype=self.dtype)
        h = torch.zeros(batch, rows, self.config.hidden_size, dtype=self.dtype)
        last = torch.full((batch, rows, 2), self.config.first_input, dtype=self.dtype)
        predictions = self._predictions(mel[0])  # all hear the same
        for places in _schedule(n_steps, self.subscale):
            s, i = (list(numbers) for numbers in zip(*places, strict=True))
            now = self._conditions_at(places, mel, aux, around)
            if predictions is not None:
                now.append(self._predicted_at(places, around, predictions))
            (h[:, s], last[:, s]), drawn, step_logits = self._step_of_rows(
                (h[:, s], last[:, s]), now, places
            )
            samples[:, s, i] = drawn
            around[:, s, [column + ahead for column in i]] = _amplitude(drawn, self.dtype)
            if keep:
                logits[:, s, i] = step_logits
        drawn, logits = (x.transpose(1, 2).flatten(1, 2)[:, :n_steps] for x in (samples, logits))
        return drawn, logits if keep else None

    def _conditions_at(
        self, places: Places, mel: Tensor, aux: Tensor, around: Tensor
    ) -> list[Tensor]:
        """Conditioning [batch, places, ...] of a step; around [batch, rows, columns + 2 F]."""
        wide = 2 * self.subscale.horizon + 1
        heard = self._heard([(row, around[:, :, i : i + wide]) for row, i in places])[:, :, 0]
        n = [self.subscale.factor * i + row for row, i in places]
        return [*([mel[:, n], aux[:, n]] if self.config.n_mels else []), heard]

    def _predicted_at(self, places: Places, around: Tensor, predictions: Prediction) -> Tensor:
        """What the mel predicts of the samples of a step: [batch, places, 2]."""
        import torch

        wide = 2 * self.subscale.horizon + 1
        windows = [(row, around[:, :, i : i + wide], i) for row, i in places]
        return torch.cat([self._predicted(*window, predictions) for window in windows], dim=1)

    def _step_of_rows(
        self, state: tuple[Tensor, Tensor], now: list[Tensor], places: Places
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Run `_step` with [batch, places, ...] in place of [N, ...]."""
        shape = state[0].shape[:2]

        def draw(part: int, logits: Tensor) -> Tensor:
            return self._draw(part, logits.view(*shape, -1), places).flatten()

        h, last = (x.flatten(0, 1) for x in state)
        h, last, drawn, logits = self._step(h, last, [x.flatten(0, 1) for x in now], draw)
        state = h.view(*shape, -1), last.view(*shape, -1)
        return state, drawn.view(shape), logits.view(*shape, -1)

    # -- following ---------------------------------------------------------------------------------

    def _forced(self, samples: Tensor, mel: Tensor, aux: Tensor) -> Tensor:
        import torch

        count, rows, ahead = len(samples), self.subscale.factor, self.subscale.horizon
        missing = -count % rows  # samples that the last column lacks

        def by_row(values: Tensor) -> Tensor:  # [n, ...] -> [rows, columns, ...]
            padding = values.new_zeros(missing, *values.shape[1:])
            whole = torch.cat([values, padding])
            return whole.view(-1, rows, *values.shape[1:]).transpose(0, 1)

        silence = samples.new_zeros(1, rows, ahead)
        own = by_row(_amplitude(samples, self.dtype))[None]
        around = torch.cat([silence, own, silence], dim=2)
        heard = self._heard([(row, around) for row in range(rows)])[0]
        now = [by_row(torch.cat([mel, aux], dim=1))] if self.config.n_mels else []
        now.append(heard)
        predictions = self._predictions(mel)
        if predictions is not None:
            every = [self._predicted(row, around, 0, predictions) for row in range(rows)]
            now.append(torch.cat(every))
        logits = self._follow(by_row(samples), now)
        return logits.transpose(0, 1).flatten(0, 1)[:count]

    # -- the network -------------------------------------------------------------------------------

    def _heard(self, windows: Sequence[tuple[int, Tensor]]) -> Tensor:
        """What rows hear of the rows before them.

        Parameters
        ----------
        windows : (row s, amplitudes [N, rows, n + 2 horizon]) of each

        Returns
        -------
        [N, windows, n, channels]
        """
        import torch
        from torch.nn.functional import conv1d

        x = torch.stack([self._first_layer(*window) for window in windows], dim=1)
        shape, x = x.shape[:2], x.flatten(0, 1)  # [N * windows, channels, ...]
        for i, distance in enumerate(self.subscale.dilations):
            name = f"subscale.blocks.{i}"
            w1, b1, w2, b2 = (
                self._tensors[f"{name}.{end}"]
                for end in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
            )
            inner = torch.relu(conv1d(x, w1, b1, dilation=distance))
            x = x[:, :, distance:-distance] + conv1d(inner, w2[:, :, None], b2)
        return x.view(*shape, *x.shape[1:]).transpose(2, 3)

    def _predictions(self, mel: Tensor) -> Prediction | None:
        """What the mel [n, n_mels] of samples predicts, frame by frame; None if nothing."""
        import torch

        from .subscale import prediction_on  # which needs torch

        if not self.subscale.prediction_reach:
            return None
        prediction = prediction_on(self.config, mel.device)
        frames = mel[:: self.config.hop_length].double()
        firsts = range(0, len(frames), _PREDICTED_AT_ONCE)
        parts = [prediction.of(frames[i : i + _PREDICTED_AT_ONCE]) for i in firsts]
        return Prediction(*(torch.cat(both).to(self.dtype) for both in zip(*parts, strict=True)))

    def _predicted(self, row: int, around: Tensor, first: int, predictions: Prediction) -> Tensor:
        """What the mel predicts of the samples of a row from column `first` on: [N, n, 2].

        `around` [N, rows, n + 2 horizon] holds amplitudes of their columns and of those around.
        """
        import torch

        ahead, reach = self.subscale.horizon, self.subscale.prediction_reach
        near = around[:, :, ahead - reach : around.shape[2] - ahead + reach]
        near = near.unfold(2, 2 * reach + 1, 1).transpose(1, 2).flatten(2)  # [N, n, heard]
        columns = first + torch.arange(near.shape[1])
        frames = columns * self.subscale.factor // self.config.hop_length
        p = GAIN * (near * predictions.weights[frames, row]).sum(dim=2)
        return torch.stack([p, predictions.error[frames, row].expand_as(p)], dim=2)

    def _first_layer(self, row: int, around: Tensor) -> Tensor:
        """Amplitudes [N, rows, m] -> [N, channels, m - 2 reach]."""
        from torch.nn.functional import conv1d

        weight = self._tensors["subscale.input.weight"][row]
        bias = self._tensors["subscale.input.bias"][row]
        if row == 0:
            return bias[:, None].expand(len(around), -1, around.shape[2] - 2 * self.subscale.reach)
        return conv1d(around[:, :row], weight[:, :row], bias)


def _amplitude(samples: Tensor, dtype: Any) -> Tensor:
    """Samples 256 c + f as the network hears them, in [-1, 1)."""
    values: Tensor = (samples.to(dtype) - 32768.0) / 32768.0
    return values


def _schedule(n_samples: int, subscale: SubscaleConfig) -> Sequence[Places]:
    """(row, column) of the samples drawn in each step."""
    rows, lag = subscale.factor, subscale.horizon + 1
    counts = [len(range(row, n_samples, rows)) for row in range(rows)]  # columns of each row
    steps = max(count + lag * row for row, count in enumerate(counts) if count)
    every = (
        [(row, k - lag * row) for row in range(rows) if 0 <= k - lag * row < counts[row]]
        for k in range(steps)
    )
    return [places for places in every if places]
